//! Writers of random transactions on a small key space, through faults.
//!
//! A writer draws from a seed of its own; what happens to it (errors, lost sessions) depends on the run, so a seed gives
//! the same mix, not the same history. Errors of the kinds that users must expect are counted; any other is a finding.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use meld_cluster_tests::{Node, account, wait};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Keys that every writer plays with, per table.
const KEYS: i32 = 12;
/// Keys of `counter` up to this are never deleted, so that their sums are known.
const LASTING: i32 = 6;

pub const TABLES: [&str; 4] = ["plain", "uniq", "counter", "large"];

pub const DEFINITIONS: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, v text, tag text, over text);
    CREATE TABLE uniq (id int PRIMARY KEY, a int UNIQUE, b int, v text, tag text, over text);
    CREATE UNIQUE INDEX ON uniq (b) WHERE b > 0;
    CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, v text, tag text, over text);
    CREATE TABLE large (id int PRIMARY KEY, v text, big text, tag text, over text);
    ALTER TABLE large ALTER big SET STORAGE EXTERNAL";

/// What all writers have told.
#[derive(Default)]
pub struct Told {
    /// Markers of acknowledged transactions, by the place of their node.
    pub acknowledged: Mutex<BTreeMap<usize, Vec<String>>>,
    pub transactions: AtomicU64,
    /// Errors by SQLSTATE, and the first text of each.
    pub errors: Mutex<BTreeMap<String, (u64, String)>>,
}

/// Errors that users of such tables must expect: clashes, lost races, sessions that end with their server.
const EXPECTED: [&str; 7] = ["23505", "40001", "40P01", "57P01", "57P02", "57P03", "25P02"];

impl Told {
    fn error(&self, error: &postgres::Error) {
        let Some(db) = error.as_db_error() else { return };
        let mut errors = self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        errors.entry(db.code().code().to_owned()).or_insert_with(|| (0, db.to_string())).0 += 1;
    }

    fn acknowledge(&self, place: usize, marker: String) {
        self.transactions.fetch_add(1, Ordering::SeqCst);
        let mut all = self.acknowledged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry(place).or_default().push(marker);
    }

    #[track_caller]
    pub fn assert_no_surprise(&self) {
        let errors = self.errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let surprises: Vec<_> = errors.iter().filter(|(code, _)| !EXPECTED.contains(&code.as_str())).collect();
        assert!(surprises.is_empty(), "errors that no user should see: {surprises:#?}");
    }
}

pub struct Writer<'a> {
    pub node: &'a Node,
    pub name: String,
    random: StdRng,
    serial: u64,
    told: &'a Told,
}

impl<'a> Writer<'a> {
    pub fn new(node: &'a Node, number: u64, seed: u64, told: &'a Told) -> Writer<'a> {
        let random = StdRng::seed_from_u64(seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Writer { node, name: format!("w{number}"), random, serial: 0, told }
    }

