//! pgbench's TPC-B on three nodes at once, with the hard death of a postmaster in the middle.
//!
//! Balances lose updates by design of last-update-wins. So the judgement is: all nodes hold the same rows with the same
//! stamps, no acknowledged transaction is missing in the history table, and every lost update is in `meld.resolutions`.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MELD_TPCB_SECONDS` | length of the run | 10 |
//! | `MELD_TPCB_SCALE` | pgbench scale | 1 |

use std::time::Duration;

use meld_cluster_tests::wait::{self, Look};
use meld_cluster_tests::{Plan, audit, compare, fault, pgbench, settle};

const WATCHED: [(&str, &str); 3] =
    [("pgbench_accounts", "aid"), ("pgbench_tellers", "tid"), ("pgbench_branches", "bid")];
/// Eight clients in all.
const CLIENTS: [u32; 3] = [3, 3, 2];

fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn three_nodes_end_equal_with_a_crash_in_the_middle() {
    let seconds = u64::from(variable("MELD_TPCB_SECONDS", 10));
    let cluster = Plan::new("tpcb", 3).setting("max_wal_size = '4GB'").start_mesh();
    fault::expect_lost_links(&cluster);
    pgbench::prepare(&cluster, variable("MELD_TPCB_SCALE", 1));
    compare::equal(&cluster);
    audit::watch(&cluster, &WATCHED);

    let half = Duration::from_secs(seconds.div_ceil(2));
    let whole = Duration::from_secs(seconds);
    let (n1, n2, n3) = (cluster.node(1), cluster.node(2), cluster.node(3));
    let running = [pgbench::start(n1, CLIENTS[0], whole), pgbench::start(n3, CLIENTS[2], whole)];
    let doomed = pgbench::start(n2, CLIENTS[1], whole);
    let begun = std::time::Instant::now();
    wait::until("the middle of the run", half + wait::DEADLINE, || {
        let done: i64 = n2.value("SELECT count(*) FROM pgbench_history");
        if begun.elapsed() >= half && done > 100 { Look::Done(()) } else { Look::Seen(format!("{done} transactions")) }
    });
    fault::kill_postmaster(n2);
    pgbench::wait(doomed);
    fault::start(n2);
    assert!(pgbench::wait(pgbench::start(n2, CLIENTS[1], half)), "pgbench on n2");
    for clients in running {
        assert!(pgbench::wait(clients), "pgbench");
    }

    settle::settle(&cluster);
    compare::equal(&cluster);
    let audit = audit::check(&cluster, &WATCHED);
    let transactions: i64 = n1.value("SELECT count(*) FROM pgbench_history");
    eprintln!("{transactions} transactions, {audit:?}");
    assert_eq!(audit.updates as i64, 3 * transactions, "each transaction updates three rows and writes one of history");
    cluster.finish();
}
