//! Promises and horizons: what can still arrive, here and anywhere.
//!
//! Each node announces two times in its stream, as heartbeats when idle too. Its *promise*: no commit of its own with a
//! timestamp up to it is still to come. Its *horizon*: the smallest promise that it has heard from all others, held back
//! by parked work; nothing up to it can take effect at that node any more. When every node's horizon has passed a delete,
//! nothing that was written without knowing it can turn up anywhere, and its tombstone may go. A promise alone is not
//! enough: a fetch could bring the row back from a peer that lags.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::time::Timestamp;

/// What one other member has told last. Neither ever falls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Heard {
    promise: Timestamp,
    horizon: Timestamp,
}

/// What a node has heard from all other members.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Horizons {
    others: BTreeMap<NodeId, Heard>,
}

impl Horizons {
    /// For a node whose fellow members are these; nothing is heard yet.
    pub fn new(others: impl IntoIterator<Item = NodeId>) -> Horizons {
        let mut horizons = Horizons::default();
        others.into_iter().for_each(|node| horizons.add_member(node));
        horizons
    }

    /// From now on nothing is forgotten before this member has confirmed it, too.
    pub fn add_member(&mut self, node: NodeId) {
        self.others.entry(node).or_insert(Heard { promise: Timestamp::MIN, horizon: Timestamp::MIN });
    }

    pub fn remove_member(&mut self, node: NodeId) {
        self.others.remove(&node);
    }

    /// Takes note of what a member has announced. One that is no member is ignored.
    pub fn hear(&mut self, node: NodeId, promise: Timestamp, horizon: Timestamp) {
        if let Some(heard) = self.others.get_mut(&node) {
            heard.promise = heard.promise.max(promise);
            heard.horizon = heard.horizon.max(horizon);
        }
    }

    /// This node's own horizon. `oldest_parked` is the smallest commit timestamp of its parked transactions. A node
    /// without fellow members has no bound.
    pub fn horizon(&self, oldest_parked: Option<Timestamp>) -> Timestamp {
        let promised = self.others.values().map(|heard| heard.promise).min().unwrap_or(Timestamp(i64::MAX));
        let before_parked = oldest_parked.map_or(Timestamp(i64::MAX), |oldest| Timestamp(oldest.0.saturating_sub(1)));
        promised.min(before_parked)
    }

    /// Nothing with a timestamp up to this can take effect on any node any more.
    pub fn confirmed(&self, oldest_parked: Option<Timestamp>) -> Timestamp {
        self.others.values().map(|heard| heard.horizon).fold(self.horizon(oldest_parked), Timestamp::min)
    }

    /// What each member has promised, for display and for finding the one that holds the others back.
    pub fn promises(&self) -> impl Iterator<Item = (NodeId, Timestamp)> {
        self.others.iter().map(|(&node, heard)| (node, heard.promise))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    #[test]
    fn the_slowest_member_holds_the_horizon() {
        let mut horizons = Horizons::new([TWO, THREE]);
        horizons.hear(TWO, Timestamp(50), Timestamp(30));
        assert_eq!(horizons.horizon(None), Timestamp::MIN);
        horizons.hear(THREE, Timestamp(40), Timestamp(20));
        assert_eq!(horizons.horizon(None), Timestamp(40));
        assert_eq!(horizons.confirmed(None), Timestamp(20));
    }

    #[test]
    fn parked_work_holds_both() {
        let mut horizons = Horizons::new([TWO]);
        horizons.hear(TWO, Timestamp(50), Timestamp(45));
        assert_eq!(horizons.horizon(Some(Timestamp(10))), Timestamp(9));
        assert_eq!(horizons.confirmed(Some(Timestamp(10))), Timestamp(9));
    }

    #[test]
    fn what_was_heard_does_not_fall_and_strangers_do_not_count() {
        let mut horizons = Horizons::new([TWO]);
        horizons.hear(TWO, Timestamp(50), Timestamp(45));
        horizons.hear(TWO, Timestamp(5), Timestamp(4));
        horizons.hear(THREE, Timestamp(1), Timestamp(1));
        assert_eq!(horizons.confirmed(None), Timestamp(45));
    }

    #[test]
    fn a_member_that_joins_holds_until_it_speaks_and_one_that_left_does_not() {
        let mut horizons = Horizons::new([TWO]);
        horizons.hear(TWO, Timestamp(50), Timestamp(45));
        horizons.add_member(THREE);
        assert_eq!(horizons.confirmed(None), Timestamp::MIN);
        horizons.remove_member(THREE);
        assert_eq!(horizons.confirmed(None), Timestamp(45));
    }
}
