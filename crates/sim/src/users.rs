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
    pub two_unique: bool,
    pub child: bool,
    pub grandchild: bool,
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
        let (two_unique, grandchild) = (rare(), rare());
        let (crash, cut, away, clock, freeze) = (rare(), rare(), rare(), rare(), rare());
        Features {
            unique,
            two_unique,
            delta,
            child,
            grandchild,
            truncate,
            key_change,
            poison,
            collect,
            crash,
            cut,
            away,
            clock,
            freeze,
        }
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
        (0..statements).flat_map(|_| self.statement(rng, world, node)).collect()
    }

    fn statement(&mut self, rng: &mut Rng, world: &World, node: NodeId) -> Vec<Statement> {
        let features = self.features;
        let table = match (features.child && rng.percent(40), features.grandchild && rng.percent(40)) {
            (false, _) => Table::A,
            (true, false) => Table::C,
            (true, true) => Table::G,
        };
        let row = RowId { table, key: self.key(rng) };
        self.serial += 1;
        let is_live = world.node(node).current.rows.contains_key(&row);
        if table != Table::A && features.truncate && rng.percent(6) {
            // as TRUNCATE .. CASCADE
            let mut tables = if features.grandchild { vec![Table::G] } else { Vec::new() };
            tables.extend((table == Table::C).then_some(Table::C));
            return tables.into_iter().map(|table| Statement::Truncate { table }).collect();
        }
        if is_live && table == Table::A && features.key_change && rng.percent(10) {
            return vec![Statement::Move { from: row.key, to: self.key(rng) }];
        }
        if is_live && rng.percent(25) {
            return vec![Statement::Delete { row }];
        }
        vec![self.write(rng, row, is_live)]
    }

    fn write(&mut self, rng: &mut Rng, row: RowId, is_live: bool) -> Statement {
        let features = self.features;
        let is_child = row.table != Table::A;
        let n = if features.delta && !is_child { rng.pick(&[0, 1, 5, 10]) } else { 0 };
        let mut unique = |wanted: bool| (wanted && rng.percent(60)).then(|| rng.within(1, 3) as Key);
        let second = unique(!is_child && features.unique && features.two_unique);
        let link = match (is_child, is_live) {
            (false, _) => unique(features.unique),
            (true, true) => rng.percent(25).then(|| self.key(rng)),
            (true, false) => rng.percent(50).then(|| self.key(rng)),
        };
        if is_live {
            let big = (!is_child && rng.percent(30)).then_some(self.serial);
            return Statement::Update { row, v: Some(self.serial), link, second, big, n };
        }
        let big = if is_child { Big::NoColumn } else { Big::Value(self.serial) };
        Statement::Insert { row, cols: Cols { v: self.serial, link, second, big }, n }
    }
}

/// A last insert, which must find all nodes alike in what is left of deleted rows.
pub fn last_insert(key: Key) -> Statement {
    Statement::Insert { row: a(key), cols: Cols { v: 0, link: None, second: None, big: Big::Value(0) }, n: 7 }
}
