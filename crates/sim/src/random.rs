//! Random worlds: everything that can happen, chosen by a seed.

use meld_core::converge::Policy;
use meld_core::ids::NodeId;

use crate::check::{self, Violation};
use crate::data::{Op, Table, a};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::users::{Features, Users, last_insert};
use crate::world::{Config, Step, World};

/// A run that broke a promise, with all that is needed to do it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub violation: Violation,
    pub config: Config,
    pub steps: Vec<Step>,
}

/// A world being driven, and what was done to it.
struct Run {
    rng: Rng,
    world: World,
    users: Users,
    steps: Vec<Step>,
    slow: Vec<((NodeId, NodeId), u64)>,
}

/// Runs the world of a seed to its end.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<(), Box<Failure>> {
    let mut rng = Rng::new(seed);
    let nodes = rng.pick(&[2, 2, 3, 3, 3, 4, 5]);
    let mut features = Features::random(&mut rng);
    let skew = (0..nodes).map(|_| rng.pick(&[0, 0, 5, -5, 30])).collect();
    let policy = rng.pick(&[Policy::KeepParent, Policy::KeepParent, Policy::DropChild]);
    let (gaps, waits) = (rng.percent(50), rng.percent(50));
    let (leaves_out, shuffled) = (rng.percent(50), rng.percent(50));
    let synchronous = !features.crash;
    let config = Config { nodes, policy, mutant, skew, synchronous, gaps, waits, leaves_out, shuffled };
    let mut keys = rng.pick(&[1, 2, 3]);
    let lazy = rng.pick(&[30, 50, 80]);
    let mut length = rng.pick(&[8, 15, 30, 60]);
    if seed.is_multiple_of(4) {
        // long lives of few rows, much forgetting
        features = Features { collect: true, child: true, ..features };
        (keys, length) = (1, 120);
    }
    let world = World::new(&config);
    let slow = world.links.keys().map(|&link| (link, rng.pick(&[33, 33, 33, 1]))).collect();
    let mut run = Run { rng, world, users: Users::new(keys, features), steps: Vec::new(), slow };
    run.whole(length, lazy).map_err(|violation| Box::new(Failure { violation, config, steps: run.steps }))
}

impl Run {
    fn whole(&mut self, length: usize, lazy: u64) -> Result<(), Violation> {
        for _ in 0..length {
            let step = self.choose(lazy);
            if let Some(step) = step {
                self.go(step)?;
            }
        }
        self.finish(3)?;
        // whatever is left of deleted rows must not tell the nodes apart either
        for key in 1..=self.users.keys {
            let node = self.any_node();
            if !self.world.node(node).current.rows.contains_key(&a(key)) {
                self.go(Step::Transact { node, statements: vec![last_insert(key)] })?;
            }
        }
        self.finish(1)
    }

    fn finish(&mut self, beats: usize) -> Result<(), Violation> {
        let Run { rng, world, steps, .. } = self;
        world.drain(beats, |choices| rng.below(choices), |step| steps.push(step.clone()))?;
        check::at_rest(world)
    }

    fn go(&mut self, step: Step) -> Result<(), Violation> {
        self.steps.push(step);
        self.steps.last().map_or(Ok(false), |step| self.world.step(step)).map(|_| ())
    }

    fn any_node(&mut self) -> NodeId {
        NodeId(self.rng.within(1, self.world.nodes.len() as u64) as u16)
    }

    fn choose(&mut self, lazy: u64) -> Option<Step> {
        let features = self.users.features;
        let node = self.any_node();
        if features.collect && self.rng.percent(30) {
            return Some(match self.rng.below(3) {
                0 => Step::Collect { node },
                _ => Step::Heartbeat { node },
            });
        }
        if self.rng.percent(8)
            && let Some(fault) = self.fault(node)
        {
            return Some(fault);
        }
        let pending = self.world.pending();
        let at = self.rng.below(100) as u64;
        if at < lazy * 6 / 10 || pending.is_empty() {
            let statements = self.users.transaction(&mut self.rng, &self.world, node);
            return Some(Step::Transact { node, statements });
        }
        if at < 92 {
            return Some(self.delivery(&pending));
        }
        let is_parked = !self.world.node(node).current.parked.is_empty();
        (is_parked && self.rng.percent(30)).then_some(Step::Replay { node })
    }

    fn fault(&mut self, node: NodeId) -> Option<Step> {
        let features = self.users.features;
        let other = self.any_node();
        let kinds = [
            features.crash,
            features.crash,
            features.cut,
            features.away,
            features.away,
            features.clock,
            features.freeze,
        ];
        let kind = self.rng.weighted(&kinds.map(u64::from));
        if !kinds[kind] {
            return None;
        }
        match kind {
            0 => Some(Step::Crash { node }),
            1 => Some(Step::Flush { node }),
            2 => (node != other).then_some(Step::Cut { from: node, to: other }),
            3 if self.world.away.is_empty() => Some(Step::Away { node }),
            3 | 4 => self.world.away.first().map(|&node| Step::Back { node }),
            5 => Some(Step::Clock { node, skew: self.rng.pick(&[-50, -5, 0, 5, 50]) }),
            _ => Some(Step::Freeze { node }),
        }
    }

    /// Some links lag far behind; some transactions fail for a while.
    fn delivery(&mut self, pending: &[(NodeId, NodeId)]) -> Step {
        let weight = |link: &(NodeId, NodeId)| self.slow.iter().find(|(slow, _)| slow == link).map_or(1, |(_, w)| *w);
        let weights: Vec<u64> = pending.iter().map(weight).collect();
        let (from, to) = pending[self.rng.weighted(&weights)];
        let position = self.world.links[&(from, to)];
        if self.users.features.poison && self.rng.percent(10) && self.is_poisonable(from, position) {
            self.world.poison.insert((from, to, position));
            self.steps.push(Step::Poison { from, to, position });
        }
        Step::Deliver { from, to }
    }

    /// What nodes commit by themselves has no user errors in it.
    fn is_poisonable(&self, from: NodeId, position: usize) -> bool {
        let plain = |entry: &crate::data::Entry| !matches!(entry.op, Op::Remove(_) | Op::Void) && !entry.touch;
        let log = &self.world.node(from).log;
        log.get(position).is_some_and(|tx| !tx.entries.is_empty() && tx.entries.iter().all(plain))
    }
}

/// Does a list of steps again, then lets everything arrive in a fixed order.
pub fn again(config: &Config, steps: &[Step]) -> Result<(), Violation> {
    let mut world = World::new(config);
    for step in steps {
        world.step(step)?;
    }
    world.drain(3, |_| 0, |_| ())?;
    check::at_rest(&world)?;
    let keys: Vec<_> = world.stamps().map(|(row, _)| row).filter(|row| row.table == Table::A).collect();
    for key in (1..=3).filter(|&key| !keys.contains(&a(key))) {
        world.step(&Step::Transact { node: NodeId(1), statements: vec![last_insert(key)] })?;
    }
    world.drain(1, |_| 0, |_| ())?;
    check::at_rest(&world)
}
