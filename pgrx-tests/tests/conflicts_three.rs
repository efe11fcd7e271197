//! Conflicts on three nodes: whatever the order in which the third one hears of them, all end equal.

use meld_cluster_tests::{Cluster, Plan, compare, mesh, resolutions, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0)";

fn start(name: &str) -> Cluster {
    let cluster = Plan::new(name, 3).start_mesh();
    mesh::replicate(&cluster, TABLE);
    cluster
}

/// Connects all nodes again; the third hears of `order[0]` before it hears of `order[1]`.
fn reconnect_third(cluster: &Cluster, order: [usize; 2]) {
    let n3 = cluster.node(3);
    for place in order {
        mesh::set_enabled(n3, cluster.node(place), true);
        settle::settle_link(cluster.node(place), n3);
    }
    mesh::reconnect(cluster);
}

#[test]
fn the_third_node_may_hear_of_a_conflict_in_any_order() {
    let cluster = start("third_node");
    let [n1, n2, n3] = [cluster.node(1), cluster.node(2), cluster.node(3)];
    for (round, order) in [[1, 2], [2, 1]].into_iter().enumerate() {
        let k = round as i32 * 10;
        n1.batch(&format!("INSERT INTO t SELECT {k} + i, 'base', 0 FROM generate_series(2, 4) i"));
        settle::settle(&cluster);
        mesh::disconnect(&cluster);
        n1.batch(&format!("INSERT INTO t VALUES ({k} + 1, 'n1', 1); UPDATE t SET v = 'n1' WHERE id = {k} + 2"));
        n1.batch(&format!("DELETE FROM t WHERE id = {k} + 3"));
        n2.batch(&format!(
            "UPDATE t SET v = 'n2' WHERE id IN ({k} + 2, {k} + 3); INSERT INTO t VALUES ({k} + 1, 'n2', 2)"
        ));
        n1.batch(&format!("UPDATE t SET v = 'n1 again' WHERE id = {k} + 4"));
        reconnect_third(&cluster, order);
        compare::equal(&cluster);
        let rows: String = n3.value(&format!(
            "SELECT string_agg(concat(id - {k}, ' ', v), ', ' ORDER BY id) FROM t WHERE id BETWEEN {k} AND {k} + 9"
        ));
        assert_eq!(rows, "1 n2, 2 n2, 3 n2, 4 n1 again", "order {order:?}");
        let kinds: Vec<String> =
            resolutions::of(n3, "t").into_iter().map(|r| format!("{} {}", r.conflict, r.resolution)).collect();
        let expected = match order {
            [1, 2] => {
                ["insert_exists apply_remote", "update_origin_differs apply_remote", "update_deleted apply_remote"]
            }
            _ => ["insert_exists keep_local", "update_origin_differs keep_local", "delete_exists keep_local"],
        };
        for kind in expected {
            assert!(kinds.iter().any(|k| k == kind), "order {order:?}: no {kind} in {kinds:?}");
        }
        n3.batch("DELETE FROM meld.resolutions");
    }
    cluster.finish();
}

#[test]
fn three_writers_of_one_row() {
    let cluster = start("three_writers");
    for (round, order) in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]].into_iter().enumerate() {
        mesh::disconnect(&cluster);
        for place in order {
            cluster.node(place).batch(&format!("INSERT INTO t VALUES ({round}, 'n{place}', {place})"));
        }
        mesh::reconnect(&cluster);
        compare::equal(&cluster);
        mesh::disconnect(&cluster);
        let winner: String = cluster.node(1).value(&format!("SELECT v FROM t WHERE id = {round}"));
        assert_eq!(winner, format!("n{}", order[2]));
        for place in [order[1], order[2], order[0]] {
            cluster.node(place).batch(&format!("UPDATE t SET v = 'u{place}' WHERE id = {round}"));
        }
        mesh::reconnect(&cluster);
        compare::equal(&cluster);
        let winner: String = cluster.node(2).value(&format!("SELECT v FROM t WHERE id = {round}"));
        assert_eq!(winner, format!("u{}", order[0]));
    }
    cluster.finish();
}

/// Random inserts and updates of a few keys, with the links now and then cut.
#[test]
fn random_writes_end_equal() {
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed}");
    let cluster = start("random");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..6 {
        let apart = random.random_bool(0.5);
        if apart {
            mesh::disconnect(&cluster);
        }
        for _ in 0..60 {
            let node = cluster.node(random.random_range(1..=3));
            let (id, n) = (random.random_range(1..20), random.random_range(0..1000));
            node.batch(&format!(
                "INSERT INTO t VALUES ({id}, '{} {round}', {n}) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = {n}",
                node.name
            ));
        }
        if apart {
            mesh::reconnect(&cluster)
        } else {
            settle::settle(&cluster)
        }
        compare::equal(&cluster);
    }
    cluster.finish();
}
