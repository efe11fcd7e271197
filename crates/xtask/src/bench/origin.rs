//! `cargo x bench origin`: what a node pays for its own writes to tables of a replication set. No subscriber is connected:
//! what decoding costs is another figure.

use super::{Cost, cost_of, median};
use crate::demo::node::Node;
use anyhow::Result;
use std::fmt::Write;
use std::time::Duration;

/// Rows of the tables that are changed as a whole.
const BULK_ROWS: u32 = 100_000;
const SMALL_TRANSACTIONS: u32 = 2_000;

/// A measurement. `{t}` stands for the table; its twin has the same definition and is in no set.
struct Work {
    name: &'static str,
    /// Makes both tables alike again.
    before: String,
    work: String,
    /// Of the targets: how much of the rate is kept, or how much more time it takes.
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    Rate(f64),
    Time(f64),
}

pub fn measure(node: &Node, pairs: usize) -> Result<()> {
    prepare(node)?;
    println!(
        "{:<30} {:>8} {:>8}  {:<13} {:>8}   lowest and highest of {pairs} pairs",
        "", "elapsed", "target", "", "CPU"
    );
    for work in works(&rows_file(node)) {
        let mut pairs_of_costs = Vec::with_capacity(pairs);
        let is_durable = matches!(work.target, Target::Rate(_));
        for pair in 0..pairs {
            let cost = |table: &str| {
                // what was kept before makes no run dearer than the one before
                node.query("TRUNCATE meld.tombstone")?;
                let fill = |text: &str| text.replace("{t}", table);
                cost_of(node, &fill(&work.before), &fill(&work.work), is_durable)
            };
            let (with, without) = if pair % 2 == 0 {
                let with = cost("replicated")?;
                (with, cost("plain")?)
            } else {
                let without = cost("plain")?;
                (cost("replicated")?, without)
            };
            pairs_of_costs.push((with, without));
        }
        let elapsed = ratios(&pairs_of_costs, work.target, |cost| cost.elapsed);
        let cpu = ratios(&pairs_of_costs, work.target, |cost| cost.cpu);
        let (sign, target) = match work.target {
            Target::Rate(target) => (">=", target),
            Target::Time(target) => ("<=", target),
        };
        let range = |ratios: &[f64]| {
            let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), &r| (low.min(r), high.max(r)));
            format!("{low:.3} {high:.3}")
        };
        println!(
            "{:<30} {:>8.3} {sign:>3} {target:<5.2} {:<13} {:>8.3}   {}",
            work.name,
            median(elapsed.clone()),
            range(&elapsed),
            median(cpu.clone()),
            range(&cpu)
        );
    }
    Ok(())
}

fn ratios(pairs: &[(Cost, Cost)], target: Target, time: impl Fn(&Cost) -> Duration) -> Vec<f64> {
    let ratio = |(with, without): &(Cost, Cost)| {
        let (with, without) = (time(with).as_secs_f64(), time(without).as_secs_f64());
        match target {
            Target::Rate(_) => without / with,
            Target::Time(_) => with / without,
        }
    };
    pairs.iter().map(ratio).collect()
}

fn prepare(node: &Node) -> Result<()> {
    node.query("CREATE EXTENSION meld")?;
    node.query(&format!("SELECT meld.node_create('{}', '{}', node_id => {})", node.name, node.dsn(), node.node_id))?;
    for table in ["replicated", "plain"] {
        node.query(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL, v text);
             CREATE TABLE {table}_counted (id int PRIMARY KEY, n int NOT NULL, v text);
             CREATE TABLE {table}_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
             CREATE TABLE {table}_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
             CREATE TABLE {table}_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
             CREATE TABLE {table}_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
             INSERT INTO {table}_branches VALUES (1, 0, '');
             INSERT INTO {table}_tellers SELECT i, 1, 0, '' FROM generate_series(1, 10) i;
             INSERT INTO {table}_accounts SELECT i, 1, 0, '' FROM generate_series(1, 100000) i"
        ))?;
    }
    node.query(&format!(
        "COPY (SELECT i, 0, md5(i::text) FROM generate_series(1, {BULK_ROWS}) i) TO '{}'",
        rows_file(node)
    ))?;
    node.query(
        "SELECT meld.repset_add_table('default', t::regclass) FROM unnest('{replicated,replicated_counted,replicated_branches,\
         replicated_tellers,replicated_accounts}'::text[]) t",
    )?;
    node.query("SELECT meld.repset_add_table('default_insert_only', 'replicated_history')")?;
    node.query("SELECT meld.delta_add_column('replicated_counted', 'n')")?;
    node.query("ALTER SYSTEM SET autovacuum = off")?;
    node.query("SELECT pg_reload_conf()").map(drop)
}

