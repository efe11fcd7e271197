//! How far a peer's clock is ahead, by asking it for the time and looking at the own clock before and after.
//!
//! The answer was given somewhere between the two looks, so the offset lies in an interval as wide as the round trip.
//! The narrowest of the last answers is believed, until one comes that contradicts it: then a clock was stepped.

use crate::time::Timestamp;

/// Answers that are kept.
const KEPT: usize = 8;

/// One question and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The clock here, when the question went out.
    pub asked: Timestamp,
    /// The clock there.
    pub answered: Timestamp,
    /// The clock here, when the answer came.
    pub heard: Timestamp,
}

/// The clock there minus the clock here, give or take half of the round trip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offset {
    pub offset_us: i64,
    pub round_trip_us: i64,
}

impl Sample {
    pub fn offset(self) -> Offset {
        let round_trip_us = self.heard.0.saturating_sub(self.asked.0).max(0);
        let middle = self.asked.0.saturating_add(round_trip_us / 2);
        Offset { offset_us: self.answered.0.saturating_sub(middle), round_trip_us }
    }
}

impl Offset {
    /// The peer is ahead by this for certain; negative if it need not be ahead at all.
    pub fn at_least_us(self) -> i64 {
        self.offset_us.saturating_sub(self.round_trip_us / 2)
    }

    fn at_most_us(self) -> i64 {
        self.offset_us.saturating_add(self.round_trip_us / 2)
    }

    fn contradicts(self, other: Offset) -> bool {
        // the halves were rounded down
        self.at_least_us() > other.at_most_us().saturating_add(2)
            || other.at_least_us() > self.at_most_us().saturating_add(2)
    }
}

/// The last answers of one peer.
#[derive(Clone, Default, Debug)]
pub struct Offsets {
    last: Vec<Offset>,
}

impl Offsets {
    /// Takes an answer, and gives what is believed now.
    pub fn add(&mut self, sample: Sample) -> Offset {
        let new = sample.offset();
        self.last.retain(|old| !old.contradicts(new));
        if self.last.len() >= KEPT {
            self.last.remove(0);
        }
        self.last.push(new);
        self.last.iter().copied().min_by_key(|offset| offset.round_trip_us).unwrap_or(new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer of a peer that is ahead by `offset_us`, with these times on the way.
    fn sample(at: i64, there_us: i64, back_us: i64, offset_us: i64) -> Sample {
        Sample {
            asked: Timestamp(at),
            answered: Timestamp(at + there_us + offset_us),
            heard: Timestamp(at + there_us + back_us),
        }
    }

    #[test]
    fn the_quickest_answer_is_believed() {
        let mut offsets = Offsets::default();
        assert_eq!(offsets.add(sample(0, 1000, 9000, 500)).offset_us, 500 - 4000);
        assert_eq!(offsets.add(sample(20_000, 50, 50, 500)), Offset { offset_us: 500, round_trip_us: 100 });
        assert_eq!(offsets.add(sample(40_000, 9000, 1000, 500)).offset_us, 500);
    }

    #[test]
    fn a_stepped_clock_is_seen_with_the_first_answer() {
        let mut offsets = Offsets::default();
        offsets.add(sample(0, 50, 50, 500));
        assert_eq!(offsets.add(sample(20_000, 3000, 3000, 3_600_000_000)).offset_us, 3_600_000_000);
        assert_eq!(offsets.add(sample(40_000, 3000, 3000, -1_000_000)).offset_us, -1_000_000);
    }

    #[test]
    fn quick_answers_are_forgotten_in_time() {
        let mut offsets = Offsets::default();
        offsets.add(sample(0, 50, 50, 500));
        let late: Vec<_> = (0..KEPT as i64).map(|i| offsets.add(sample(i, 500, 500, 520)).offset_us).collect();
        assert_eq!((late[KEPT - 2], late[KEPT - 1]), (500, 520));
    }

    proptest! {
        #[test]
        fn what_is_certain_is_true(offset in -10_000_000_i64..10_000_000, trips in prop::collection::vec((0_i64..50_000, 0_i64..50_000), 1..30)) {
            let mut offsets = Offsets::default();
            for (there, back) in trips {
                let believed = offsets.add(sample(0, there, back, offset));
                prop_assert!(believed.at_least_us() <= offset + 1);
                prop_assert!((believed.offset_us - offset).abs() <= believed.round_trip_us / 2 + 1);
            }
        }
    }
}
