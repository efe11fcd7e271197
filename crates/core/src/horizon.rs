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

/// Members that a node goes on without, in one word; few enough to be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Without(u64);

/// Node ids are smaller than `1 << NODE_BITS`.
const NODE_BITS: u32 = 10;

impl Without {
    /// Nobody.
    pub const NONE: Without = Without(0);

    /// None if there are too many of them.
    pub fn of(nodes: &[NodeId]) -> Option<Without> {
        if nodes.len() > (u64::BITS / NODE_BITS) as usize {
            return None;
        }
        Some(Without(nodes.iter().fold(0, |word, node| word << NODE_BITS | u64::from(node.0))))
    }

    pub fn from_word(word: u64) -> Without {
        Without(word)
    }

    pub fn word(self) -> u64 {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let node = (rest & ((1 << NODE_BITS) - 1)) as u16;
            rest >>= NODE_BITS;
            (node != 0).then_some(NodeId(node))
        })
    }
}

/// What one other member has told last. Promise and horizon never fall.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Heard {
    promise: Timestamp,
    horizon: Timestamp,
    /// Its horizon without the members that it has left behind, and which those are. It stands for `horizon` here only
    /// if this node has left them behind, too: one that is present here may not have been waited for there.
    beyond: Timestamp,
    without: Without,
    /// When it last said something new, or became a member, by the clock here.
    last_word: Timestamp,
}

/// What may be forgotten, and at whose cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collection {
    pub up_to: Timestamp,
    /// This node's own horizon, over all members.
    pub horizon: Timestamp,
    /// The same without those that are away.
    pub beyond: Timestamp,
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
        let nothing = Timestamp::MIN;
        let heard =
            Heard { promise: nothing, horizon: nothing, beyond: nothing, without: Without::default(), last_word };
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

    /// What a member's horizon is without those that it has left behind.
    pub fn hear_beyond(&mut self, node: NodeId, beyond: Timestamp, without: Without) {
        if let Some(heard) = self.others.get_mut(&node) {
            (heard.beyond, heard.without) = (beyond, without);
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
        let is_away = |heard: &Heard| heard.promise.max(heard.last_word) < oldest;
        let left_behind: Vec<NodeId> =
            self.others.iter().filter(|(_, heard)| is_away(heard)).map(|(&node, _)| node).collect();
        let mut present = self.clone();
        present.others.retain(|_, heard| !is_away(heard));
        for heard in present.others.values_mut() {
            if !heard.without.is_empty() && heard.without.nodes().all(|node| left_behind.contains(&node)) {
                heard.horizon = heard.horizon.max(heard.beyond);
            }
        }
        // nothing is promised for those that are away: what they wrote then is refused with them
        Collection {
            up_to: present.confirmed(oldest_parked).min(now),
            horizon: self.horizon(oldest_parked).min(now),
            beyond: present.horizon(oldest_parked).min(now),
            left_behind,
        }
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
        let (beyond, horizon) = (Timestamp(150), Timestamp::MIN);
        assert_eq!(later, Collection { up_to: beyond, horizon, beyond, left_behind: vec![THREE] });
        assert!(must_resynchronize(Timestamp(149), later.up_to));
        assert!(!must_resynchronize(Timestamp(150), later.up_to));
        let parked = horizons.collection(Some(Timestamp(120)), Timestamp(201), 100);
        assert_eq!(parked.up_to, Timestamp(119));
        let alone = horizons.collection(None, Timestamp(1000), 100);
        let now = Timestamp(1000);
        assert_eq!(alone, Collection { up_to: now, horizon, beyond: now, left_behind: vec![TWO, THREE] });
    }

    #[test]
    fn a_horizon_that_a_third_holds_leaves_nobody_behind() {
        let mut horizons = Horizons::new([TWO, THREE]);
        horizons.hear(THREE, Timestamp(10), Timestamp(10));
        // two is here, but has not heard of three, either
        horizons.hear(TWO, Timestamp(200), Timestamp(10));
        let collection = horizons.collection(None, Timestamp(200), 100);
        assert_eq!(collection.left_behind, [THREE]);
        assert_eq!((collection.horizon, collection.beyond), (Timestamp(10), Timestamp(200)));
        assert_eq!(collection.up_to, Timestamp(10));
        // until two has left three behind as well
        horizons.hear_beyond(TWO, Timestamp(200), Without(3));
        assert_eq!(horizons.collection(None, Timestamp(200), 100).up_to, Timestamp(200));
    }

    #[test]
    fn who_is_cut_off_from_one_only_is_waited_for_by_all_others() {
        // two hears nothing of this node any more, and goes on without it; three is well
        let mut horizons = Horizons::new([TWO, THREE]);
        horizons.hear(TWO, Timestamp(200), Timestamp(10));
        horizons.hear_beyond(TWO, Timestamp(199), Without(1));
        horizons.hear(THREE, Timestamp(200), Timestamp(200));
        let collection = horizons.collection(None, Timestamp(200), 100);
        assert_eq!((collection.up_to, collection.left_behind), (Timestamp(10), vec![]));
    }

    #[test]
    fn a_few_members_fit_into_a_word() {
        let nodes: Vec<NodeId> = [1, 1023, 512, 7, 300, 2].map(NodeId).to_vec();
        let mut told: Vec<NodeId> = Without::of(&nodes).expect("six").nodes().collect();
        told.reverse();
        assert_eq!(told, nodes);
        assert_eq!(Without::of(&[NodeId(1); 7]), None);
        assert!(Without::default().nodes().next().is_none());
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
