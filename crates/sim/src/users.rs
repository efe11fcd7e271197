//! Random statements that make sense on the node that they are given to.

use meld_core::ids::NodeId;

use crate::data::{Big, Cols, Key, RowId, Statement, Table, a};
use crate::rng::Rng;
use crate::world::World;

/// What happens in a world besides plain inserts, updates and deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    pub unique: bool,
    pub delta: bool,
    pub child: bool,
    pub truncate: bool,
    pub key_change: bool,
    pub poison: bool,
    pub collect: bool,
    pub crash: bool,
    pub cut: bool,
    pub away: bool,
    pub clock: bool,
    pub freeze: bool,
}

impl Features {
    pub fn random(rng: &mut Rng) -> Features {
        let mut common = || rng.percent(60);
        let (unique, delta, child, truncate) = (common(), common(), common(), common());
        let (key_change, poison, collect) = (common(), common(), common());
        let mut rare = || rng.percent(40);
        let (crash, cut, away, clock, freeze) = (rare(), rare(), rare(), rare(), rare());
        Features { unique, delta, child, truncate, key_change, poison, collect, crash, cut, away, clock, freeze }
    }
}

pub struct Users {
    pub keys: Key,
    pub features: Features,
    serial: u32,
}

impl Users {
    pub fn new(keys: Key, features: Features) -> Users {
        Users { keys, features, serial: 0 }
    }

    fn key(&self, rng: &mut Rng) -> Key {
        rng.within(1, u64::from(self.keys)) as Key
    }

    pub fn transaction(&mut self, rng: &mut Rng, world: &World, node: NodeId) -> Vec<Statement> {
        let statements = rng.pick(&[1, 1, 1, 2, 3]);
        (0..statements).map(|_| self.statement(rng, world, node)).collect()
    }

    fn statement(&mut self, rng: &mut Rng, world: &World, node: NodeId) -> Statement {
        let is_child = self.features.child && rng.percent(40);
        let table = if is_child { Table::C } else { Table::A };
        let row = RowId { table, key: self.key(rng) };
        self.serial += 1;
        let is_live = world.node(node).current.rows.contains_key(&row);
        if is_child && self.features.truncate && rng.percent(6) {
            return Statement::Truncate { table };
        }
        if is_live && !is_child && self.features.key_change && rng.percent(10) {
            return Statement::Move { from: row.key, to: self.key(rng) };
        }
        if is_live && rng.percent(25) {
            return Statement::Delete { row };
        }
        let n = if self.features.delta && !is_child { rng.pick(&[0, 1, 5, 10]) } else { 0 };
        let link = match (is_child, is_live) {
            (true, true) => rng.percent(50).then(|| self.key(rng)).filter(|_| rng.percent(50)),
            (true, false) => rng.percent(50).then(|| self.key(rng)),
            (false, _) => (self.features.unique && rng.percent(60)).then(|| rng.within(1, 3) as Key),
        };
        if is_live {
            let big = (!is_child && rng.percent(30)).then_some(self.serial);
            return Statement::Update { row, v: Some(self.serial), link, big, n };
        }
        let big = if is_child { Big::NoColumn } else { Big::Value(self.serial) };
        Statement::Insert { row, cols: Cols { v: self.serial, link, big }, n }
    }
}

/// A last insert, which must find all nodes alike in what is left of deleted rows.
pub fn last_insert(key: Key) -> Statement {
    Statement::Insert { row: a(key), cols: Cols { v: 0, link: None, big: Big::Value(0) }, n: 7 }
}
