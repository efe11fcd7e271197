//! Nodes, links and what happens to them: one step at a time, each of which can be written down and done again.
//!
//! Each pair of nodes is one link, which sends the provider's log in order, any time later. A cut link starts again from
//! the position that its subscriber has durable, so that transactions arrive twice. Users, clocks and faults are steps too;
//! a step that cannot be done (nothing to deliver, a statement that the server refuses) does nothing, so that any part of
//! a run is a run.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use meld_core::converge::Policy;
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};

use crate::check::{self, Violation};
use crate::data::{RowId, Statement};
use crate::mutant::Mutant;
use crate::node::{self, Node};
use crate::state::State;

#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    Transact {
        node: NodeId,
        statements: Vec<Statement>,
    },
    Deliver {
        from: NodeId,
        to: NodeId,
    },
    Heartbeat {
        node: NodeId,
    },
    Collect {
        node: NodeId,
    },
    Replay {
        node: NodeId,
    },
    /// The transaction at this position of `from`'s log fails at `to`, until healed.
    Poison {
        from: NodeId,
        to: NodeId,
        position: usize,
    },
    Heal,
    Flush {
        node: NodeId,
    },
    Crash {
        node: NodeId,
    },
    /// The connection breaks and is made again.
    Cut {
        from: NodeId,
        to: NodeId,
    },
    /// The node is unreachable, and reaches no one, until it is back.
    Away {
        node: NodeId,
    },
    Back {
        node: NodeId,
    },
    Clock {
        node: NodeId,
        skew: i64,
    },
    Freeze {
        node: NodeId,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub nodes: u16,
    pub policy: Policy,
    pub mutant: Option<Mutant>,
    pub skew: Vec<i64>,
    /// No crash can take anything back: every commit is flushed at once.
    pub synchronous: bool,
    /// Other things happen between the moment when something is found to be needed first and its commit.
    pub gaps: bool,
    /// Apply waits for the clock, and users are refused while it is behind, instead of committing at the earliest
    /// timestamp that it could show.
    pub waits: bool,
    /// Of a transaction that fails only the changes of the row that failed are parked.
    pub leaves_out: bool,
    /// Parked transactions are replayed in any order, as if those before had failed again.
    pub shuffled: bool,
}

