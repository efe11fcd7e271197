//! Runs programs on real servers and judges every node against the model.
//!
//! All programs of a schedule run at once, each on keys of its own, so that a delivery costs one start and stop of a link
//! for all of them. The links are stopped but for the one that delivers, so nothing is raced.

use std::collections::BTreeMap;

use meld_cluster_tests::resolutions::{Stamp as RealStamp, TIME_FORMAT};
use meld_cluster_tests::stamps::{self, Known as RealKnown};
use meld_cluster_tests::{Cluster, Node, Plan, compare, mesh, settle};
use postgres::{Client, SimpleQueryMessage};
use serde_json::json;

use crate::model::{Key, Kind, Known, Met, Stamp, Write};
use crate::programs::{self, BASE, BASE_DELETE, Base, Program, Step, stamp_of};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// Programs of one schedule, and the first of their keys.
struct Batch {
    schedule: Vec<Step>,
    programs: Vec<Program>,
    first: usize,
}

/// A transaction of a program.
type Made = (usize, Stamp);

/// Stamps of this server's transactions, by program and place in the model.
#[derive(Default)]
struct Stamps {
    xids: BTreeMap<Made, String>,
    real: BTreeMap<Made, RealStamp>,
}

/// Runs all programs of the schedules; how often each cell of the table was met.
#[track_caller]
pub fn run(name: &str, nodes: usize, schedules: &[Vec<Step>], bases: &[Base]) -> BTreeMap<(Kind, Met), usize> {
    let mut batches = Vec::new();
    let mut first = 1;
    for schedule in schedules {
        let programs = programs::all(nodes, schedule, bases);
        let count = programs.len();
        batches.push(Batch { schedule: schedule.clone(), programs, first });
        first += 2 * count;
    }
    let cluster = Plan::new(name, nodes).start_mesh();
    let mut visited = BTreeMap::new();
    let mut stamps = prepare(&cluster, &batches);
    mesh::disconnect(&cluster);
    for (batch, stamps) in batches.iter().zip(&mut stamps) {
        eprintln!("{name}: {} programs over {:?}", batch.programs.len(), batch.schedule);
        batch.run(&cluster, stamps);
        batch.judge(&cluster, stamps);
        for program in &batch.programs {
            program.world.visited.iter().for_each(|(cell, times)| *visited.entry(*cell).or_default() += times);
        }
    }
    mesh::reconnect(&cluster);
    compare::equal(&cluster);
    cluster.finish();
    visited
}

/// Makes what is there before the programs begin.
fn prepare(cluster: &Cluster, batches: &[Batch]) -> Vec<Stamps> {
    cluster.batch(TABLE);
    let mut stamps: Vec<Stamps> = batches.iter().map(|_| Stamps::default()).collect();
    let ids = |wanted: &dyn Fn(Base) -> bool| -> String {
        let of_batch = |batch: &Batch| -> Vec<String> {
            let programs = batch.programs.iter().enumerate().filter(|(_, program)| wanted(program.base));
            programs.map(|(at, _)| batch.id(at, 0).to_string()).collect()
        };
        batches.iter().flat_map(of_batch).collect::<Vec<_>>().join(",")
    };
    let mut make = |place: usize, at: usize, wanted: &dyn Fn(Base) -> bool, sql: &dyn Fn(&str) -> String| {
        let list = ids(wanted);
        if list.is_empty() {
            return;
        }
        let xid = transaction(&mut cluster.node(place).client(), &sql(&list));
        for (batch, stamps) in batches.iter().zip(&mut stamps) {
            for (program, _) in batch.programs.iter().enumerate().filter(|(_, program)| wanted(program.base)) {
                stamps.xids.insert((program, Stamp { at, node: place }), xid.clone());
            }
        }
    };
    let insert = |list: &str| format!("INSERT INTO t SELECT id, 'base' FROM unnest('{{{list}}}'::int[]) id");
    for place in cluster.nodes().iter().map(|node| node.place) {
        make(place, 0, &|base| base == Base::OnlyAt(place), &insert);
    }
    cluster.batch("SELECT meld.repset_add_table('default', 't')");
    make(BASE.node, BASE.at, &|base| matches!(base, Base::Live | Base::Dead), &insert);
    settle::settle(cluster);
    let delete = |list: &str| format!("DELETE FROM t WHERE id = ANY ('{{{list}}}'::int[])");
    make(BASE_DELETE.node, BASE_DELETE.at, &|base| base == Base::Dead, &delete);
    settle::settle(cluster);
    stamps
}

