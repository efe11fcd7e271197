//! Counters of rows that are deleted, and come back.

use std::thread;

use meld_cluster_tests::{Cluster, compare, mesh, settle, wait};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::sums::{counters, start};

fn start_with_row(name: &str) -> Cluster {
    let cluster = start(name, 3);
    cluster.node(1).batch("INSERT INTO t VALUES (1, 'start', 10)");
    settle::settle(&cluster);
    cluster
}

#[test]
fn an_update_that_wins_over_a_delete_brings_the_counter_back() {
    let cluster = start_with_row("delta_back");
    mesh::disconnect(&cluster);
    cluster.node(1).batch("UPDATE t SET n = n + 100; DELETE FROM t");
    cluster.node(2).batch("UPDATE t SET v = 'later', n = n + 5");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:115");
    cluster.finish();
}

#[test]
fn what_was_added_to_a_deleted_row_does_not_count_for_the_next_one() {
    let cluster = start_with_row("delta_residue");
    mesh::disconnect(&cluster);
    cluster.node(2).batch("UPDATE t SET v = 'earlier', n = n + 5");
    cluster.node(1).batch("DELETE FROM t");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "");
    cluster.node(3).batch("INSERT INTO t VALUES (1, 'new', 3)");
    assert_eq!(counters(&cluster), "1:3");
    cluster.node(1).batch("UPDATE t SET n = n + 1");
    assert_eq!(counters(&cluster), "1:4");
    cluster.finish();
}

#[test]
fn two_nodes_may_start_a_deleted_row_anew_at_once() {
    let cluster = start_with_row("delta_anew");
    cluster.node(2).batch("DELETE FROM t");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    cluster.node(1).batch("INSERT INTO t VALUES (1, 'n1', 3)");
    cluster.node(2).batch("INSERT INTO t VALUES (1, 'n2', 4)");
    cluster.node(3).batch("INSERT INTO t VALUES (1, 'n3', 5); UPDATE t SET n = n + 30");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:42");
    cluster.finish();
}

/// The third node has added to the row before it hears of the delete, and of who starts it anew.
#[test]
fn who_is_late_adds_to_the_new_row() {
    let cluster = start_with_row("delta_late");
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::disconnect(&cluster);
    n3.batch("UPDATE t SET v = 'late', n = n + 7");
    n1.batch("DELETE FROM t");
    mesh::set_enabled(n2, n1, true);
    settle::settle_link(n1, n2);
    n2.batch("INSERT INTO t VALUES (1, 'anew', 1)");
    mesh::reconnect(&cluster);
    // what n2 made void was 10; the 7 that it had not heard of count
    assert_eq!(counters(&cluster), "1:8");
    cluster.finish();
}

#[test]
fn delete_and_insert_in_one_transaction_are_an_update() {
    let cluster = start_with_row("delta_both");
    mesh::disconnect(&cluster);
    cluster.node(1).batch("BEGIN; DELETE FROM t; INSERT INTO t VALUES (1, 'n1', 4); COMMIT");
    cluster.node(2).batch("UPDATE t SET n = n + 1");
    cluster.node(3).batch(
        "BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; UPDATE t SET n = n + 100; SAVEPOINT b; DELETE FROM t; RELEASE b;
         SAVEPOINT c; INSERT INTO t VALUES (1, 'lost', 9); ROLLBACK TO c; INSERT INTO t VALUES (1, 'n3', 110); DELETE FROM t;
         INSERT INTO t VALUES (1, 'n3', 210); COMMIT",
    );
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:205");
    cluster.finish();
}

#[test]
fn a_change_of_the_key_moves_the_counter() {
    let cluster = start_with_row("delta_key");
    mesh::disconnect(&cluster);
    cluster.node(1).batch("UPDATE t SET id = 2, n = n + 1");
    cluster.node(2).batch("UPDATE t SET v = 'later', n = n + 5");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:15 2:11");
    // onto a key that was deleted before
    cluster.node(3).batch("DELETE FROM t WHERE id = 1");
    settle::settle(&cluster);
    cluster.node(1).batch("UPDATE t SET id = 1, n = n + 1 WHERE id = 2");
    assert_eq!(counters(&cluster), "1:12");
    // and back within one transaction
    cluster.node(2).batch("BEGIN; UPDATE t SET id = 7; UPDATE t SET id = 1, n = n + 1; COMMIT");
    assert_eq!(counters(&cluster), "1:13");
    cluster.finish();
}

