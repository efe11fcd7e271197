//! Partitions that come after their parent went into a replication set.

use meld_cluster_tests::{Node, Plan, compare, mesh, settle};

#[track_caller]
fn members(node: &Node) -> String {
    node.value(
        "SELECT coalesce(string_agg(set_reloid::text, ' ' ORDER BY set_reloid::text), '') FROM meld.replication_set_table",
    )
}

/// How many of the members have both of their triggers.
#[track_caller]
fn guarded(node: &Node) -> i64 {
    node.value(
        "SELECT count(*) FROM (SELECT tgrelid FROM pg_trigger JOIN meld.replication_set_table ON set_reloid = tgrelid \
         WHERE tgfoid IN ('meld.row_trigger()'::regprocedure, 'meld.truncate_trigger()'::regprocedure) \
         AND tgenabled = 'A' GROUP BY tgrelid HAVING count(*) = 2) t",
    )
}

#[test]
fn new_partitions_join_the_sets_of_their_parent_at_once() {
    let cluster = Plan::new("adopted", 1).start();
    let node = cluster.node(1);
    mesh::create_node(node);
    node.batch(
        "CREATE ROLE plain;
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE other (id int PRIMARY KEY) PARTITION BY RANGE (id);
         ALTER TABLE p OWNER TO plain; ALTER TABLE p1 OWNER TO plain;
         GRANT CREATE ON SCHEMA public TO plain;
         SELECT meld.repset_add_table('default', 'p')",
    );
    assert_eq!(members(node), "p1");
    // by somebody who has no rights on meld's tables
    node.batch("SET ROLE plain; CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200); RESET ROLE");
    assert_eq!(members(node), "p1 p2");
    node.batch(
        "CREATE TABLE p3 (id int PRIMARY KEY); ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300)",
    );
    // two levels, also attached as a whole
    node.batch(
        "CREATE TABLE q PARTITION OF p FOR VALUES FROM (300) TO (400) PARTITION BY RANGE (id);
         CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (300) TO (350);
         CREATE TABLE r (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (400) TO (450);
         ALTER TABLE p ATTACH PARTITION r FOR VALUES FROM (400) TO (500)",
    );
    node.batch(
        "SET session_replication_role = replica; CREATE TABLE p5 PARTITION OF p FOR VALUES FROM (500) TO (600);
                RESET session_replication_role",
    );
    assert_eq!(members(node), "p1 p2 p3 p5 q1 r1");
    assert_eq!(guarded(node), 6);
    node.batch("BEGIN; CREATE TABLE p6 PARTITION OF p FOR VALUES FROM (600) TO (700); ROLLBACK");
    node.batch(
        "CREATE TABLE o1 PARTITION OF other FOR VALUES FROM (0) TO (100); CREATE TABLE alone (id int PRIMARY KEY)",
    );
    assert_eq!(members(node), "p1 p2 p3 p5 q1 r1");

    // the first row is guarded
    node.batch(
        "BEGIN; CREATE TABLE p6 PARTITION OF p FOR VALUES FROM (600) TO (700);
                INSERT INTO p VALUES (600); COMMIT; DELETE FROM p WHERE id = 600",
    );
    assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.tombstone WHERE relid = 'p6'::regclass"), 1);

    // what can't be replicated is refused as a whole
    let error = node.error("CREATE UNLOGGED TABLE p7 PARTITION OF p FOR VALUES FROM (700) TO (800)");
    assert_eq!(error.sqlstate, "42809", "{error:?}");
    assert_eq!(node.value::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'p7'"), 0);

    // one that was taken out stays out; a detached one stays in until it is taken out
    node.batch("SELECT meld.repset_remove_table('default', 'p2'); ALTER TABLE p DETACH PARTITION p3");
    node.batch("CREATE TABLE p8 PARTITION OF p FOR VALUES FROM (800) TO (900)");
    assert_eq!(members(node), "p1 p3 p5 p6 p8 q1 r1");
    node.batch("SELECT meld.repset_add_table('default', 'p2'); SELECT meld.repset_remove_table('default', 'p3')");
    assert_eq!(members(node), "p1 p2 p5 p6 p8 q1 r1");

    node.batch("SELECT meld.repset_remove_table('default', 'p')");
    assert_eq!(members(node), "");
    node.batch("CREATE TABLE p9 PARTITION OF p FOR VALUES FROM (900) TO (1000)");
    assert_eq!(members(node), "");
    node.batch("SELECT meld.repset_add_table('default', 'p'); DROP TABLE p");
    assert_eq!(node.value::<i64>("SELECT count(*) FROM meld.replication_set_tree"), 0);
    cluster.finish();
}

#[test]
fn a_new_partition_replicates_and_has_the_counters_of_its_siblings() {
    let cluster = Plan::new("adopted_counters", 2).start_mesh();
    cluster.batch(
        "CREATE TABLE p (id int PRIMARY KEY, gone int, n int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         ALTER TABLE p DROP COLUMN gone;
         SELECT meld.repset_add_table('default', 'p');
         SELECT meld.delta_add_column('p', 'n');
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
    );
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.batch("INSERT INTO p VALUES (1, 0), (101, 0)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("UPDATE p SET n = n + 1");
    n2.batch("UPDATE p SET n = n + 10");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<String>("SELECT string_agg(n::text, ' ' ORDER BY id) FROM p"), "11 11");
    cluster.finish();
}
