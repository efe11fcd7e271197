//! Snowflake ids: numbers that no other node and no later call gives again.
//!
//! An id is 63 bits of a 64-bit integer: 41 of milliseconds since 2023-01-01 00:00 UTC, 12 of a counter, 10 of the node
//! number. So ids of nodes with different numbers never meet, and ids of one sequence only have to rise.
//!
//! **State machine.** A sequence keeps its last id ([`State`]); the next one is decided by [`draw`] from that, the clock
//! and nothing else, under a lock that every session of the server takes:
//!
//! * the clock is later than the last id: its millisecond, counter 0;
//! * it is not: the last id's millisecond, next counter;
//! * the counter is used up: wait for the next millisecond if it is about to come, else go on into the next one, ahead of
//!   the clock. So a clock that was stepped back stops nobody, and its ids run ahead until it has caught up.
//!
//! **Durability.** Write-ahead log tells of more than was drawn: of an id up to [`AHEAD_MS`] later, which is where a server
//! goes on after a crash. An id up to there needs no log of its own; one beyond takes a new record, and is given to
//! nobody before that is on disk. What the log tells is kept beside the last id, in milliseconds (`logged_ahead_ms`), and
//! counts for nothing once a checkpoint has begun since: recovery would not read that record.

use crate::ids::NodeId;
use crate::time::Timestamp;

const NODE_BITS: u32 = 10;
const COUNT_BITS: u32 = 12;

pub const MAX_COUNT: u16 = (1 << COUNT_BITS) - 1;
/// In the year 2092.
pub const MAX_MS: i64 = (1 << 41) - 1;

/// 2023-01-01 00:00 UTC, in microseconds since 2000-01-01.
const EPOCH_US: i64 = 8401 * 86_400 * 1_000_000;

/// How far the log tells ahead. After a crash ids are ahead of the clock by at most this.
pub const AHEAD_MS: i64 = 3000;

/// A clock that is behind the last id by no more than this is waited for.
const WAIT_MS: i64 = 1;

/// An id in its parts. Ordered as the numbers are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// Since 2023-01-01.
    pub ms: i64,
    pub count: u16,
    pub node: u16,
}

impl Id {
    pub fn of(number: i64) -> Id {
        Id {
            ms: number >> (COUNT_BITS + NODE_BITS),
            count: (number >> NODE_BITS) as u16 & MAX_COUNT,
            node: number as u16 & ((1 << NODE_BITS) - 1),
        }
    }

    pub fn number(self) -> i64 {
        self.ms << (COUNT_BITS + NODE_BITS) | i64::from(self.count) << NODE_BITS | i64::from(self.node)
    }
}

/// What a sequence keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The last id; or any number that is not to come, as of a sequence that counted before.
    pub last: i64,
    /// How far beyond the last id's millisecond the log tells.
    pub logged_ahead_ms: i64,
}

/// What comes of asking for an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Draw {
        id: i64,
        after: State,
        /// What is to be logged, and on disk before anybody gets the id.
        log: Option<i64>,
    },
    /// The counter is used up until then.
    Wait { us: i64 },
    /// There are no more milliseconds.
    Exhausted,
}