#[test]
fn an_update_may_come_before_its_row() {
    let cluster = start("delta_early", 3);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    mesh::set_enabled(n3, n1, false);
    n1.batch("INSERT INTO t VALUES (1, 'start', 10)");
    settle::settle_link(n1, n2);
    n2.batch("UPDATE t SET v = 'n2', n = n + 5");
    settle::settle_link(n2, n3);
    assert_eq!(n3.value::<i32>("SELECT n FROM t"), 5);
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:15");
    // an older delete and an update that loses to a tombstone
    mesh::set_enabled(n3, n2, false);
    n2.batch("UPDATE t SET n = n + 100");
    settle::settle_link(n2, n1);
    n1.batch("DELETE FROM t");
    settle::settle_link(n1, n3);
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "");
    n2.batch("INSERT INTO t VALUES (1, 'again', 1)");
    assert_eq!(counters(&cluster), "1:1");
    cluster.finish();
}

/// When all have confirmed a delete, its author says that its residue does not count, and nothing of it is kept.
#[test]
fn a_residue_is_given_up_when_all_have_confirmed_the_delete() {
    let cluster = start_with_row("delta_given_up");
    cluster.node(2).batch("DELETE FROM t");
    settle::settle(&cluster);
    for node in cluster.nodes() {
        let kept =
            || node.value::<i64>("SELECT (SELECT count(*) FROM meld.tombstone) + (SELECT count(*) FROM meld.void)");
        wait::until_value("nothing to be kept", kept, |kept| *kept == 0);
    }
    cluster.node(3).batch("INSERT INTO t VALUES (1, 'new', 3)");
    assert_eq!(counters(&cluster), "1:3");
    cluster.finish();
}

#[test]
fn a_truncate_is_refused() {
    let cluster = start_with_row("delta_truncate");
    let refused = cluster.node(1).error("TRUNCATE t");
    assert_eq!(refused.sqlstate, "0A000");
    assert!(refused.hint.contains("DELETE"), "{refused:?}");
    cluster.batch("SELECT meld.delta_remove_column('t', 'n')");
    cluster.node(1).batch("TRUNCATE t");
    assert_eq!(counters(&cluster), "");
    cluster.finish();
}

/// Everything at once on a few keys: all nodes end with the same counters, whatever came in which order.
#[test]
fn all_nodes_agree_after_everything() {
    let cluster = start("delta_everything", 3);
    cluster.expect_log("deadlock detected");
    cluster.expect_log("there is no transaction in progress");
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed}");
    for round in 0..3 {
        if round == 1 {
            mesh::disconnect(&cluster);
        }
        thread::scope(|scope| {
            for node in cluster.nodes() {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed.wrapping_add(node.place as u64 + 10 * round));
                    let mut client = node.client();
                    for step in 0..120 {
                        let (id, n) = (random.random_range(1..5), random.random_range(-9..10));
                        let name = format!("n{} {round} {step}", node.place);
                        let sql = match random.random_range(0..8) {
                            0 | 1 => format!("DELETE FROM t WHERE id = {id}"),
                            2 | 3 => format!("INSERT INTO t VALUES ({id}, '{name}', {n}) ON CONFLICT DO NOTHING"),
                            4 => format!(
                                "BEGIN; DELETE FROM t WHERE id = {id}; INSERT INTO t VALUES ({id}, '{name}', {n}) ON CONFLICT DO NOTHING; COMMIT"
                            ),
                            5 => format!("UPDATE t SET v = '{name}', n = n + {n} WHERE id = {id}"),
                            6 => format!("INSERT INTO t VALUES ({id}, '{name}', {n}) ON CONFLICT (id) DO UPDATE SET n = t.n + {n}"),
                            _ => format!("UPDATE t SET n = n + {n} WHERE id = {id}"),
                        };
                        // a deadlock with apply, or a key that apply has put meanwhile, has the user try again
                        if client.batch_execute(&sql).is_err() {
                            client.batch_execute("ROLLBACK").expect("a session that goes on");
                        }
                    }
                });
            }
        });
        if round == 1 {
            mesh::reconnect(&cluster);
        }
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}
