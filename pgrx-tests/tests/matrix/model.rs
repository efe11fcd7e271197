//! The table of the rule on paper: what each node must hold and record, for one program of writes and deliveries.
//!
//! Written from the documents and not from the code, so that it can judge it. Stamps are the places of the writes in time,
//! since the writes of a program are made one after the other.

use std::collections::BTreeMap;

/// Place in time, and node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    pub at: usize,
    pub node: usize,
}

/// One of the two keys that a program plays with.
pub type Key = usize;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Insert,
    Update,
    Delete,
}

/// What a node does to its keys in one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    Insert(Key),
    Update(Key),
    Delete(Key),
    /// DELETE, then INSERT.
    Replace(Key),
    /// UPDATE of the key, from one to the other.
    Move(Key, Key),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Nothing,
    Live(Stamp),
    Dead(Stamp),
}

/// What an incoming change meets: a column of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Met {
    Nothing,
    Replaced,
    Older,
    Newer,
    DeadOlder,
    DeadNewer,
    /// What its own transaction has left.
    Own,
}

/// A row of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: Key,
    pub conflict: &'static str,
    pub resolution: &'static str,
    pub local: Option<Stamp>,
    pub remote: Stamp,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    key: Key,
    kind: Kind,
    stamp: Stamp,
    /// Version that it replaced; nothing for an insert.
    replaced: Option<Stamp>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub known: [Known; 2],
    pub history: Vec<Entry>,
    log: Vec<Vec<Change>>,
    /// How much of each other node's log has arrived.
    heard: BTreeMap<usize, usize>,
}

/// All nodes; their numbers begin with 1.
#[derive(Clone, Debug)]
pub struct World {
    nodes: Vec<Node>,
    pub visited: BTreeMap<(Kind, Met), usize>,
}

impl World {
    pub fn new(nodes: usize) -> World {
        let node = Node { known: [Known::Nothing; 2], history: Vec::new(), log: Vec::new(), heard: BTreeMap::new() };
        World { nodes: vec![node; nodes], visited: BTreeMap::new() }
    }

    pub fn node(&self, place: usize) -> &Node {
        &self.nodes[place - 1]
    }

    pub fn places(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// Makes a row known to some nodes as if it had always been there.
    pub fn found(&mut self, places: &[usize], key: Key, known: Known) {
        places.iter().for_each(|place| self.nodes[place - 1].known[key] = known);
    }

    /// The writes that a node can make now.
    pub fn possible(&self, place: usize) -> Vec<Write> {
        let live = |key: Key| matches!(self.node(place).known[key], Known::Live(_));
        match (live(0), live(1)) {
            (false, _) => vec![Write::Insert(0)],
            (true, false) => vec![Write::Update(0), Write::Delete(0), Write::Replace(0), Write::Move(0, 1)],
            (true, true) => vec![Write::Update(0), Write::Delete(0), Write::Replace(0)],
        }
    }

    pub fn write(&mut self, stamp: Stamp, write: Write) {
        let known = self.node(stamp.node).known;
        let version = |key: Key| if let Known::Live(version) = known[key] { Some(version) } else { None };
        let change = |kind, key, replaced| Change { key, kind, stamp, replaced };
        let transaction = match write {
            Write::Insert(key) => vec![change(Kind::Insert, key, None)],
            Write::Update(key) => vec![change(Kind::Update, key, version(key))],
            Write::Delete(key) => vec![change(Kind::Delete, key, version(key))],
            Write::Replace(key) => {
                vec![change(Kind::Delete, key, version(key)), change(Kind::Insert, key, None)]
            }
            Write::Move(from, to) => {
                vec![change(Kind::Delete, from, version(from)), change(Kind::Insert, to, None)]
            }
        };
        let node = &mut self.nodes[stamp.node - 1];
        for change in &transaction {
            node.known[change.key] = match change.kind {
                Kind::Insert | Kind::Update => Known::Live(stamp),
                Kind::Delete => Known::Dead(stamp),
            };
        }
        node.log.push(transaction);
    }

    /// All that `from` has written arrives at `to`.
    pub fn deliver(&mut self, from: usize, to: usize) {
        let begin = self.node(to).heard.get(&from).copied().unwrap_or(0);
        let log = self.node(from).log.clone();
        self.nodes[to - 1].heard.insert(from, log.len());
        for change in log[begin..].iter().flatten() {
            let met = self.nodes[to - 1].apply(*change);
            *self.visited.entry((change.kind, met)).or_default() += 1;
        }
    }
}

impl Node {
    fn apply(&mut self, change: Change) -> Met {
        let here = self.known[change.key];
        let met = met(change, here);
        let (wins, conflict) = cell(change.kind, met);
        if let Some((conflict, resolution)) = conflict {
            let local = match here {
                Known::Live(stamp) | Known::Dead(stamp) => Some(stamp),
                Known::Nothing => None,
            };
            self.history.push(Entry { key: change.key, conflict, resolution, local, remote: change.stamp });
        }
        if wins {
            self.known[change.key] = match change.kind {
                Kind::Insert | Kind::Update => Known::Live(change.stamp),
                Kind::Delete => Known::Dead(change.stamp),
            };
        }
        met
    }
}

fn met(change: Change, here: Known) -> Met {
    match here {
        Known::Nothing => Met::Nothing,
        Known::Live(stamp) | Known::Dead(stamp) if stamp == change.stamp => Met::Own,
        Known::Live(stamp) if stamp > change.stamp => Met::Newer,
        Known::Live(stamp) => match change.replaced {
            // no word in the stream: some version of its own, and the last of those that have arrived
            Some(replaced) if replaced.node == change.stamp.node && stamp.node == change.stamp.node => Met::Replaced,
            Some(replaced) if replaced == stamp => Met::Replaced,
            _ => Met::Older,
        },
        Known::Dead(stamp) if stamp > change.stamp => Met::DeadNewer,
        Known::Dead(_) => Met::DeadOlder,
    }
}

/// A cell of the table: whether the change wins, and the conflict.
fn cell(kind: Kind, met: Met) -> (bool, Option<(&'static str, &'static str)>) {
    use Kind::*;
    match (met, kind) {
        (Met::Own | Met::Replaced, _) => (true, None),
        (Met::Nothing, Insert) => (true, None),
        (Met::Nothing, Update) => (true, Some(("update_missing", "apply_remote"))),
        (Met::Nothing, Delete) => (true, Some(("delete_missing", "skip"))),
        (Met::Older, Insert) => (true, Some(("insert_exists", "apply_remote"))),
        (Met::Older, Update) => (true, Some(("update_origin_differs", "apply_remote"))),
        (Met::Older, Delete) => (true, Some(("delete_origin_differs", "apply_remote"))),
        (Met::Newer, Insert) => (false, Some(("insert_exists", "keep_local"))),
        (Met::Newer, Update) => (false, Some(("update_origin_differs", "keep_local"))),
        (Met::Newer, Delete) => (false, Some(("delete_exists", "keep_local"))),
        (Met::DeadOlder, Insert) => (true, None),
        (Met::DeadOlder, Update) => (true, Some(("update_deleted", "apply_remote"))),
        (Met::DeadOlder, Delete) => (true, None),
        (Met::DeadNewer, Insert) => (false, Some(("insert_deleted", "skip"))),
        (Met::DeadNewer, Update) => (false, Some(("update_deleted", "skip"))),
        (Met::DeadNewer, Delete) => (false, None),
    }
}
