//! Promises and horizons: what can still arrive, here and anywhere.
//!
//! Each node announces two times in its stream, as heartbeats when idle too. Its *promise*: no commit of its own with a
//! timestamp up to it is still to come. Its *horizon*: the smallest promise that it has heard from all others, held back
//! by parked work; nothing up to it can take effect at that node any more. When every node's horizon has passed a delete,
//! nothing that was written without knowing it can turn up anywhere, and its tombstone may go. A promise alone is not
//! enough: a fetch could bring the row back from a peer that lags.
//!
//! A member whose promise has stood still for longer than `tombstone_retention` is away: the others go on without it, and
//! refuse it when it comes back, if anything was forgotten meanwhile. Its promise tells, not its horizon, for a horizon
//! also stands still when a third member is away, and all members notice that at about the same time.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::time::Timestamp;

/// What one other member has told last. Neither ever falls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Heard {
    promise: Timestamp,
    horizon: Timestamp,
    /// When it last said something new, or became a member, by the clock here.
    last_word: Timestamp,
}

/// What may be forgotten, and at whose cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collection {
    pub up_to: Timestamp,
    /// This node's own horizon, without those that are away.
    pub horizon: Timestamp,
    /// Members that have been away for longer than `tombstone_retention` and are not waited for any more. They have to
    /// resynchronize.
    pub left_behind: Vec<NodeId>,
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
        others.into_iter().for_each(|node| horizons.add_member(node, Timestamp::MIN));
        horizons
    }

    /// From now on nothing is forgotten before this member has confirmed it, too. `last_word` is when it last said
    /// something new; for one that has not said anything, when it became a member.
    pub fn add_member(&mut self, node: NodeId, last_word: Timestamp) {
        let heard = Heard { promise: Timestamp::MIN, horizon: Timestamp::MIN, last_word };
        self.others.entry(node).or_insert(heard);
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

    /// What may be forgotten when a member that is away for longer than `retention_us` does not hold the others back any
    /// more. A clock that leaps takes nobody away: both the member's promise and its last word have to be old. The caller
    /// notes the largest `up_to` that left someone behind, for [`must_resynchronize`].
    pub fn collection(&self, oldest_parked: Option<Timestamp>, now: Timestamp, retention_us: i64) -> Collection {
        let oldest = Timestamp(now.0.saturating_sub(retention_us));
        let (left_behind, present): (Vec<_>, Vec<_>) =
            self.others.iter().partition(|(_, heard)| heard.promise.max(heard.last_word) < oldest);
        let present = Horizons { others: present.into_iter().map(|(&node, &heard)| (node, heard)).collect() };
        // nothing is promised for those that are away: what they wrote then is refused with them
        let up_to = present.confirmed(oldest_parked).min(now);
        let horizon = present.horizon(oldest_parked).min(now);
        Collection { up_to, horizon, left_behind: left_behind.into_iter().map(|(&node, _)| node).collect() }
    }

    /// What each member has promised, for display and for finding the one that holds the others back.
    pub fn promises(&self) -> impl Iterator<Item = (NodeId, Timestamp)> {
        self.others.iter().map(|(&node, heard)| (node, heard.promise))
    }
}

/// Whether a member that comes back has to be refused until it has resynchronized: something was forgotten (up to
/// `forgotten`) that it, with this horizon, had not confirmed. Its own stream has to go on at least from a promise that
/// is no smaller, or it could still bring what it wrote without knowing of that.
pub fn must_resynchronize(confirmed: Timestamp, forgotten: Timestamp) -> bool {
    confirmed < forgotten
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
    fn who_is_away_for_too_long_is_left_behind_and_refused() {
        let mut horizons = Horizons::new([TWO]);
        horizons.add_member(THREE, Timestamp(100));
        horizons.hear(TWO, Timestamp(150), Timestamp(150));
        let patient = horizons.collection(None, Timestamp(200), 100);
        assert_eq!(patient.up_to, Timestamp::MIN);
        assert_eq!(patient.left_behind, []);
        let later = horizons.collection(None, Timestamp(201), 100);
        let without = Timestamp(150);
        assert_eq!(later, Collection { up_to: without, horizon: without, left_behind: vec![THREE] });
        assert!(must_resynchronize(Timestamp(149), later.up_to));
        assert!(!must_resynchronize(Timestamp(150), later.up_to));
        let parked = horizons.collection(Some(Timestamp(120)), Timestamp(201), 100);
        assert_eq!(parked.up_to, Timestamp(119));
        let alone = horizons.collection(None, Timestamp(1000), 100);
        let now = Timestamp(1000);
        assert_eq!(alone, Collection { up_to: now, horizon: now, left_behind: vec![TWO, THREE] });
    }

    #[test]
    fn a_horizon_that_a_third_holds_leaves_nobody_behind() {
        let mut horizons = Horizons::new([TWO, THREE]);
        horizons.hear(THREE, Timestamp(10), Timestamp(10));
        // two is here, but has not heard of three, either
        horizons.hear(TWO, Timestamp(200), Timestamp(10));
        let collection = horizons.collection(None, Timestamp(200), 100);
        assert_eq!(collection.left_behind, [THREE]);
        assert_eq!((collection.up_to, collection.horizon), (Timestamp(10), Timestamp(200)));
    }

    #[test]
    fn a_clock_that_leaps_takes_nobody_away() {
        let mut horizons = Horizons::default();
        horizons.add_member(TWO, Timestamp(9_999));
        horizons.hear(TWO, Timestamp(50), Timestamp(50));
        assert_eq!(horizons.collection(None, Timestamp(10_000), 100).left_behind, []);
    }

    #[test]
    fn a_member_that_joins_holds_until_it_speaks_and_one_that_left_does_not() {
        let mut horizons = Horizons::new([TWO]);
        horizons.hear(TWO, Timestamp(50), Timestamp(45));
        horizons.add_member(THREE, Timestamp(60));
        assert_eq!(horizons.confirmed(None), Timestamp::MIN);
        horizons.remove_member(THREE);
        assert_eq!(horizons.confirmed(None), Timestamp(45));
    }
}
