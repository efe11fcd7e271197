//! The history of conflicts as an operator has it: how loud a conflict is in the server log, and how long it is kept.

use meld_cluster_tests::log_scan::{self, Entry};
use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, wait};

fn start(name: &str, settings: &[&str]) -> Cluster {
    let plan = settings.iter().fold(Plan::new(name, 2), |plan, line| plan.setting(line));
    let cluster = plan.start_mesh();
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v int)");
    cluster
}

fn set(node: &Node, setting: &str) {
    node.batch(&format!("ALTER SYSTEM SET {setting}"));
    node.value::<bool>("SELECT pg_reload_conf()");
}

/// Both nodes write one key, apart.
fn clash(cluster: &Cluster, key: i32) {
    mesh::disconnect(cluster);
    cluster.batch(&format!("INSERT INTO t VALUES ({key}, (SELECT node_id FROM meld.local_node))"));
    mesh::reconnect(cluster);
}

fn lines(node: &Node) -> Vec<Entry> {
    log_scan::entries_with(&node.server.log, "conflict detected on relation \"public.t\"")
}

#[test]
fn conflicts_are_as_loud_as_they_are_set_to_be() {
    let cluster = start("loud", &[]);
    let n2 = cluster.node(2);
    n2.expect_log("conflict detected on relation");
    n2.expect_log("invalid value for parameter \"meld.conflict_log_level\"");
    for (key, level, logged) in [(1, "log", Some("LOG")), (2, "warning", Some("WARNING")), (3, "debug1", None)] {
        let before = lines(n2).len();
        set(n2, &format!("meld.conflict_log_level = {level}"));
        clash(&cluster, key);
        compare::equal(&cluster);
        let severities: Vec<String> = lines(n2)[before..].iter().map(|line| line.severity.to_string()).collect();
        assert_eq!(severities, logged.as_slice(), "at {level}");
        // how loud it is changes nothing else
        let told = format!("SELECT count(*) FROM meld.resolutions WHERE key = '{{\"id\": {key}}}'");
        assert_eq!(n2.value::<i64>(&told), 1);
    }
    for wrong in ["error", "fatal", "off"] {
        let refused = n2.client().batch_execute(&format!("ALTER SYSTEM SET meld.conflict_log_level = {wrong}"));
        assert!(refused.is_err(), "{wrong} would end the transaction that tells of the conflict");
    }
    cluster.finish();
}

/// Counts what each statement takes out of the history.
const PIECES: &str = "CREATE TABLE piece (size bigint);
    CREATE FUNCTION note_piece() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.piece SELECT count(*) FROM gone HAVING count(*) > 0; RETURN NULL; END $$;
    CREATE TRIGGER pieces AFTER DELETE ON meld.resolutions REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION note_piece()";

const AGED: &str = "SELECT count(*) FROM meld.resolutions WHERE log_time < now() - interval '5 days'";

#[test]
fn the_history_is_kept_for_as_long_as_it_is_set_to_be() {
    let cluster = start("retention", &["meld.resolutions_retention = -1"]);
    let n2 = cluster.node(2);
    clash(&cluster, 1);
    // what was written long ago
    n2.batch(
        "INSERT INTO meld.resolutions (log_time, nspname, relname, conflict_type, conflict_resolution, remote_origin,
             remote_commit_ts, remote_commit_lsn, remote_xid)
         SELECT now() - make_interval(days => 10, secs => i), 'public', 't', 'insert_exists', 'skip', 1, now(), '0/1', '3'
           FROM generate_series(1, 2500) i",
    );
    n2.batch(PIECES);
    let first: i64 = n2.value("SELECT id FROM meld.resolutions ORDER BY log_time LIMIT 1");
    let mut client = n2.client();
    let mut reader = client.transaction().expect("begin");
    reader.execute("SELECT FROM meld.resolutions WHERE id = $1 FOR UPDATE", &[&first]).expect("lock");

    set(n2, "meld.resolutions_retention = '20 d'");
    clash(&cluster, 2);
    assert_eq!(n2.value::<i64>(AGED), 2500, "younger than that");

    set(n2, "meld.resolutions_retention = '9 d'");
    wait::until_equal("entries of age", 1, || n2.value::<i64>(AGED));
    let pieces: Vec<i64> = n2.values("SELECT size FROM piece");
    assert_eq!(pieces, [1000, 1000, 499]);
    let kept = "SELECT count(*) FROM meld.resolutions WHERE relname = 't' AND conflict_resolution <> 'skip'";
    assert_eq!(n2.value::<i64>(kept), 2, "those of today");

    // one that is read is left for the next time
    assert_eq!(n2.value::<i64>(&format!("SELECT count(*) FROM meld.resolutions WHERE id = {first}")), 1);
    reader.rollback().expect("rollback");
    wait::until_equal("entries of age", 0, || n2.value::<i64>(AGED));

    set(n2, "meld.resolutions_retention = '1 s'");
    wait::until_equal("entries", 0, || n2.value::<i64>("SELECT count(*) FROM meld.resolutions"));
    cluster.finish();
}
