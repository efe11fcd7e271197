//! The row trigger of replicated tables: there as long as a table is in a set, out of sight, in nobody's way, and put
//! right when somebody switches it off.

use meld_cluster_tests::node::DATABASE;
use meld_cluster_tests::template::SUPERUSER;
use meld_cluster_tests::{Node, Plan, mesh, resolutions, settle, wait};

const STATE: &str = "SELECT coalesce(string_agg(format('%s %s', tgrelid::regclass, tgenabled), ', ' \
     ORDER BY tgrelid::regclass::text), '') FROM pg_trigger WHERE tgfoid = 'meld.row_trigger()'::regprocedure";

#[track_caller]
fn state(node: &Node) -> String {
    node.value(STATE)
}

fn name_of(node: &Node, table: &str) -> String {
    node.value(&format!(
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND tgfoid = 'meld.row_trigger()'::regprocedure"
    ))
}

/// What one of PostgreSQL's programs prints about the node's database.
#[track_caller]
fn output(node: &Node, program: &str, args: &[&str]) -> String {
    let mut command = node.server.environment().program(program);
    command.env("PGHOST", node.server.sockets()).env("PGPORT", node.server.port().to_string());
    command.env("PGUSER", SUPERUSER).env("PGDATABASE", DATABASE).args(args);
    let done = command.output().expect(program);
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_trigger_follows_the_sets() {
    let cluster = Plan::new("trigger_sets", 1).start_mesh();
    let node = cluster.node(1);
    node.batch(
        "CREATE TABLE t (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         SELECT meld.repset_create('second')",
    );
    assert_eq!(state(node), "");
    node.batch("SELECT meld.repset_add_table('default', 't'); SELECT meld.repset_add_table('second', 't')");
    assert_eq!(state(node), "t A");
    node.batch("SELECT meld.repset_remove_table('default', 't')");
    assert_eq!(state(node), "t A", "still in the other set");
    node.batch("SELECT meld.repset_add_table('default', 'p', include_partitions => true)");
    assert_eq!(state(node), "p1 A, p2 A, t A", "leaves only");
    node.batch("ALTER TABLE p DETACH PARTITION p2");
    node.batch("SELECT meld.repset_remove_table('default', 'p', include_partitions => true)");
    assert_eq!(state(node), "p2 A, t A");
    node.batch("DROP TABLE p2");
    node.batch("SELECT meld.repset_drop('second')");
    assert_eq!(state(node), "");
    cluster.finish();
}

#[test]
fn nobody_sees_it_and_nothing_is_in_its_way() {
    let cluster = Plan::new("trigger_hidden", 1).start_mesh();
    let node = cluster.node(1);
    node.batch("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT meld.repset_add_table('default', 't')");
    let name = name_of(node, "t");
    let dump = output(node, "pg_dump", &["--schema-only"]);
    assert!(dump.contains("CREATE TABLE public.t"));
    assert!(!dump.contains("~~meld") && !dump.contains("row_trigger"), "{dump}");
    let shown = output(node, "psql", &["-X", "-c", "\\d t"]);
    assert!(shown.contains("PRIMARY KEY") && !shown.contains("~~meld"), "{shown}");
    node.batch("DROP TABLE t");
    node.batch("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT meld.repset_add_table('default', 't')");
    assert_ne!(name_of(node, "t"), name);
    node.batch("DROP EXTENSION meld");
    let left: i64 = node.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass");
    assert_eq!(left, 0);
    node.batch("INSERT INTO t VALUES (1, 'x'); UPDATE t SET v = 'y'; DELETE FROM t");
    cluster.finish();
}

#[test]
fn its_owner_is_refused_and_a_superuser_repaired() {
    let cluster = Plan::new("trigger_repair", 2).start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let (n1, n2) = (cluster.node(1), cluster.node(2));
    n1.batch("CREATE ROLE plain; GRANT CREATE ON SCHEMA public TO plain; ALTER TABLE t OWNER TO plain");
    let name = name_of(n1, "t");
    for statement in [
        format!("DROP TRIGGER \"{name}\" ON t"),
        format!("DROP TRIGGER IF EXISTS \"{name}\" ON public.t CASCADE"),
        format!("ALTER TRIGGER \"{name}\" ON t RENAME TO mine"),
    ] {
        for role in ["plain", SUPERUSER] {
            let error = n1.error(&format!("SET LOCAL ROLE {role}; {statement}"));
            assert_eq!(error.sqlstate, "2BP01", "{statement}: {error:?}");
            assert!(error.hint.contains("meld.repset_remove_table"), "{error:?}");
        }
    }
    let error = n1.error("SET LOCAL ROLE plain; ALTER TABLE t DISABLE TRIGGER ALL");
    assert_eq!(error.sqlstate, "42501", "{error:?}");
    for statement in [
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t DISABLE TRIGGER ALL; ALTER TABLE t ENABLE TRIGGER ALL",
        "ALTER TABLE t ENABLE REPLICA TRIGGER \"{}\"",
    ] {
        let statement = &statement.replace("{}", &name_of(n1, "t"));
        n1.batch(statement);
        wait::until_equal(statement, "t A".to_owned(), || state(n1));
    }
    // one that is gone comes back at the manager's next look
    n1.batch(
        "SET allow_system_table_mods = on; DELETE FROM pg_trigger WHERE tgfoid = 'meld.row_trigger()'::regprocedure",
    );
    wait::until_equal("trigger", "t A".to_owned(), || state(n1));
    // an error of another command passes the hook whole
    n1.batch("CREATE TABLE other (id int CONSTRAINT positive CHECK (id > 0))");
    let error = n1.try_batch("COPY other FROM PROGRAM 'echo -1'").expect_err("it breaks the constraint");
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!((error.table(), error.constraint()), (Some("other"), Some("positive")));
    assert_eq!(error.where_(), Some("COPY other, line 1: \"-1\""));
    // other triggers of the owner are his
    n1.batch(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER \"~~mine\" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TRIGGER \"~~mine\" ON t RENAME TO \"~~meld_1\"; DROP TRIGGER \"~~meld_1\" ON t",
    );
    n1.batch("INSERT INTO t VALUES (1, 'n1')");
    settle::settle(&cluster);
    n2.batch("UPDATE t SET v = 'n2'");
    settle::settle(&cluster);
    n1.batch("UPDATE t SET v = 'n1 again'");
    settle::settle(&cluster);
    assert!(resolutions::of(n2, "t").is_empty());
    cluster.finish();
}