/// The next id. `is_log_old`: a checkpoint has begun since the last record. `may_wait`: false for one who has waited.
pub fn draw(state: State, node: NodeId, now: Timestamp, is_log_old: bool, may_wait: bool) -> Step {
    let last = Id::of(state.last.max(0));
    let now_us = now.0.saturating_sub(EPOCH_US);
    let now_ms = now_us.div_euclid(1000);
    let (ms, count) = if now_ms > last.ms {
        (now_ms, 0)
    } else if last.count < MAX_COUNT {
        (last.ms, last.count + 1)
    } else if may_wait && last.ms - now_ms <= WAIT_MS {
        return Step::Wait { us: (last.ms + 1) * 1000 - now_us };
    } else {
        (last.ms + 1, 0)
    };
    if ms > MAX_MS {
        return Step::Exhausted;
    }
    let id = Id { ms, count, node: node.0 }.number();
    let logged_ms = last.ms.saturating_add(state.logged_ahead_ms.max(0)).min(MAX_MS);
    if ms <= logged_ms && state.logged_ahead_ms > 0 && !is_log_old {
        return Step::Draw { id, after: State { last: id, logged_ahead_ms: logged_ms - ms }, log: None };
    }
    let logged = Id { ms: (ms + AHEAD_MS).min(MAX_MS), count: MAX_COUNT, node: node.0 };
    Step::Draw { id, after: State { last: id, logged_ahead_ms: logged.ms - ms }, log: Some(logged.number()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_ms(ms: i64) -> Timestamp {
        Timestamp(EPOCH_US + ms * 1000)
    }

    #[test]
    fn the_layout_is_the_one_that_users_have() {
        // from the documentation of the public extension: 1704996539.845 seconds since 1970
        let id = Id::of(136_169_504_773_242_881);
        assert_eq!((id.ms + 1_672_531_200_000, id.count, id.node), (1_704_996_539_845, 0, 1));
        assert_eq!(Id { ms: MAX_MS, count: MAX_COUNT, node: 1023 }.number(), i64::MAX);
        // to_timestamp(1672531200) in the server's way to count
        assert_eq!(EPOCH_US, (1_672_531_200 - 946_684_800) * 1_000_000);
    }

    fn drawn(step: Step) -> (i64, State, Option<i64>) {
        match step {
            Step::Draw { id, after, log } => (id, after, log),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_used_up_counter_waits_for_the_clock_if_that_is_near_and_goes_ahead_if_not() {
        let full = Id { ms: 1000, count: MAX_COUNT, node: 3 }.number();
        let state = State { last: full, logged_ahead_ms: 10 };
        let next = |now: Timestamp, may_wait| draw(state, NodeId(3), now, false, may_wait);
        assert_eq!(next(Timestamp(at_ms(1000).0 + 400), true), Step::Wait { us: 600 });
        assert_eq!(next(at_ms(999), true), Step::Wait { us: 2000 });
        let after = Id { ms: 1001, count: 0, node: 3 }.number();
        for step in [next(at_ms(1000), false), next(at_ms(998), true), next(at_ms(1001), true)] {
            assert_eq!(drawn(step).0, after);
        }
    }

    #[test]
    fn the_end_of_time_is_an_end() {
        let state = |ms| State { last: Id { ms, count: MAX_COUNT, node: 1 }.number(), logged_ahead_ms: 0 };
        assert_eq!(draw(state(MAX_MS), NodeId(1), at_ms(5), false, true), Step::Exhausted);
        let (id, _, log) = drawn(draw(state(MAX_MS - 1), NodeId(1), at_ms(5), false, true));
        assert_eq!((Id::of(id).ms, log), (MAX_MS, Some(Id { ms: MAX_MS, count: MAX_COUNT, node: 1 }.number())));
        assert_eq!(draw(state(0), NodeId(1), Timestamp(i64::MAX), false, true), Step::Exhausted);
        assert_eq!(Id::of(drawn(draw(state(0), NodeId(1), Timestamp(i64::MIN), false, true)).0).ms, 1);
    }

    #[test]
    fn one_record_is_enough_for_many_ids() {
        let mut state = State { last: 57, logged_ahead_ms: 0 };
        let mut records = 0;
        for ms in 0..60_000 {
            let (_, after, log) = drawn(draw(state, NodeId(1), at_ms(5_000_000 + ms), false, true));
            state = after;
            records += i64::from(log.is_some());
        }
        assert!((60_000 / AHEAD_MS..=60_000 / AHEAD_MS + 1).contains(&records), "{records}");
    }

    /// What may happen to a sequence.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Draws(u16),
        /// The clock moves by so many microseconds, back as well.
        Clock(i64),
        NodeNumber(u16),
        /// The checkpoint's start is noted; the page is written some time before its end.
        CheckpointBegins,
        PageIsWritten,
        CheckpointEnds,
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (1_u16..6000).prop_map(Event::Draws),
            3 => (0_i64..5_000_000).prop_map(Event::Clock),
            1 => (-4_000_000_000_i64..4_000_000_000).prop_map(Event::Clock),
            1 => (1_u16..=1023).prop_map(Event::NodeNumber),
            1 => Just(Event::CheckpointBegins),
            1 => Just(Event::PageIsWritten),
            1 => Just(Event::CheckpointEnds),
            2 => Just(Event::Crash),
        ]
    }

    /// A page in memory and on disk, and the log: only where records end matters, so positions are counted.
    struct Server {
        page: State,
        page_lsn: u64,
        disk: (State, u64),
        records: Vec<(u64, i64)>,
        lsn: u64,
        /// Where the log is read from after a crash, as all processes know it, and as the last whole checkpoint has it.
        redo: u64,
        control: u64,
        now: i64,
        node: u16,
    }

    impl Server {
        fn draw(&mut self) -> i64 {
            let mut may_wait = true;
            loop {
                let is_log_old = self.page_lsn <= self.redo;
                match draw(self.page, NodeId(self.node), Timestamp(self.now), is_log_old, may_wait) {
                    Step::Draw { id, after, log } => {
                        if let Some(logged) = log {
                            self.lsn += 1;
                            self.records.push((self.lsn, logged));
                            self.page_lsn = self.lsn;
                        }
                        self.page = after;
                        return id;
                    }
                    Step::Wait { us } => {
                        assert!((1..=2000).contains(&us), "{us}");
                        // a clock that stands still
                        may_wait = us % 2 == 0;
                        self.now += if may_wait { us } else { 0 };
                    }
                    Step::Exhausted => panic!("not in this test"),
                }
            }
        }

        fn happen(&mut self, event: Event) {
            match event {
                Event::Draws(_) => {}
                Event::Clock(us) => self.now = (self.now + us).max(EPOCH_US),
                Event::NodeNumber(node) => self.node = node,
                Event::CheckpointBegins => {
                    self.lsn += 1;
                    self.redo = self.lsn;
                }
                Event::PageIsWritten => self.disk = (self.page, self.page_lsn),
                Event::CheckpointEnds => {
                    self.disk = (self.page, self.page_lsn);
                    self.control = self.redo;
                }
                Event::Crash => {
                    self.page = self.disk.0;
                    self.page_lsn = self.disk.1;
                    for &(lsn, logged) in self.records.iter().filter(|&&(lsn, _)| lsn > self.control) {
                        self.page = State { last: logged, logged_ahead_ms: 0 };
                        self.page_lsn = lsn;
                    }
                    // recovery ends with a checkpoint
                    self.disk = (self.page, self.page_lsn);
                    self.lsn += 1;
                    (self.redo, self.control) = (self.lsn, self.lsn);
                }
            }
        }
    }

    proptest! {
        /// Whatever the clock does and whenever the server crashes, each id is larger than the one before.
        #[test]
        fn ids_rise(events in proptest::collection::vec(event(), 1..60), start in 0_i64..100_000) {
            let page = State { last: start, logged_ahead_ms: 0 };
            let now = EPOCH_US + 100_000_000_000;
            let mut server = Server {
                page, page_lsn: 0, disk: (page, 0), records: Vec::new(), lsn: 0, redo: 0, control: 0, now, node: 1,
            };
            let mut last = start;
            for &event in &events {
                server.happen(event);
                let Event::Draws(count) = event else { continue };
                for _ in 0..count {
                    let id = server.draw();
                    prop_assert!(id > last, "{:?} after {:?}", Id::of(id), Id::of(last));
                    prop_assert_eq!(Id::of(id).node, server.node);
                    // the counter is above the node number: two nodes never meet
                    prop_assert!(id >> NODE_BITS > last >> NODE_BITS);
                    last = id;
                }
            }
        }

        #[test]
        fn parts_make_the_number(ms in 0..=MAX_MS, count in 0..=MAX_COUNT, node in 0_u16..1024) {
            let id = Id { ms, count, node };
            prop_assert!(id.number() >= 0);
            prop_assert_eq!(Id::of(id.number()), id);
        }
    }
}