/// Runs a statement as a transaction of its own; its transaction id.
#[track_caller]
fn transaction(client: &mut Client, sql: &str) -> String {
    let all = format!("BEGIN; {sql}; SELECT pg_current_xact_id()::xid::text; COMMIT");
    let answers = client.simple_query(&all).unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
    let rows =
        answers.iter().filter_map(|answer| if let SimpleQueryMessage::Row(row) = answer { row.get(0) } else { None });
    rows.last().expect("the transaction's id").to_owned()
}

impl Batch {
    fn id(&self, program: usize, key: Key) -> usize {
        self.first + 2 * program + key
    }

    fn run(&self, cluster: &Cluster, stamps: &mut Stamps) {
        let mut clients: Vec<Client> = cluster.nodes().iter().map(Node::client).collect();
        let mut slot = 0;
        for step in &self.schedule {
            match *step {
                Step::Deliver(from, to) => mesh::deliver(cluster.node(from), cluster.node(to)),
                Step::Write => {
                    for (at, program) in self.programs.iter().enumerate() {
                        let Some((place, write)) = program.writes[slot] else { continue };
                        let made = stamp_of(slot, place);
                        let xid = transaction(&mut clients[place - 1], &self.sql(at, made, write));
                        stamps.xids.insert((at, made), xid);
                    }
                    slot += 1;
                }
            }
        }
    }

    fn sql(&self, program: usize, made: Stamp, write: Write) -> String {
        let (id, value) = (|key| self.id(program, key), value(made));
        match write {
            Write::Insert(key) => format!("INSERT INTO t VALUES ({}, '{value}')", id(key)),
            Write::Update(key) => format!("UPDATE t SET v = '{value}' WHERE id = {}", id(key)),
            Write::Delete(key) => format!("DELETE FROM t WHERE id = {}", id(key)),
            Write::Replace(key) => {
                format!("DELETE FROM t WHERE id = {0}; INSERT INTO t VALUES ({0}, '{value}')", id(key))
            }
            Write::Move(from, to) => format!("UPDATE t SET id = {}, v = '{value}' WHERE id = {}", id(to), id(from)),
        }
    }

    #[track_caller]
    fn judge(&self, cluster: &Cluster, stamps: &mut Stamps) {
        stamps.read(cluster);
        let mut wrong = Vec::new();
        for node in cluster.nodes() {
            let (rows, histories, known) = (self.rows(node), self.histories(node), self.known(node));
            for (at, program) in self.programs.iter().enumerate() {
                let model = program.world.node(node.place);
                for key in [0, 1] {
                    let id = self.id(at, key);
                    let want = model.known[key];
                    let row = if let Known::Live(stamp) = want { Some(value(stamp)) } else { None };
                    let mut found = Vec::new();
                    if rows.get(&id) != row.as_ref() {
                        found.push(format!("row {:?} instead of {row:?}", rows.get(&id)));
                    }
                    let real = |stamp: Stamp| stamps.of(at, stamp);
                    let (want, here) = (want.map(real), &known[2 * at + key]);
                    let dropped = matches!(want, RealKnown::Dead(_)) && *here == RealKnown::Nothing;
                    if *here != want && !dropped {
                        found.push(format!("{here:?} instead of {want:?}"));
                    }
                    let entry = |stamp: Option<Stamp>| stamp.map(real);
                    let listed = |model: &crate::model::Node| -> Vec<Listed> {
                        let entries = model.history.iter().filter(|entry| entry.key == key);
                        entries
                            .map(|e| (format!("{} {}", e.conflict, e.resolution), entry(e.local), real(e.remote)))
                            .collect()
                    };
                    let want = listed(model);
                    let here = histories.get(&id).cloned().unwrap_or_default();
                    if here != want && here != listed(program.forgotten.node(node.place)) {
                        found.push(format!("history {here:#?} instead of {want:#?}"));
                    }
                    if !found.is_empty() {
                        let what = (program.base, &program.writes);
                        wrong.push(format!("{} key {key} of {what:?}: {}", node.name, found.join("; ")));
                    }
                }
            }
        }
        let total = wrong.len();
        wrong.truncate(12);
        assert!(wrong.is_empty(), "{total} keys end wrong over {:?}:\n{}", self.schedule, wrong.join("\n"));
    }

