//! What a node keeps of its clock over restarts and crashes, and how it is brought up to date at the next start.
//!
//! The record is written every second or so, so it lags behind. What it misses are the transactions that had not ended
//! when it was made: those that were running, and all whose ids come later. Their commit timestamps are looked up at the
//! next start and taken in one by one ([`Recovery`]).

use std::fmt::Write;

use crate::ids::Xid;
use crate::time::Timestamp;

/// First id that belongs to an ordinary transaction.
const FIRST_NORMAL: u32 = 3;
/// The scan looks at no more ids than this. They follow the clock but for the length of a transaction, so the latest
/// timestamps are among the last ids; there are more only if the record is old or was lost.
const MOST_IDS: u32 = 2_000_000;
/// A replayed transaction was committed once the clock had passed its timestamp. The record tells the clock of a moment
/// before the crash, and it is never older than this; a later timestamp was not waited for.
const PLAUSIBLE_US: i64 = 60_000_000;

/// The content of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// No local commit may get a timestamp up to this.
    pub high_water: Timestamp,
    /// Largest commit timestamp of any row; above the high water if a replayed transaction was not waited for.
    pub newest: Timestamp,
    /// No transaction with this id or a later one had ended.
    pub next: Xid,
    /// Earlier ones that had not ended.
    pub running: Vec<Xid>,
    /// The server keeps the timestamps of this transaction and later ones ...
    pub oldest_kept: Xid,
    /// ... and those of earlier ones, which it has forgotten, are smaller than this.
    pub forgotten_before: Timestamp,
}

impl Record {
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "meld clock 1\nhigh_water {}\nnewest {}\nnext {}\nrunning",
            self.high_water.0, self.newest.0, self.next.0
        );
        for xid in &self.running {
            let _ = write!(text, " {}", xid.0);
        }
        let _ = write!(text, "\noldest_kept {}\nforgotten_before {}\n", self.oldest_kept.0, self.forgotten_before.0);
        let sum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc {sum:08x}");
        text
    }

    /// `None` if the text is damaged or of another version.
    pub fn parse(text: &str) -> Option<Record> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("crc ")?;
        if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
            return None;
        }
        let mut lines = body.strip_prefix("meld clock 1\n")?.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        Some(Record {
            high_water: Timestamp(field("high_water ")?.parse().ok()?),
            newest: Timestamp(field("newest ")?.parse().ok()?),
            next: Xid(field("next ")?.parse().ok()?),
            running: {
                let xids = field("running")?.split_ascii_whitespace();
                xids.map(|xid| xid.parse().map(Xid)).collect::<Result<_, _>>().ok()?
            },
            oldest_kept: Xid(field("oldest_kept ")?.parse().ok()?),
            forgotten_before: Timestamp(field("forgotten_before ")?.parse().ok()?),
        })
    }
}

/// The scan after a start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    high_water: Timestamp,
    newest: Timestamp,
    /// Replayed transactions with a timestamp up to this were waited for.
    plausible: Timestamp,
}

impl Recovery {
    /// `now` is read at the start. Without a record, or where replayed transactions are not waited for, no timestamp in
    /// the future counts but those of local commits.
    pub fn new(record: Option<&Record>, now: Timestamp, replay_waits: bool) -> Recovery {
        let high_water = record.map_or(Timestamp::MIN, |record| record.high_water);
        let allowance_us = if record.is_some() && replay_waits { PLAUSIBLE_US } else { 0 };
        Recovery {
            high_water,
            newest: record.map_or(Timestamp::MIN, |record| record.newest),
            plausible: now.max(Timestamp(high_water.0.saturating_add(allowance_us))),
        }
    }

