//! `cargo x bench snowflake`: what an id costs, beside the server's own ways to make a key. CPU time of the backend, as a
//! ratio of pairs; more than 1 is dearer than what it is compared with.

use super::{cost_of, median};
use crate::demo::node::Node;
use anyhow::Result;

const IDS: u32 = 500_000;
const ROWS: u32 = 100_000;

pub fn measure(node: &Node, pairs: usize) -> Result<()> {
    node.query("CREATE EXTENSION meld")?;
    node.query(&format!("SELECT meld.node_create('{}', '{}', node_id => {})", node.name, node.dsn(), node.node_id))?;
    node.query(
        "CREATE SEQUENCE plain; CREATE SEQUENCE cached CACHE 32; CREATE SEQUENCE flake;
         CREATE TABLE key_plain (id bigint PRIMARY KEY DEFAULT nextval('plain'), v int);
         CREATE TABLE key_cached (id bigint PRIMARY KEY DEFAULT nextval('cached'), v int);
         CREATE TABLE key_uuid (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v int);
         CREATE TABLE key_flake (id bigint PRIMARY KEY, v int)",
    )?;
    node.query("SELECT snowflake.convert_sequence_to_snowflake('flake')")?;
    node.query("ALTER TABLE key_flake ALTER id SET DEFAULT snowflake.nextval('flake')")?;
    let ids = |call: &str| format!("SELECT count({call}) FROM generate_series(1, {IDS});");
    let rows = |table: &str| format!("INSERT INTO {table} (v) SELECT i FROM generate_series(1, {ROWS}) i;");
    let flake = ids("snowflake.nextval('flake')");
    let works = [
        ("id / nextval", &flake, ids("nextval('plain')")),
        ("id / nextval, CACHE 32", &flake, ids("nextval('cached')")),
        ("id / gen_random_uuid", &flake, ids("gen_random_uuid()")),
        ("row / nextval", &rows("key_flake"), rows("key_plain")),
        ("row / nextval, CACHE 32", &rows("key_flake"), rows("key_cached")),
        ("row / gen_random_uuid", &rows("key_flake"), rows("key_uuid")),
    ];
    let before = "TRUNCATE key_plain, key_cached, key_uuid, key_flake;";
    println!("{:<30} {:>8} {:>12}   lowest and highest of {pairs} pairs", "", "median", "of an id");
    for (name, ours, theirs) in works {
        let (mut ratios, mut each) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
        for pair in 0..pairs {
            let cost = |work: &str| cost_of(node, before, work, false).map(|cost| cost.cpu);
            let (with, without) = if pair % 2 == 0 {
                let with = cost(ours)?;
                (with, cost(&theirs)?)
            } else {
                let without = cost(&theirs)?;
                (cost(ours)?, without)
            };
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
            each.push(with.as_secs_f64() * 1e9 / f64::from(if name.starts_with("id") { IDS } else { ROWS }));
        }
        let lowest = ratios.iter().copied().fold(f64::MAX, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        println!("{name:<30} {:>8.3} {:>9.0} ns   {lowest:.3} {highest:.3}", median(ratios), median(each));
    }
    Ok(())
}
