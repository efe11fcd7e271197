//! Asking the provider for the time: a report that wants a reply, and the keepalive that answers it.
//!
//! A keepalive that the provider sent by itself, while the question was on its way, is taken for the answer; the offset is
//! wrong then by no more than the time that a message takes. The first answers are asked for quickly, so that there is
//! soon a good one among them.

use std::time::{Duration, Instant, SystemTime};

use meld_core::clock::{Offset, Offsets, Sample};
use meld_core::time::Timestamp;

/// How many are the first questions.
const FIRST: u32 = 4;
/// The clock here was stepped while a question was under way, if it differs from the time that passed by more.
const STEP_US: u64 = 1000;
/// A question without an answer for this long is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Question {
    first_pause: Duration,
    asked: Option<(SystemTime, Instant)>,
    answers: u32,
    offsets: Offsets,
}

impl Question {
    /// `first_pause`: between the first questions.
    pub fn new(first_pause: Duration) -> Question {
        Question { first_pause, asked: None, answers: 0, offsets: Offsets::default() }
    }

    /// Whether another question can be asked.
    pub fn is_due(&self) -> bool {
        self.asked.is_none_or(|(_, at)| at.elapsed() >= PATIENCE)
    }

    /// A question goes out. It counts if none is open.
    pub fn asked(&mut self, clock: SystemTime) {
        if self.is_due() {
            self.asked = Some((clock, Instant::now()));
        }
    }

    /// A keepalive came that was sent when the provider's clock read `sent_at`.
    pub fn answered(&mut self, sent_at: Timestamp) -> Option<Offset> {
        let (asked, at) = self.asked.take()?;
        let (asked, heard) = (timestamp(asked), timestamp(SystemTime::now()));
        let passed_us = i64::try_from(at.elapsed().as_micros()).ok()?;
        if heard.0.saturating_sub(asked.0).abs_diff(passed_us) > STEP_US {
            return None;
        }
        self.answers = self.answers.saturating_add(1);
        Some(self.offsets.add(Sample { asked, answered: sent_at, heard }))
    }

    /// When to ask again, if that is soon.
    pub fn pause(&self) -> Option<Duration> {
        (self.answers < FIRST).then_some(self.first_pause)
    }
}

/// PostgreSQL's way to count: microseconds since 2000.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    /// From 1970 to 2000.
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let since = at.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_question_says_nothing() {
        let mut question = Question::new(Duration::ZERO);
        assert!(question.is_due() && question.answered(Timestamp(0)).is_none());
        question.asked(SystemTime::now());
        assert!(!question.is_due());
        let ahead = timestamp(SystemTime::now()).0 + 5_000_000;
        let offset = question.answered(Timestamp(ahead)).unwrap();
        assert!((4_000_000..=6_000_000).contains(&offset.offset_us), "{offset:?}");
        assert!(question.is_due() && question.answered(Timestamp(0)).is_none());
    }

    #[test]
    fn a_clock_that_was_stepped_meanwhile_gives_no_answer() {
        let mut question = Question::new(Duration::ZERO);
        question.asked(SystemTime::now() - Duration::from_secs(10));
        assert_eq!(question.answered(Timestamp(0)), None);
    }
}
