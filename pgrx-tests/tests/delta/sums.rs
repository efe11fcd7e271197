//! Sums: updates and inserts on several nodes at once.

use std::thread;

use meld_cluster_tests::{Cluster, Plan, compare, mesh, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL)";

pub fn start(name: &str, nodes: usize) -> Cluster {
    let cluster = Plan::new(name, nodes).start_mesh();
    cluster.batch(TABLE);
    cluster.batch("SELECT meld.delta_add_column('t', 'n')");
    cluster.batch("SELECT meld.repset_add_table('default', 't')");
    cluster
}

/// The counters by id, the same on all nodes.
#[track_caller]
pub fn counters(cluster: &Cluster) -> String {
    settle::settle(cluster);
    compare::equal(cluster);
    cluster.node(1).value("SELECT coalesce(string_agg(concat(id, ':', n), ' ' ORDER BY id), '') FROM t")
}

#[test]
fn updates_at_the_same_time_add_up() {
    let cluster = start("delta_updates", 3);
    cluster.node(1).batch("INSERT INTO t SELECT g, 'start', 100 FROM generate_series(1, 3) g");
    settle::settle(&cluster);
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed}");
    let added: Vec<[i32; 3]> = thread::scope(|scope| {
        let writers: Vec<_> = cluster
            .nodes()
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed.wrapping_add(node.place as u64));
                    let mut client = node.client();
                    let mut added = [0; 3];
                    for round in 0..150 {
                        let (row, amount) = (random.random_range(0..3), random.random_range(-5..10));
                        let sql = match random.random_range(0..4) {
                            0 => format!("UPDATE t SET v = 'n{} {round}', n = n + {amount} WHERE id = {}", node.place, row + 1),
                            1 => format!(
                                "BEGIN; UPDATE t SET n = n + 1000 WHERE id = {id}; ROLLBACK; BEGIN; UPDATE t SET n = n + {amount} WHERE id = {id}; COMMIT",
                                id = row + 1
                            ),
                            2 => format!(
                                "INSERT INTO t VALUES ({}, 'x', 7) ON CONFLICT (id) DO UPDATE SET n = t.n + {amount}",
                                row + 1
                            ),
                            _ => format!("UPDATE t SET n = n + {amount} WHERE id = {}", row + 1),
                        };
                        client.batch_execute(&sql).expect("an update");
                        added[row as usize] += amount;
                    }
                    added
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let sum = |row: usize| 100 + added.iter().map(|node| node[row]).sum::<i32>();
    assert_eq!(counters(&cluster), format!("1:{} 2:{} 3:{}", sum(0), sum(1), sum(2)), "seed {seed}");
    cluster.finish();
}

#[test]
fn who_loses_the_row_has_added_all_the_same() {
    let cluster = start("delta_loser", 3);
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    n1.batch("INSERT INTO t VALUES (1, 'start', 10), (2, 'start', 10)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("UPDATE t SET v = 'n1', n = n + 1");
    n2.batch("UPDATE t SET v = 'n2', n = n + 20 WHERE id = 1");
    n3.batch("UPDATE t SET v = 'n3' WHERE id = 1; UPDATE t SET n = n * 2 WHERE id = 2");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:31 2:21");
    assert_eq!(n1.value::<String>("SELECT v FROM t WHERE id = 1"), "n3");
    cluster.finish();
}

#[test]
fn inserts_of_one_key_add_up() {
    let cluster = start("delta_inserts", 3);
    mesh::disconnect(&cluster);
    for node in cluster.nodes() {
        node.batch(&format!("INSERT INTO t VALUES (1, 'n{}', {})", node.place, 10 * node.place));
    }
    cluster.node(1).batch("UPDATE t SET n = n + 1");
    mesh::reconnect(&cluster);
    assert_eq!(counters(&cluster), "1:61");
    cluster.finish();
}

#[test]
fn rows_of_partitions_add_up_and_move() {
    let cluster = Plan::new("delta_partitions", 2).start_mesh();
    cluster.batch(
        "CREATE TABLE root (id int, part int, n int NOT NULL, PRIMARY KEY (id, part)) PARTITION BY RANGE (part);
         CREATE TABLE leaf1 PARTITION OF root FOR VALUES FROM (0) TO (10);
         CREATE TABLE leaf2 (n int NOT NULL, part int NOT NULL, id int NOT NULL);
         ALTER TABLE root ATTACH PARTITION leaf2 FOR VALUES FROM (10) TO (20)",
    );
    cluster.batch("SELECT meld.delta_add_column('root', 'n')");
    cluster.batch("SELECT meld.repset_add_table('default', 'root')");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO root VALUES (1, 1, 10), (2, 2, 20)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("UPDATE root SET n = n + 1; UPDATE root SET part = 15, n = n + 1 WHERE id = 1");
    n2.batch("UPDATE root SET n = n + 5 WHERE id = 2");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    let rows: String = n2.value("SELECT string_agg(concat(id, '@', part, ':', n), ' ' ORDER BY id) FROM root");
    assert_eq!(rows, "1@15:12 2@2:26");
    // back onto a key that was left before
    n2.batch("UPDATE root SET part = 1, n = n + 1 WHERE id = 1");
    settle::settle(&cluster);
    compare::equal(&cluster);
    assert_eq!(n1.value::<i32>("SELECT n FROM root WHERE id = 1 AND part = 1"), 13);
    cluster.finish();
}

#[test]
fn every_type_adds_up() {
    let cluster = Plan::new("delta_types", 2).start_mesh();
    cluster.batch(
        "CREATE TABLE t (id int PRIMARY KEY, a smallint NOT NULL, b bigint NOT NULL, c real NOT NULL,
         d double precision NOT NULL, e numeric(20,2) NOT NULL, f money NOT NULL, g numeric NOT NULL)",
    );
    for column in ["a", "b", "c", "d", "e", "f", "g"] {
        cluster.batch(&format!("SELECT meld.delta_add_column('t', '{column}')"));
    }
    cluster.batch("SELECT meld.repset_add_table('default', 't')");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    n1.batch("INSERT INTO t VALUES (1, -5, 9000000000000000000, 0.5, 0.25, 1.10, '$1.10', 1.5)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch(
        "UPDATE t SET a = a + 7, b = b - 1, c = c + 0.25, d = d * 3, e = e + 0.01, f = f + '$0.05'::money, g = g + 10",
    );
    n2.batch("UPDATE t SET a = a - 9, b = b + 5, c = c - 2, d = d + 8, e = e - 3.33, f = f * 2, g = g * 2");
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    let row: String = n1.value("SELECT t::text FROM t");
    assert_eq!(row, "(1,-7,9000000000000000004,-1.25,8.75,-2.22,$2.25,13.0)");
    cluster.finish();
}
