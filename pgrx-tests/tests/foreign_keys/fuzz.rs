//! Random deletes and inserts of parents and children on all nodes, in each mode that converges: no row is ever seen
//! without its parent, and all nodes end with the same rows and stamps.
//!
//! `MELD_SEED` makes a run again; `MELD_FUZZ_SECONDS` is how long each mode is written to (4). With `MELD_DIARY` the nodes
//! write down all that is done to a row, and what differs at the end comes with its story.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::diary;
use crate::orphans::{self, Reference};

/// A chain of three with all that a delete can do to children, one by another unique key, a table that refers to itself,
/// a key of two columns, a ring, and partitions on both sides.
const TABLES: &str = "
    CREATE TABLE a (id int PRIMARY KEY, code text UNIQUE, n int NOT NULL DEFAULT 0);
    CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a ON DELETE CASCADE, v text);
    CREATE TABLE c (id int PRIMARY KEY, b int NOT NULL REFERENCES b, v text);
    CREATE TABLE s (id int PRIMARY KEY, a int REFERENCES a ON DELETE SET NULL, v text);
    CREATE TABLE d (id int PRIMARY KEY, code text NOT NULL REFERENCES a (code) ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
    CREATE TABLE pair (x int, y text, PRIMARY KEY (x, y));
    CREATE TABLE of_pair (id int PRIMARY KEY, y text, x int, FOREIGN KEY (x, y) REFERENCES pair MATCH FULL
        DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE r1 (id int PRIMARY KEY, r2 int);
    CREATE TABLE r2 (id int PRIMARY KEY, r1 int REFERENCES r1 DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE r1 ADD FOREIGN KEY (r2) REFERENCES r2 DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY LIST (id);
    CREATE TABLE whole_1 PARTITION OF whole FOR VALUES IN (1, 2);
    CREATE TABLE whole_2 PARTITION OF whole DEFAULT;
    CREATE TABLE of_whole (id int PRIMARY KEY, w int NOT NULL REFERENCES whole) PARTITION BY HASH (id);
    CREATE TABLE of_whole_1 PARTITION OF of_whole FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE of_whole_2 PARTITION OF of_whole FOR VALUES WITH (MODULUS 2, REMAINDER 1)";

const fn reference(
    child: &'static str,
    columns: &'static str,
    parent: &'static str,
    referred: &'static str,
) -> Reference {
    Reference { child, columns, parent, referred }
}

const REFERENCES: [Reference; 9] = [
    reference("b", "a", "a", "id"),
    reference("c", "b", "b", "id"),
    reference("s", "a", "a", "id"),
    reference("d", "code", "a", "code"),
    reference("tree", "up", "tree", "id"),
    reference("of_pair", "x, y", "pair", "x, y"),
    reference("r1", "r2", "r2", "id"),
    reference("r2", "r1", "r1", "id"),
    reference("of_whole", "w", "whole", "id"),
];

fn statement(random: &mut StdRng, name: &str) -> String {
    let (id, other) = (random.random_range(1..5), random.random_range(1..5));
    let child = random.random_range(1..9);
    let x = random.random_range(0..3);
    let none = "ON CONFLICT DO NOTHING";
    match random.random_range(0..24) {
        0 | 1 => format!("INSERT INTO a VALUES ({id}, 'k{other}', 5) {none}"),
        2 | 3 => format!("DELETE FROM a WHERE id = {id}"),
        4 => format!("UPDATE a SET n = n + 1 WHERE id = {id}"),
        5 => format!(
            "UPDATE a SET code = 'k{other}' WHERE id = {id} AND NOT EXISTS (SELECT FROM a WHERE code = 'k{other}')"
        ),
        6 | 7 => format!("INSERT INTO b SELECT {child}, {id}, '{name}' FROM a WHERE id = {id} {none}"),
        8 => format!("UPDATE b SET v = '{name}' WHERE id = {child}"),
        9 | 10 => format!("INSERT INTO c SELECT {id}{child}, {child}, '{name}' FROM b WHERE id = {child} {none}"),
        11 => format!("DELETE FROM c WHERE id > {id}0; DELETE FROM b WHERE id = {child}"),
        12 => format!("INSERT INTO s SELECT {child}, id, '{name}' FROM a WHERE id = {id} {none}"),
        13 => format!("INSERT INTO d SELECT {child}, code FROM a WHERE id = {id} {none}"),
        14 => format!(
            "INSERT INTO tree SELECT {child}, {id} FROM tree WHERE id = {id} {none}; INSERT INTO tree VALUES ({id}) {none}"
        ),
        15 => format!("DELETE FROM tree WHERE id = {child}"),
        16 => format!("UPDATE tree SET up = {other} WHERE id = {id} AND EXISTS (SELECT FROM tree WHERE id = {other})"),
        17 => {
            format!("INSERT INTO of_pair VALUES ({child}, 'y', {x}) {none}; INSERT INTO pair VALUES ({x}, 'y') {none}")
        }
        18 => format!("DELETE FROM of_pair WHERE x = {x}; DELETE FROM pair WHERE x = {x}"),
        19 => format!("DELETE FROM pair WHERE x = {x}"),
        20 => format!("INSERT INTO r1 VALUES ({id}, {id}) {none}; INSERT INTO r2 VALUES ({id}, {id}) {none}"),
        21 => format!("DELETE FROM r1 WHERE id = {id}; DELETE FROM r2 WHERE id = {id}"),
        22 => format!("INSERT INTO whole VALUES ({id}) {none}; INSERT INTO of_whole VALUES ({child}, {id}) {none}"),
        _ => match random.random_bool(0.5) {
            true => format!("DELETE FROM whole WHERE id = {id}"),
            false => format!("DELETE FROM of_whole WHERE w = {id}; DELETE FROM whole WHERE id = {id}"),
        },
    }
}

fn write(node: &Node, seed: u64, stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client = node.client();
    let mut step = 0;
    while !stop.load(Ordering::SeqCst) {
        step += 1;
        let count = if random.random_bool(0.2) { 3 } else { 1 };
        let all: Vec<String> = (0..count).map(|_| statement(&mut random, &format!("{} {step}", node.name))).collect();
        // foreign keys, unique keys that apply has filled meanwhile, deadlocks with it: the user gives up
        let _ = client.batch_execute(&all.join("; "));
    }
}

fn phase(cluster: &Cluster, seed: u64, duration: Duration) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks: Vec<_> =
            cluster.nodes().iter().map(|node| orphans::watch(scope, node, &REFERENCES, &stop)).collect();
        for node in cluster.nodes() {
            let (seed, stop) = (seed.wrapping_add(node.place as u64), &stop);
            scope.spawn(move || write(node, seed, stop));
        }
        let end = Instant::now() + duration;
        while Instant::now() < end && !looks.iter().any(|look| look.is_finished()) {
            meld_cluster_tests::wait::pause();
        }
        stop.store(true, Ordering::SeqCst);
        let looks: Vec<u64> = looks.into_iter().map(|look| look.join().expect("no row without its parent")).collect();
        assert!(looks.iter().all(|&looks| looks > 10), "{looks:?}");
    });
}

