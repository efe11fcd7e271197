//! Every interleaving of a small program: of its transactions (each node's in their order), of the deliveries, and of a
//! number of crashes at any moment between them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use meld_core::ids::NodeId;
use meld_core::time::Timestamp;

use crate::cases::Case;
use crate::check::{self, Violation};
use crate::mutant::Mutant;
use crate::world::{Config, Step, World};

/// What an exploration has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explored {
    pub states: usize,
    pub ends: usize,
    /// It reached its limit; since it goes deep first, it saw many ends all the same.
    pub is_cut_short: bool,
}

/// A moment of a program.
#[derive(Clone)]
struct Moment {
    world: World,
    done: BTreeMap<NodeId, usize>,
    crashes_left: usize,
}

enum Choice {
    Transaction(NodeId),
    Deliver(NodeId, NodeId),
    Crash(NodeId),
}

/// The setup's transactions come from before every clock reading of the program.
const AFTER_SETUP: i64 = 1000;

pub fn explore(case: &Case, crashes: usize, mutant: Option<Mutant>, limit: usize) -> Result<Explored, Violation> {
    let config = Config { synchronous: crashes == 0, ..Config::plain(case.nodes, case.policy, mutant) };
    let mut world = World::new(&config);
    for statements in &case.setup {
        world.step(&Step::Transact { node: NodeId(1), statements: statements.clone() })?;
    }
    world.drain(1, |_| 0, |_| ())?;
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for &node in &nodes {
        world.step(&Step::Flush { node })?;
    }
    world.adds.clear();
    let done = case.program.keys().map(|&node| (node, 0)).collect();
    let mut stack = vec![Moment { world, done, crashes_left: crashes }];
    let mut seen = HashSet::new();
    let mut ends = 0;
    while let Some(moment) = stack.pop() {
        let choices = choices(case, &moment);
        if moment.is_end(case) {
            ends += 1;
            check::at_rest(&moment.world)?;
        }
        for choice in choices {
            let mut next = moment.clone();
            next.go(case, &choice)?;
            if seen.insert(next.fingerprint()) {
                if seen.len() > limit {
                    return Ok(Explored { states: seen.len(), ends, is_cut_short: true });
                }
                stack.push(next);
            }
        }
    }
    Ok(Explored { states: seen.len(), ends, is_cut_short: false })
}

fn choices(case: &Case, moment: &Moment) -> Vec<Choice> {
    let left = |node: &NodeId| moment.done[node] < case.program[node].len();
    let transactions = case.program.keys().copied().filter(left).map(Choice::Transaction);
    let deliveries = moment.world.pending().into_iter().map(|(from, to)| Choice::Deliver(from, to));
    let nodes = moment.world.nodes.keys().copied().filter(|_| moment.crashes_left > 0);
    transactions.chain(deliveries).chain(nodes.map(Choice::Crash)).collect()
}

impl Moment {
    fn is_end(&self, case: &Case) -> bool {
        self.world.pending().is_empty() && case.program.iter().all(|(node, of)| self.done[node] == of.len())
    }

    fn go(&mut self, case: &Case, choice: &Choice) -> Result<(), Violation> {
        self.world.clock = Some(Timestamp(1));
        let step = match *choice {
            Choice::Transaction(node) => {
                let (reading, statements) = &case.program[&node][self.done[&node]];
                self.done.entry(node).and_modify(|done| *done += 1);
                self.world.clock = Some(Timestamp(AFTER_SETUP + reading));
                Step::Transact { node, statements: statements.clone() }
            }
            Choice::Deliver(from, to) => Step::Deliver { from, to },
            Choice::Crash(node) => {
                self.crashes_left -= 1;
                Step::Crash { node }
            }
        };
        self.world.step(&step)?;
        self.world.adds.clear();
        Ok(())
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.done, self.crashes_left, &self.world.links).hash(&mut hasher);
        for node in self.world.nodes.values() {
            (&node.current, &node.durable, &node.log, node.durable_len).hash(&mut hasher);
        }
        hasher.finish()
    }
}
