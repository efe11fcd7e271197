//! Random transactions on three real nodes, with faults: at the end all are equal and every write is accounted for.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MELD_FUZZ_SEEDS` | how many seeds, or the seeds themselves with commas between them | one |
//! | `MELD_FUZZ_SECONDS` | how long each of them writes | 12 |

mod faults;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use meld_cluster_tests::mesh::Proxied;
use meld_cluster_tests::{Cluster, Node, Plan, account, compare, fault, mesh, settle, stamps};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use workload::{DEFINITIONS, TABLES, Told, Writer};

/// How far one node's clock is ahead, in some of the runs.
const AHEAD_MS: i64 = 5000;
/// Writers on each node.
const WRITERS: u64 = 2;

#[test]
fn random_transactions_and_faults_end_equal() {
    let seconds = std::env::var("MELD_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in seeds() {
        eprintln!("MELD_FUZZ_SEEDS={seed},");
        run(seed, Duration::from_secs(seconds));
    }
}

fn seeds() -> Vec<u64> {
    let text = std::env::var("MELD_FUZZ_SEEDS").unwrap_or_else(|_| "1".into());
    let listed = text.split(',').filter_map(|seed| seed.trim().parse().ok());
    if text.contains(',') {
        return listed.collect();
    }
    let count = text.trim().parse().unwrap_or(1);
    // short ones, which are easy to pass on
    (0..count).map(|_| u64::from(rand::random::<u32>())).collect()
}

fn run(seed: u64, duration: Duration) {
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Plan::new("fuzz", 3).own_clocks().setting("max_prepared_transactions = 20").start();
    if seed.is_multiple_of(2) {
        // its transactions are applied five seconds late, and so is all that follows them
        let node = cluster.node(random.random_range(1..=3));
        node.set_clock(AHEAD_MS);
        eprintln!("the clock of {} is ahead", node.name);
    }
    let links = Proxied::connect_all(&cluster);
    expect_faults(&cluster);
    let has_counters = prepare(&cluster);
    let told = Told::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            for number in 0..WRITERS {
                let mut writer = Writer::new(node, node.place as u64 * 10 + number, seed, &told);
                let stop = &stop;
                scope.spawn(move || writer.write_until(stop));
            }
        }
        // a run that fails must not leave the writers running for ever
        let outcome =
            catch_unwind(AssertUnwindSafe(|| faults::provoke(&cluster, &links, &told, &mut random, duration)));
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
    cluster.nodes().iter().for_each(|node| end_prepared(node, &mut random));
    settle::settle_decisions(&cluster);
    judge(&cluster, &told, has_counters);
    cluster.finish();
}

/// Makes the tables; whether there are delta columns.
fn prepare(cluster: &Cluster) -> bool {
    mesh::replicate(cluster, DEFINITIONS);
    let has_counters: bool =
        cluster.node(1).value("SELECT to_regprocedure('meld.delta_add_column(regclass, name)') IS NOT NULL");
    if has_counters {
        cluster.batch("SELECT meld.delta_add_column('counter', 'n')");
    }
    account::watch(cluster, &TABLES);
    has_counters
}

#[track_caller]
fn judge(cluster: &Cluster, told: &Told, has_counters: bool) {
    compare::equal(cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let keys: Vec<_> = (1..=12).map(|id| json!({ "id": id })).collect();
    TABLES.iter().for_each(|table| stamps::agree(&nodes, table, &keys));
    let acknowledged = told.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    let account = account::check(cluster, &TABLES, &["large"], &acknowledged);
    let counters = if has_counters { account::counters_are_exact(cluster, "counter") } else { 0 };
    eprintln!("{account:?}, {counters} counters");
    for node in cluster.nodes() {
        let kinds: Option<String> = node.value(
            "SELECT string_agg(concat(conflict_type, ' ', count), ', ' ORDER BY count DESC) FROM
             (SELECT conflict_type, count(*) FROM meld.resolutions GROUP BY 1) q",
        );
        eprintln!("{}: {}", node.name, kinds.unwrap_or_default());
    }
    told.assert_no_surprise();
    assert!(account.versions > 100, "hardly anything was written");
}

/// Transactions whose session was lost between the two phases.
fn end_prepared(node: &Node, random: &mut StdRng) {
    for name in node.values::<String>("SELECT gid FROM pg_prepared_xacts ORDER BY 1") {
        let how = if random.random_bool(0.5) { "COMMIT" } else { "ROLLBACK" };
        node.batch(&format!("{how} PREPARED '{name}'"));
    }
}

/// What nodes may write in their logs when links break, and apply and users race for rows.
fn expect_faults(cluster: &Cluster) {
    fault::expect_lost_links(cluster);
    for node in cluster.nodes() {
        fault::expect_crash(node);
        for words in [
            "WARNING:  clock of node ",
            "deadlock detected",
            // a stalled link, to connect by or to fetch by
            "timed out after",
            "could not receive data",
            "terminating background worker",
            "connection to client lost",
            "canceling statement due to statement timeout",
        ] {
            node.expect_log(words);
        }
    }
}
