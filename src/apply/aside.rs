//! Which remote transactions were not applied here, though later ones of their origin may have been.
//!
//! A change that says nothing of the version that it replaced replaced one of its own origin: the last one of that origin's
//! stream. Behind a transaction that was parked, skipped or discarded, the row here need not be that one. The worker
//! reads the stamps of all such transactions when it starts, and adds those that it parks itself; one that was replayed
//! meanwhile only makes it more careful.

use std::collections::BTreeSet;

use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};

#[derive(Default)]
pub struct Aside {
    stamps: BTreeSet<(NodeId, Timestamp)>,
}

impl Aside {
    pub fn of(stamps: Vec<Stamp>) -> Aside {
        Aside { stamps: stamps.into_iter().map(|stamp| (stamp.node, stamp.commit_ts)).collect() }
    }

    pub fn add(&mut self, stamp: Stamp) {
        self.stamps.insert((stamp.node, stamp.commit_ts));
    }

    pub fn remove(&mut self, stamp: Stamp) {
        self.stamps.remove(&(stamp.node, stamp.commit_ts));
    }

    /// Largest stamp of a transaction of the same origin that is smaller than this one.
    pub fn before(&self, stamp: Stamp) -> Option<Stamp> {
        let Stamp { commit_ts, node } = stamp;
        let range = (node, Timestamp(i64::MIN))..(node, commit_ts);
        self.stamps.range(range).next_back().map(|&(node, commit_ts)| Stamp { commit_ts, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(commit_ts: i64, node: u16) -> Stamp {
        Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
    }

    #[test]
    fn only_what_the_same_origin_wrote_before_counts() {
        let mut aside = Aside::of(vec![stamp(10, 1), stamp(30, 1), stamp(20, 2)]);
        assert_eq!(aside.before(stamp(10, 1)), None);
        assert_eq!(aside.before(stamp(11, 1)), Some(stamp(10, 1)));
        assert_eq!(aside.before(stamp(99, 1)), Some(stamp(30, 1)));
        assert_eq!(aside.before(stamp(99, 3)), None);
        aside.add(stamp(5, 3));
        assert_eq!(aside.before(stamp(99, 3)), Some(stamp(5, 3)));
    }
}