    fn last(&self) -> usize {
        self.first + 2 * self.programs.len() - 1
    }

    fn rows(&self, node: &Node) -> BTreeMap<usize, String> {
        let sql = format!("SELECT id, v FROM t WHERE id BETWEEN {} AND {}", self.first, self.last());
        node.rows(&sql, &[]).iter().map(|row| (row.get::<_, i32>(0) as usize, row.get(1))).collect()
    }

    fn known(&self, node: &Node) -> Vec<RealKnown> {
        let keys: Vec<_> = (self.first..=self.last()).map(|id| json!({ "id": id })).collect();
        stamps::of(node, "t", &keys)
    }

    fn histories(&self, node: &Node) -> BTreeMap<usize, Vec<Listed>> {
        let sql = format!(
            "SELECT (key ->> 'id')::int, concat_ws(' ', conflict_type, conflict_resolution),
                    to_char(local_commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), local_origin,
                    to_char(remote_commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), remote_origin
             FROM meld.resolutions WHERE (key ->> 'id')::int BETWEEN {} AND {} ORDER BY id",
            self.first,
            self.last()
        );
        let mut histories: BTreeMap<usize, Vec<Listed>> = BTreeMap::new();
        for row in node.rows(&sql, &[]) {
            let stamp = |at: usize| -> Option<RealStamp> {
                let (commit_ts, node_id): (Option<String>, Option<i32>) = (row.get(at), row.get(at + 1));
                Some(RealStamp { commit_ts: commit_ts?, node_id: node_id? })
            };
            let entry = (row.get(1), stamp(2), stamp(4).expect("a remote stamp"));
            histories.entry(row.get::<_, i32>(0) as usize).or_default().push(entry);
        }
        histories
    }
}

/// Conflict and resolution, local and remote stamp.
type Listed = (String, Option<RealStamp>, RealStamp);

/// What a write puts into its row.
fn value(made: Stamp) -> String {
    if made.at == BASE.at { "base".into() } else { format!("n{} {}", made.node, made.at) }
}

impl Known {
    fn map(self, real: impl Fn(Stamp) -> RealStamp) -> RealKnown {
        match self {
            Known::Nothing => RealKnown::Nothing,
            Known::Live(stamp) => RealKnown::Live(real(stamp)),
            Known::Dead(stamp) => RealKnown::Dead(real(stamp)),
        }
    }
}

impl Stamps {
    fn of(&self, program: usize, stamp: Stamp) -> RealStamp {
        self.real.get(&(program, stamp)).cloned().unwrap_or_else(|| panic!("no transaction {stamp:?} of {program}"))
    }

    /// Asks the servers when the transactions were committed.
    fn read(&mut self, cluster: &Cluster) {
        for node in cluster.nodes() {
            let (made, xids): (Vec<Made>, Vec<&String>) = self
                .xids
                .iter()
                .filter(|((_, stamp), _)| stamp.node == node.place)
                .map(|(made, xid)| (*made, xid))
                .unzip();
            let sql = format!(
                "SELECT to_char(pg_xact_commit_timestamp(x::xid) AT TIME ZONE 'UTC', '{TIME_FORMAT}')
                 FROM unnest($1::text[]) WITH ORDINALITY u(x, place) ORDER BY place"
            );
            for (made, row) in made.into_iter().zip(node.rows(&sql, &[&xids])) {
                self.real.insert(made, RealStamp { commit_ts: row.get(0), node_id: node.id() });
            }
        }
    }
}