    pub fn write_until(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let Ok(mut client) = self.node.server.connect(meld_cluster_tests::node::DATABASE) else {
                wait::pause();
                continue;
            };
            // a statement behind a prepared transaction of a lost session waits for its end
            let _ = client.batch_execute("SET lock_timeout = '2s'");
            while !stop.load(Ordering::SeqCst) && !client.is_closed() {
                if let Err(error) = self.transaction(&mut client)
                    && !error.is_closed()
                {
                    if error.code().is_none_or(|code| code.code() != "55P03") {
                        self.told.error(&error);
                    }
                    let _ = client.batch_execute("ROLLBACK");
                }
                if self.random.random_bool(0.6) {
                    wait::pause();
                }
            }
        }
    }

    fn transaction(&mut self, client: &mut Client) -> Result<(), postgres::Error> {
        self.serial += 1;
        let marker = format!("{} {}", self.name, self.serial);
        client.batch_execute("BEGIN")?;
        client.batch_execute(&account::mark(&marker))?;
        for _ in 0..self.random.random_range(1..=4) {
            let sql = self.statement();
            match self.random.random_range(0..8) {
                0 => {
                    // an error in here costs the savepoint only
                    client.batch_execute("SAVEPOINT s")?;
                    let outcome = client.batch_execute(&sql);
                    if let Err(error) = &outcome
                        && error.as_db_error().is_none()
                    {
                        return outcome;
                    }
                    let end =
                        if outcome.is_ok() && self.random.random_bool(0.5) { "RELEASE s" } else { "ROLLBACK TO s" };
                    client.batch_execute(end)?;
                }
                _ => client.batch_execute(&sql)?,
            }
        }
        match self.random.random_range(0..20) {
            0 => return client.batch_execute("ROLLBACK"),
            1 | 2 => {
                let name = marker.replace(' ', "_");
                client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
                if self.random.random_bool(0.2) {
                    return client.batch_execute(&format!("ROLLBACK PREPARED '{name}'"));
                }
                client.batch_execute(&format!("COMMIT PREPARED '{name}'"))?;
            }
            _ => client.batch_execute("COMMIT")?,
        }
        self.told.acknowledge(self.node.place, marker);
        Ok(())
    }

    fn statement(&mut self) -> String {
        let key = self.random.random_range(1..=KEYS);
        let other = self.random.random_range(1..=KEYS);
        let text = format!("{} {}", self.name, self.serial);
        match self.random.random_range(0..10) {
            0..=2 => plain("plain", &mut self.random, key, other, &text),
            3..=5 => self.uniq(key, other, &text),
            6..=7 => self.counter(key, &text),
            _ => self.large(key, other, &text),
        }
    }

    fn uniq(&mut self, key: i32, other: i32, text: &str) -> String {
        let (a, b) = (self.random.random_range(1..=20), self.random.random_range(-3..=12));
        match self.random.random_range(0..8) {
            0 | 1 => format!("INSERT INTO uniq VALUES ({key}, {a}, {b}, '{text}') ON CONFLICT DO NOTHING"),
            2 | 3 => format!(
                "INSERT INTO uniq VALUES ({key}, {a}, {b}, '{text}')
                 ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b, v = excluded.v"
            ),
            4 => format!("UPDATE uniq SET a = {a}, v = '{text}' WHERE id = {key}"),
            5 => format!("UPDATE uniq SET b = {b}, v = '{text}' WHERE id IN ({key}, {other}) AND b <= 0"),
            _ => plain("uniq", &mut self.random, key, other, text),
        }
    }

    fn counter(&mut self, key: i32, text: &str) -> String {
        let n = self.random.random_range(-5..=9);
        match self.random.random_range(0..6) {
            0 | 1 => format!(
                "INSERT INTO counter VALUES ({key}, {n}, '{text}') ON CONFLICT (id) DO UPDATE SET n = counter.n + {n}"
            ),
            2 => format!("UPDATE counter SET v = '{text}' WHERE id = {key}"),
            3 => format!("UPDATE counter SET n = n + 1 WHERE id % 3 = {}", key % 3),
            4 => format!("DELETE FROM counter WHERE id = {key} AND id > {LASTING}"),
            _ => format!("UPDATE counter SET n = n + {n}, v = '{text}' WHERE id = {key}"),
        }
    }

    fn large(&mut self, key: i32, other: i32, text: &str) -> String {
        let big = format!("(SELECT string_agg(md5('{text}' || i), '') FROM generate_series(1, 250) i)");
        match self.random.random_range(0..7) {
            0 | 1 => format!(
                "INSERT INTO large VALUES ({key}, '{text}', {big}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
            ),
            2 => format!("UPDATE large SET big = {big} WHERE id = {key}"),
            _ => plain("large", &mut self.random, key, other, text),
        }
    }
}

/// Statements that every table takes.
fn plain(table: &str, random: &mut StdRng, key: i32, other: i32, text: &str) -> String {
    match random.random_range(0..9) {
        0 => format!("INSERT INTO {table} (id, v) VALUES ({key}, '{text}')"),
        1 | 2 => {
            format!(
                "INSERT INTO {table} (id, v) VALUES ({key}, '{text}') ON CONFLICT (id) DO UPDATE SET v = excluded.v"
            )
        }
        3 | 4 => format!("UPDATE {table} SET v = '{text}' WHERE id = {key}"),
        5 => format!("DELETE FROM {table} WHERE id = {key}"),
        6 => format!("UPDATE {table} SET id = {other}, v = '{text}' WHERE id = {key}"),
        7 => {
            format!("DELETE FROM {table} WHERE id = {key}; INSERT INTO {table} (id, v) VALUES ({key}, '{text} again')")
        }
        _ => format!("UPDATE {table} SET v = '{text}' WHERE id IN ({key}, {other})"),
    }
}