    /// The ids to look up. `next` is the number of the next transaction: its id, and how often all ids were used before.
    pub fn ids(record: Option<&Record>, next: u64) -> impl Iterator<Item = Xid> + use<'_> {
        let id = next as u32;
        let count = record.map_or(MOST_IDS, |record| id.wrapping_sub(record.next.0).min(MOST_IDS));
        let count = u32::try_from(next).map_or(count, |used| count.min(used));
        let recent = (1..=count).rev().map(move |back| Xid(id.wrapping_sub(back)));
        let running = record.map(|record| record.running.as_slice()).unwrap_or_default();
        running.iter().copied().chain(recent).filter(|xid| xid.0 >= FIRST_NORMAL)
    }

    /// Takes a committed transaction in.
    pub fn add(&mut self, commit_ts: Timestamp, is_local: bool) {
        self.newest = self.newest.max(commit_ts);
        if is_local || commit_ts <= self.plausible {
            self.high_water = self.high_water.max(commit_ts);
        }
    }

    /// High water and newest timestamp.
    pub fn done(self) -> (Timestamp, Timestamp) {
        (self.high_water, self.newest.max(self.high_water))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(high_water: i64, next: u32, running: &[u32]) -> Record {
        Record {
            high_water: Timestamp(high_water),
            newest: Timestamp(high_water),
            next: Xid(next),
            running: running.iter().copied().map(Xid).collect(),
            oldest_kept: Xid(700),
            forgotten_before: Timestamp(12),
        }
    }

    fn ids(record: Option<&Record>, next: u64) -> Vec<u32> {
        Recovery::ids(record, next).map(|xid| xid.0).collect()
    }

    #[test]
    fn what_had_not_ended_is_looked_up() {
        assert_eq!(ids(Some(&record(0, 750, &[740, 745])), 753), [740, 745, 750, 751, 752]);
        assert_eq!(ids(Some(&record(0, 750, &[])), 750), [0; 0]);
    }

    #[test]
    fn ids_begin_again_after_the_last_one() {
        assert_eq!(ids(Some(&record(0, u32::MAX - 1, &[])), (1 << 32) + 5), [u32::MAX - 1, u32::MAX, 3, 4]);
    }

    #[test]
    fn a_lost_or_old_record_costs_no_endless_scan() {
        for record in [None, Some(&record(0, 700, &[]))] {
            let all = ids(record, 1_000_000_000);
            assert_eq!(all.len(), MOST_IDS as usize);
            assert_eq!(all.last(), Some(&999_999_999));
        }
        assert_eq!(ids(None, 10), [3, 4, 5, 6, 7, 8, 9], "there were none before");
        assert_eq!(ids(Some(&record(0, 700, &[])), 10), [3, 4, 5, 6, 7, 8, 9], "the record is another server's");
    }

    #[test]
    fn the_scan_raises_both_and_lowers_neither() {
        let mut recovery = Recovery::new(Some(&record(1000, 750, &[])), Timestamp(900), true);
        recovery.add(Timestamp(950), true);
        assert_eq!(recovery.clone().done(), (Timestamp(1000), Timestamp(1000)));
        recovery.add(Timestamp(1100), false);
        recovery.add(Timestamp(1000 + PLAUSIBLE_US + 1), false);
        assert_eq!(recovery.clone().done(), (Timestamp(1100), Timestamp(1000 + PLAUSIBLE_US + 1)));
        recovery.add(Timestamp(2000), true);
        assert_eq!(recovery.done().0, Timestamp(2000));
    }

    #[test]
    fn replayed_stamps_in_the_future_do_not_count_where_nobody_waits_for_them() {
        for (record, waits) in [(Some(record(1000, 750, &[])), false), (None, true)] {
            let mut recovery = Recovery::new(record.as_ref(), Timestamp(2000), waits);
            recovery.add(Timestamp(2000), false);
            recovery.add(Timestamp(2001), false);
            assert_eq!(recovery.done(), (Timestamp(2000), Timestamp(2001)));
        }
    }

    proptest! {
        #[test]
        fn a_record_survives_the_file(high_water: i64, newest: i64, next: u32, running: Vec<u32>, kept: u32, bound: i64) {
            let record = Record {
                newest: Timestamp(newest),
                oldest_kept: Xid(kept),
                forgotten_before: Timestamp(bound),
                ..record(high_water, next, &running)
            };
            prop_assert_eq!(Record::parse(&record.to_text()), Some(record));
        }

        #[test]
        fn a_damaged_file_is_none(at in 0_usize..80, byte: u8) {
            let text = record(1_234_567, 750, &[740]).to_text();
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            prop_assert!(Record::parse(&text[..at]).is_none());
            bytes[at] = byte;
            if let Ok(damaged) = String::from_utf8(bytes) && damaged != text {
                prop_assert!(Record::parse(&damaged).is_none() || damaged.eq_ignore_ascii_case(&text));
            }
        }
    }
}