impl Config {
    pub fn plain(nodes: u16, policy: Policy, mutant: Option<Mutant>) -> Config {
        Config {
            nodes,
            policy,
            mutant,
            skew: Vec::new(),
            synchronous: true,
            gaps: false,
            waits: false,
            leaves_out: false,
            shuffled: false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    /// Next position that a link sends.
    pub links: BTreeMap<(NodeId, NodeId), usize>,
    pub poison: BTreeSet<(NodeId, NodeId, usize)>,
    pub away: BTreeSet<NodeId>,
    pub skew: BTreeMap<NodeId, i64>,
    pub time: i64,
    /// What every clock says, instead of `time` and its skew.
    pub clock: Option<Timestamp>,
    /// Sum of what users added to a counter, while it is no more than that.
    pub adds: BTreeMap<RowId, Option<i64>>,
    pub was_frozen: bool,
    mutant: Option<Mutant>,
}

impl World {
    pub fn new(config: &Config) -> World {
        let ids: Vec<NodeId> = (1..=config.nodes).map(NodeId).collect();
        let node = |&id: &NodeId| {
            let mut node = Node::new(id, &ids, config.policy, config.mutant);
            node.synchronous = config.synchronous;
            node.gaps = config.gaps;
            node.waits = config.waits;
            node.leaves_out = config.leaves_out;
            node.shuffled = config.shuffled;
            (id, node)
        };
        let pairs = ids.iter().flat_map(|&from| ids.iter().map(move |&to| (from, to)));
        World {
            nodes: ids.iter().map(node).collect(),
            links: pairs.filter(|(from, to)| from != to).map(|link| (link, 0)).collect(),
            poison: BTreeSet::new(),
            away: BTreeSet::new(),
            skew: ids.iter().copied().zip(config.skew.iter().copied().chain(std::iter::repeat(0))).collect(),
            time: 0,
            clock: None,
            adds: BTreeMap::new(),
            was_frozen: false,
            mutant: config.mutant,
        }
    }

    pub fn now(&self, node: NodeId) -> Timestamp {
        let skew = self.skew.get(&node).copied().unwrap_or(0);
        self.clock.unwrap_or_else(|| Timestamp((self.time + skew).max(1)))
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    fn state(&self, id: NodeId) -> Rc<State> {
        self.nodes[&id].current.clone()
    }

    /// What a link has still to send.
    pub fn has_more(&self, from: NodeId, to: NodeId) -> bool {
        let log = &self.nodes[&from];
        let len = if self.mutant == Some(Mutant::UnflushedIsSent) { log.log.len() } else { log.durable_len };
        self.links[&(from, to)] < len && !self.away.contains(&from) && !self.away.contains(&to)
    }

    pub fn pending(&self) -> Vec<(NodeId, NodeId)> {
        self.links.keys().copied().filter(|&(from, to)| self.has_more(from, to)).collect()
    }

    /// Does a step and checks what must hold after every one. False if it had no effect.
    pub fn step(&mut self, step: &Step) -> Result<bool, Violation> {
        let did = match step {
            Step::Transact { node, statements } => self.transact(*node, statements),
            Step::Deliver { from, to } => self.has_more(*from, *to) && self.deliver(*from, *to)?,
            Step::Replay { node } => self.replay(*node),
            Step::Poison { from, to, position } => self.poison.insert((*from, *to, *position)),
            Step::Heal => {
                self.away.clear();
                !std::mem::take(&mut self.poison).is_empty()
            }
            Step::Cut { from, to } => self.cut(*from, *to),
            Step::Away { node } => self.away.insert(*node),
            Step::Back { node } => self.away.remove(node),
            Step::Clock { node, skew } => self.skew.insert(*node, *skew) != Some(*skew),
            Step::Crash { node } => self.crash(*node),
            Step::Heartbeat { node } | Step::Collect { node } | Step::Flush { node } | Step::Freeze { node } => {
                self.housekeeping(*node, step);
                true
            }
        };
        if did {
            check::always(self)?;
        }
        Ok(did)
    }

    fn housekeeping(&mut self, node: NodeId, step: &Step) {
        let now = self.now(node);
        self.was_frozen |= matches!(step, Step::Freeze { .. });
        let Some(node) = self.nodes.get_mut(&node) else { return };
        match step {
            Step::Heartbeat { .. } => node.heartbeat(now),
            Step::Collect { .. } => node.collect(now),
            Step::Freeze { .. } => node.freeze(),
            _ => node.flush(),
        }
    }

    fn transact(&mut self, id: NodeId, statements: &[Statement]) -> bool {
        self.time += 1;
        let now = self.now(id);
        let did = self.nodes.get_mut(&id).is_some_and(|node| node.transact(statements, now));
        if did {
            statements.iter().for_each(|statement| self.track(statement));
        }
        did
    }

    /// What the users meant, as long as a key was never deleted or inserted twice: then the counter is plain arithmetic.
    fn track(&mut self, statement: &Statement) {
        match *statement {
            Statement::Insert { row, n, .. } => {
                self.adds.entry(row).and_modify(|sum| *sum = None).or_insert(Some(n));
            }
            Statement::Update { row, n, .. } => {
                self.adds.entry(row).and_modify(|sum| *sum = sum.map(|sum| sum + n));
            }
            Statement::Delete { row } => {
                self.adds.insert(row, None);
            }
            Statement::Move { from, to } => {
                self.adds.insert(crate::data::a(from), None);
                self.adds.insert(crate::data::a(to), None);
            }
            Statement::Truncate { .. } => {}
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId) -> Result<bool, Violation> {
        self.time += 1;
        let now = self.now(to);
        let position = self.links[&(from, to)];
        let Some(tx) = self.nodes[&from].log.get(position).cloned() else { return Ok(false) };
        let provider = self.state(from);
        let poisoned = self.poison.contains(&(from, to, position));
        let applied = self.nodes[&to].current.applied[&from];
        let Some(node) = self.nodes.get_mut(&to) else { return Ok(false) };
        let done = match position.cmp(&applied) {
            std::cmp::Ordering::Less => {
                if node.mutant == Some(Mutant::AppliedTwice) {
                    node.apply_again(&tx, &provider);
                }
                true
            }
            std::cmp::Ordering::Equal => node.apply(&tx, &provider, now, poisoned) == node::Step::Done,
            std::cmp::Ordering::Greater => {
                return Err(Violation(format!("P9: {from} sent {position} to {to}, which has applied {applied}")));
            }
        };
        if done {
            self.links.insert((from, to), position + 1);
        }
        Ok(true)
    }

    fn replay(&mut self, id: NodeId) -> bool {
        self.time += 1;
        let now = self.now(id);
        let me = &self.nodes[&id];
        let at = if me.shuffled { self.time as usize % me.current.parked.len().max(1) } else { 0 };
        let Some(origin) = me.current.parked.get(at).map(|tx| tx.origin) else { return false };
        if self.away.contains(&id) || self.away.contains(&origin) {
            return false;
        }
        let provider = self.state(origin);
        self.nodes.get_mut(&id).map(|node| node.replay(at, &provider, now)).is_some()
    }

    fn cut(&mut self, from: NodeId, to: NodeId) -> bool {
        let confirmed = self.nodes[&to].durable.applied[&from];
        self.links.insert((from, to), confirmed) != Some(confirmed)
    }

    fn crash(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        node.crash();
        let positions = node.current.applied.clone();
        for (from, position) in positions {
            self.links.insert((from, id), position);
        }
        true
    }

    /// Everything arrives, parked work is replayed, everyone hears that nothing more comes. `choose` picks the order.
    pub fn drain(
        &mut self,
        beats: usize,
        mut choose: impl FnMut(usize) -> usize,
        mut note: impl FnMut(&Step),
    ) -> Result<(), Violation> {
        const GUARD: usize = 5000;
        let mut go = |world: &mut World, step: Step| {
            note(&step);
            world.step(&step)
        };
        go(self, Step::Heal)?;
        for _ in 0..beats {
            let mut steps = 0;
            loop {
                let deliveries = self.pending().into_iter().map(|(from, to)| Step::Deliver { from, to });
                let parked = self.nodes.values().filter(|node| !node.current.parked.is_empty());
                let mut todo: Vec<Step> = deliveries.chain(parked.map(|node| Step::Replay { node: node.id })).collect();
                if todo.is_empty() {
                    break;
                }
                let chosen = todo.swap_remove(choose(todo.len()));
                go(self, chosen)?;
                steps += 1;
                if steps == GUARD {
                    return Err(Violation("P10: does not come to rest".to_owned()));
                }
            }
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                go(self, Step::Heartbeat { node })?;
                go(self, Step::Collect { node })?;
            }
        }
        Ok(())
    }

    /// Every log entry with its place: origin, position, transaction.
    pub fn transactions(&self) -> impl Iterator<Item = (NodeId, usize, &crate::data::Transaction)> {
        self.nodes.iter().flat_map(|(&id, node)| node.log.iter().enumerate().map(move |(at, tx)| (id, at, &**tx)))
    }

    /// Whether a transaction had seen another: at (node, position).
    pub fn had_seen(tx: &crate::data::Transaction, position: usize, other: (NodeId, usize)) -> bool {
        let (node, at) = other;
        if node == tx.origin { at < position } else { tx.saw.get(&node).is_some_and(|&applied| applied > at) }
    }

    /// The row's winner is that of the log's, where nobody has forgotten stamps.
    pub fn stamps(&self) -> impl Iterator<Item = (RowId, Stamp)> {
        self.nodes.values().flat_map(|node| node.current.rows.iter().map(|(&row, live)| (row, live.stamp)))
    }
}