/// In the folder that server and reader share.
fn rows_file(node: &Node) -> String {
    format!("{}/rows.copy", node.folder.display())
}

fn works(rows_file: &str) -> Vec<Work> {
    let filled = |rows: u32| {
        format!(
            "TRUNCATE {{t}}; INSERT INTO {{t}} SELECT i, 0, md5(i::text) FROM generate_series(1, {rows}) i; VACUUM {{t}};"
        )
    };
    let counted = format!(
        "INSERT INTO {{t}}_counted SELECT i, 0, md5(i::text) FROM generate_series(1, {BULK_ROWS}) i \
         ON CONFLICT DO NOTHING; VACUUM {{t}}_counted;"
    );
    let work = |name, before, work: &str, target| Work { name, before, work: work.to_owned(), target };
    vec![
        Work { name: "TPC-B", before: tpcb_before(), work: tpcb(), target: Target::Rate(0.97) },
        Work {
            name: "DELETE of one row each",
            before: filled(SMALL_TRANSACTIONS) + "PREPARE d (int) AS DELETE FROM {t} WHERE id = $1;",
            work: (1..=SMALL_TRANSACTIONS).map(|id| format!("EXECUTE d ({id});\n")).collect(),
            target: Target::Rate(0.95),
        },
        work("COPY", "TRUNCATE {t};".to_owned(), &format!("COPY {{t}} FROM '{rows_file}';"), Target::Time(1.0)),
        work("UPDATE of all rows", filled(BULK_ROWS), "UPDATE {t} SET n = n + 1;", Target::Time(1.15)),
        work("DELETE of all rows", filled(BULK_ROWS), "DELETE FROM {t};", Target::Time(2.5)),
        work("UPDATE of a delta column", counted, "UPDATE {t}_counted SET n = n + 1;", Target::Time(f64::NAN)),
    ]
}

fn tpcb_before() -> String {
    "VACUUM {t}_branches; VACUUM {t}_tellers;
     PREPARE a (int, int) AS UPDATE {t}_accounts SET abalance = abalance + $2 WHERE aid = $1;
     PREPARE s (int) AS SELECT abalance FROM {t}_accounts WHERE aid = $1;
     PREPARE t (int, int) AS UPDATE {t}_tellers SET tbalance = tbalance + $2 WHERE tid = $1;
     PREPARE b (int, int) AS UPDATE {t}_branches SET bbalance = bbalance + $2 WHERE bid = $1;
     PREPARE h (int, int, int, int) AS INSERT INTO {t}_history VALUES ($1, $2, $3, $4, now());"
        .to_owned()
}

fn tpcb() -> String {
    let mut script = String::new();
    for i in 1..=SMALL_TRANSACTIONS {
        // the accounts in some order, always the same
        let (account, teller) = (u64::from(i) * 7919 % 100_000 + 1, i % 10 + 1);
        let _ = writeln!(
            script,
            "BEGIN; EXECUTE a ({account}, 1); EXECUTE s ({account}); EXECUTE t ({teller}, 1); EXECUTE b (1, 1); \
             EXECUTE h ({teller}, 1, {account}, 1); COMMIT;"
        );
    }
    script
}
