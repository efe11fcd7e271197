//! Layouts beyond one plain table in one database per server: partitions, triggers, two nodes on one server.

use meld_cluster_tests::node::literal;
use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Plan, compare, mesh, settle};

#[test]
fn partitions_replicate() {
    let cluster = Plan::new("partitions", 2).start_mesh();
    cluster.batch(
        "CREATE TABLE p (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
         SELECT meld.repset_add_table('default', 'p')",
    );
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO p SELECT i, i % 2 + 1, 'n1' FROM generate_series(1, 10) i");
    n2.batch("INSERT INTO p SELECT i, i % 2 + 1, 'n2' FROM generate_series(11, 20) i");
    settle::settle(&cluster);
    compare::equal(&cluster);
    n1.batch("UPDATE p SET part = 3 - part WHERE id > 15; UPDATE p SET v = 'x' WHERE id IN (1, 12)");
    n2.batch("DELETE FROM p WHERE id = 2");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM p"), 19);
    n1.batch("TRUNCATE p1");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM p1"), 0);
    cluster.finish();
}

/// Users' triggers fire where a change is made, and in apply only if they are told to; foreign keys do not fire there.
#[test]
fn triggers_fire_in_apply_only_when_told_to() {
    let cluster = Plan::new("triggers", 2).start_mesh();
    mesh::replicate(
        &cluster,
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE noted (id bigint PRIMARY KEY DEFAULT (random() * 1e15)::bigint, kind text, t int)",
    );
    cluster.batch(
        "SELECT meld.repset_remove_table('default', 'noted');
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.noted (kind, t) VALUES (TG_NAME || ' ' || TG_OP || ' ' || TG_WHEN, coalesce(NEW.id, OLD.id));
             RETURN coalesce(NEW, OLD); END $$;
         CREATE TRIGGER plain AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER replica BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE t ENABLE ALWAYS TRIGGER always; ALTER TABLE t ENABLE REPLICA TRIGGER replica",
    );
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (1, 'x'); UPDATE t SET v = 'y'; DELETE FROM t");
    settle::settle(&cluster);
    let noted = "SELECT string_agg(kind, ', ' ORDER BY kind) FROM noted";
    assert_eq!(
        n1.value::<String>(noted),
        "always DELETE AFTER, always INSERT AFTER, always UPDATE AFTER, \
         plain DELETE AFTER, plain INSERT AFTER, plain UPDATE AFTER"
    );
    assert_eq!(
        n2.value::<String>(noted),
        "always DELETE AFTER, always INSERT AFTER, always UPDATE AFTER, replica INSERT BEFORE, replica UPDATE BEFORE"
    );
    cluster.finish();
}

/// What apply knows of a table, it knows from one transaction to the next: until that changes.
#[test]
fn a_table_that_changes_between_two_transactions() {
    let cluster = Plan::new("changing", 2).start_mesh();
    cluster.batch("CREATE DOMAIN small AS int CHECK (VALUE < 1000)");
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, n small, v text, a int[])");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    let mut id = 0;
    let mut arrives = |change: &str, shown: &str, expected: &str| {
        if !change.is_empty() {
            n2.batch(change);
        }
        // the first is the one that meets the change, the others are those that find it known
        for _ in 0..3 {
            id += 1;
            n1.batch(&format!("INSERT INTO t VALUES ({id}, {id}, 'v{id}', ARRAY[{id}])"));
            settle::settle_link(n1, n2);
            let row: Option<String> = n2.try_value(&format!("SELECT {shown}::text FROM t WHERE id = {id}"));
            assert_eq!(row, Some(expected.replace('#', &id.to_string())), "after {change}");
        }
    };
    arrives("", "(n, v, a)", "(#,v#,{#})");
    arrives("ALTER TABLE t ADD COLUMN more text DEFAULT 'new'", "(n, v, a, more)", "(#,v#,{#},new)");
    arrives("ALTER TABLE t ALTER COLUMN more SET DEFAULT 'other'", "(v, more)", "(v#,other)");
    arrives("ALTER TABLE t ALTER COLUMN n TYPE numeric(9, 1)", "(n, v)", "(#.0,v#)");
    arrives("ALTER TABLE t DROP COLUMN more", "t", "(#,#.0,v#,{#})");
    arrives("ALTER TABLE t ALTER COLUMN a TYPE text USING a::text", "(n, a)", "(#.0,{#})");
    arrives(
        "ALTER TABLE t RENAME TO away; CREATE TABLE t (v text, a int[], n bigint, id bigint PRIMARY KEY)",
        "t",
        "(v#,{#},#,#)",
    );
    arrives(
        "BEGIN; CREATE SCHEMA other; ALTER TABLE t SET SCHEMA other; ALTER TABLE away RENAME TO t; COMMIT",
        "(id, n, v)",
        "(#,#.0,v#)",
    );
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM other.t"), 3);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.parked_transaction"), 0);
    cluster.finish();
}

/// Two databases of one server are two nodes like any others.
#[test]
fn two_nodes_on_one_server() {
    let cluster = Plan::new("one_server", 1).start();
    let node = cluster.node(1);
    let dsn = |database: &str| node.dsn().replace("dbname=app", &format!("dbname={database}"));
    let mut clients = Vec::new();
    for (id, database) in [(1, "first"), (2, "second")] {
        node.batch(&format!("CREATE DATABASE {database}"));
        let mut client = node.server.connect(database).expect("connect");
        client
            .batch_execute(&format!(
                "CREATE EXTENSION meld; SELECT meld.node_create('{database}', {}, node_id => {id});
                 CREATE TABLE t (id int PRIMARY KEY, v text); SELECT meld.repset_add_all_tables('default', '{{public}}')",
                literal(&dsn(database))
            ))
            .expect("node");
        clients.push(client);
    }
    let [first, second] = &mut clients[..] else { unreachable!("two of them") };
    first.batch_execute(&format!("SELECT meld.sub_create('sub', {})", literal(&dsn("second")))).expect("subscribe");
    second.batch_execute(&format!("SELECT meld.sub_create('sub', {})", literal(&dsn("first")))).expect("subscribe");
    for client in [&mut *first, &mut *second] {
        client.batch_execute("SELECT meld.sub_wait_for_sync('sub')").expect("wait");
    }
    first.batch_execute("INSERT INTO t VALUES (1, 'first')").expect("write");
    second.batch_execute("INSERT INTO t VALUES (2, 'second')").expect("write");
    for client in [first, second] {
        wait::until("both rows", wait::DEADLINE, || {
            let row = client.query_one("SELECT string_agg(v, ' ' ORDER BY id) FROM t", &[]).expect("read");
            let rows: Option<String> = row.get(0);
            if rows.as_deref() == Some("first second") { Look::Done(()) } else { Look::Seen(format!("{rows:?}")) }
        });
    }
    cluster.finish();
}
