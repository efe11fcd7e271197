//! Many transactions that can't be applied, among many that can, also while processes die.

use std::time::Instant;

use meld_cluster_tests::{Cluster, Plan, compare, fault, mesh, settle, wait};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0)";

fn start(name: &str) -> Cluster {
    let cluster =
        Plan::new(name, 2).setting("meld.exception_retry_delay = 0").setting("meld.exception_retries = 1").start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    cluster.node(2).batch("ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')");
    cluster.expect_log("violates check constraint \"not_bad\"");
    cluster.expect_log("was parked as");
    cluster
}

/// How many good transactions there are for each bad one.
const GOOD_FOR_EACH: i64 = 100;

/// Transactions `from` to `to`, each of which adds to a counter as well; each hundredth one is bad.
fn write(cluster: &Cluster, from: i64, to: i64) {
    cluster.node(1).batch(&format!(
        "DO $$ BEGIN FOR i IN {from}..{to} LOOP
            INSERT INTO t VALUES (i, CASE WHEN i % {GOOD_FOR_EACH} = 0 THEN 'bad' ELSE 'good' END, i);
            UPDATE t SET n = n + 1 WHERE id = 0;
            COMMIT;
         END LOOP; END $$"
    ));
}

/// `MELD_POISON` is the number of bad ones: 1000 shows what is promised, the default is for every day.
#[test]
fn all_good_ones_are_applied_and_all_bad_ones_parked_and_replayed() {
    let bad: i64 = std::env::var("MELD_POISON").ok().and_then(|count| count.parse().ok()).unwrap_or(50);
    let cluster = start("poison");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (0, 'sum', 0)");
    let all = bad * GOOD_FOR_EACH;
    write(&cluster, 1, all);
    let began = Instant::now();
    settle::settle(&cluster);
    eprintln!("{all} transactions, {bad} of them bad, applied in {:?}", began.elapsed());
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t WHERE v = 'good'"), all - bad);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.parked_transaction"), bad);
    assert_eq!(n2.value::<i64>("SELECT count(DISTINCT remote_xid::text) FROM meld.parked_transaction"), bad);
    assert_eq!(n2.value::<i32>("SELECT n FROM t WHERE id = 0"), i32::try_from(all - bad).unwrap());
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad");
    let began = Instant::now();
    let row = &n2.rows("SELECT replayed, still_parked FROM meld.parked_replay()", &[])[0];
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (bad, 0));
    eprintln!("replayed in {:?}", began.elapsed());
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT n FROM t WHERE id = 0"), i32::try_from(all).unwrap());
    cluster.finish();
}

/// The apply worker and the server die again and again while bad transactions are tried and parked.
#[test]
fn kill_9_while_bad_ones_are_parked() {
    let cluster = start("poison_killed");
    fault::expect_lost_links(&cluster);
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (0, 'sum', 0)");
    let (rounds, each) = (6, 20 * GOOD_FOR_EACH);
    for round in 0..rounds {
        write(&cluster, round * each + 1, (round + 1) * each);
        let parked = || n2.try_value::<i64>("SELECT count(*) FROM meld.parked_transaction").unwrap_or(0);
        let enough = round * each / GOOD_FOR_EACH + 3 * (round + 1);
        wait::until_value("some to be parked", parked, |parked| *parked >= enough);
        if round % 2 == 0 {
            let pid = "SELECT pid FROM meld.worker_status WHERE worker_kind = 'apply'";
            if let Some(pid) = n2.try_value::<i32>(pid) {
                fault::kill_backend_if_there(n2, pid.unsigned_abs());
            }
        } else {
            fault::kill_postmaster(n2);
            fault::start(n2);
        }
        n2.forget_session();
    }
    let all = rounds * each;
    let bad = all / GOOD_FOR_EACH;
    settle::settle(&cluster);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM t WHERE v = 'good'"), all - bad);
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.parked_transaction"), bad);
    assert_eq!(n2.value::<i64>("SELECT count(DISTINCT remote_xid::text) FROM meld.parked_transaction"), bad);
    let log = "SELECT count(*) FROM meld.exception_log e JOIN meld.parked_transaction p ON p.id = e.parked_id";
    assert_eq!(n2.value::<i64>(log), 2 * bad, "both operations of each, once");
    assert_eq!(n2.value::<i64>("SELECT count(*) FROM meld.exception_log"), 2 * bad);
    n2.batch("ALTER TABLE t DROP CONSTRAINT not_bad");
    assert_eq!(n2.value::<i64>("SELECT replayed FROM meld.parked_replay()"), bad);
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n2.value::<i32>("SELECT n FROM t WHERE id = 0"), i32::try_from(all).unwrap());
    cluster.finish();
}