fn run(mode: &str) {
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let seconds = std::env::var("MELD_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    eprintln!("MELD_SEED={seed} ({mode})");
    let cluster =
        Plan::new(&format!("fk_fuzz_{mode}"), 3).setting(&format!("meld.foreign_key_conflict = {mode}")).start_mesh();
    mesh::replicate(&cluster, TABLES);
    cluster.batch("SELECT meld.delta_add_column('a', 'n')");
    diary::keep(&cluster);
    let words = ["violates foreign key constraint", "duplicate key value", "deadlock detected"];
    // a link that is stopped in the middle of a fetch
    let fetch = ["fetch>*canceling statement", "fetch>*connection to client lost"];
    for words in words.into_iter().chain(fetch) {
        cluster.expect_log(words);
    }
    let part = Duration::from_secs(seconds) / 2;
    phase(&cluster, seed, part);
    // then apart, and together again
    mesh::disconnect(&cluster);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in cluster.nodes() {
            let (seed, stop) = (seed.wrapping_add(100 + node.place as u64), &stop);
            scope.spawn(move || write(node, seed, stop));
        }
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            meld_cluster_tests::wait::pause();
        }
        stop.store(true, Ordering::SeqCst);
    });
    for (subscriber, provider) in cluster.links() {
        mesh::set_enabled(subscriber, provider, true);
    }
    phase(&cluster, seed.wrapping_add(200), part);
    come_to_rest(&cluster);
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    if let Err(differences) = compare::compare(&nodes, None, compare::Aspect::RowsAndStamps) {
        diary::tell(&cluster, &differences);
        panic!("the nodes of \"{}\" differ\n{differences}", cluster.name);
    }
    orphans::assert_none(&cluster, &REFERENCES);
    for node in cluster.nodes() {
        let kinds: Option<String> = node.value(
            "SELECT string_agg(concat(conflict_type, ' ', conflict_resolution, ' ', count), ', ' ORDER BY count DESC)
             FROM (SELECT conflict_type, conflict_resolution, count(*) FROM meld.resolutions GROUP BY 1, 2) q",
        );
        eprintln!("{}: {}", node.name, kinds.unwrap_or_default());
    }
    cluster.finish();
}

/// Settles until no node decides anything any more: what one writes may have another write, down the chain.
fn come_to_rest(cluster: &Cluster) {
    let decided = || -> Vec<i64> {
        cluster.nodes().iter().map(|node| node.value("SELECT count(*) FROM meld.resolutions")).collect()
    };
    let mut before = decided();
    for _ in 0..20 {
        settle::settle(cluster);
        settle::settle(cluster);
        let now = decided();
        if now == before {
            return;
        }
        before = now;
    }
    panic!("the nodes did not come to rest");
}

#[test]
fn keep_parent() {
    run("keep_parent");
}

#[test]
fn drop_child() {
    run("drop_child");
}

/// What would leave a row alone is parked: the nodes do not end alike, but no row is ever without its parent.
#[test]
fn exception() {
    let seed: u64 = std::env::var("MELD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MELD_SEED={seed} (exception)");
    let cluster = Plan::new("fk_fuzz_exception", 2)
        .setting("meld.foreign_key_conflict = exception")
        .setting("meld.exception_retries = 0")
        .start_mesh();
    mesh::replicate(&cluster, TABLES);
    for words in ["violates foreign key", "duplicate key", "deadlock detected", "without its parent", "was parked"] {
        cluster.expect_log(words);
    }
    phase(&cluster, seed, Duration::from_secs(3));
    settle::settle(&cluster);
    orphans::assert_none(&cluster, &REFERENCES);
    let parked = |node: &Node| node.value::<i64>("SELECT count(*) FROM meld.parked_transaction");
    assert!(cluster.nodes().iter().map(parked).sum::<i64>() > 0, "nothing was parked");
    cluster.finish();
}
