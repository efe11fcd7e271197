//! What a subscriber asks for: the row that another one refers to.

use meld_cluster_tests::{Plan, mesh};

#[test]
fn a_parent_is_found_by_any_unique_index() {
    let cluster = Plan::new("fk_fetch", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE TABLE p (id int, code varchar(10), a int, b text, n int NOT NULL DEFAULT 7, gone int,
             twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (id, code)) PARTITION BY LIST (code);
         ALTER TABLE p DROP COLUMN gone;
         CREATE TABLE p_x PARTITION OF p FOR VALUES IN ('x');
         CREATE TABLE \"P 'rest'\" PARTITION OF p DEFAULT;
         INSERT INTO p (id, code, a, b) VALUES (1, 'x', 3, 'three'), (2, 'y', 4, NULL);
         CREATE TABLE plain (id int PRIMARY KEY, day date UNIQUE, u int UNIQUE DEFERRABLE);
         INSERT INTO plain VALUES (1, '2026-02-03', 5), (2, NULL, NULL);
         CREATE ROLE plain_user; GRANT ALL ON plain TO plain_user",
    );
    let told = |table: &str, columns: &str, values: &str| -> String {
        node.value(&format!(
            "SELECT coalesce(string_agg(concat(part_relname, '.', column_name, CASE WHEN is_key THEN '!' END, '=',
                 convert_from(column_value, 'UTF8')), ' '), 'none')
             FROM meld.fetch_parent('public', '{table}', '{columns}', '{values}')"
        ))
    };
    assert_eq!(told("p", "{code,id}", "{x,1}"), "p_x.id!=1 p_x.code!=x p_x.a=3 p_x.b=three p_x.n=7");
    let rest = "P 'rest'";
    assert_eq!(told("p", "{id,code}", "{2,y}"), format!("{rest}.id!=2 {rest}.code!=y {rest}.a=4 {rest}.b= {rest}.n=7"));
    assert_eq!(told("p", "{id,code}", "{3,x}"), "none");
    node.batch("SET datestyle = 'German'");
    assert_eq!(told("plain", "{day}", "{2026-02-03}"), "plain.id!=1 plain.day=2026-02-03 plain.u=5");
    assert_eq!(told("plain", "{u}", "{5}"), "plain.id!=1 plain.day=2026-02-03 plain.u=5");
    node.batch("RESET datestyle");
    let code = |sql: &str| node.error(sql).sqlstate;
    assert_eq!(code("SELECT meld.fetch_parent('public', 'plain', '{u,id}', '{5,1}')"), "55000");
    assert_eq!(code("SELECT meld.fetch_parent('public', 'nothing', '{id}', '{1}')"), "42P01");
    assert_eq!(code("SELECT meld.fetch_parent('public', 'plain', '{id}', '{}')"), "22023");
    assert_eq!(code("SELECT meld.fetch_parent('public', 'plain', '{id}', '{one}')"), "22P02");
    assert_eq!(code("SET ROLE plain_user; SELECT meld.fetch_parent('public', 'plain', '{id}', '{1}')"), "42501");
    assert_eq!(
        code("BEGIN; INSERT INTO plain VALUES (3); SELECT meld.fetch_parent('public', 'plain', '{id}', '{3}')"),
        "25001"
    );
    cluster.finish();
}
