//! The collector: removes what no node needs any more, a piece at a time, behind each heartbeat.
//!
//! It goes through the tombstones again and again, as far in one go as keeps the manager free for its other work, and
//! rests when it has come round; as long as nothing is written it rests for longer. A round that finds nothing costs a
//! look at the table's size.
//!
//! Before the first tombstone goes that a member which is away still had to confirm, the member is written down as left
//! behind, and the workers that apply its stream are ended; only when they are gone is anything removed. Whoever comes
//! later reads that it is refused.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meld_core::horizon::Collection;
use meld_core::ids::NodeId;
use meld_core::time::Timestamp;

use super::heartbeat::Beat;
use super::registry;
use crate::catalog::collection::{self, Blocks, Heap};
use crate::catalog::{Subscription, left_behind};
use crate::conflict::residues::void_due;
use crate::log::Result;
use crate::pg::key_lock::try_exclusive;
use crate::pg::{Oid, clock, worker, xact};

/// Blocks of tombstones in one transaction.
const PIECE_BLOCKS: u32 = 64;
/// How long one go takes.
const GO: Duration = Duration::from_millis(200);
/// Between two rounds.
const REST: Duration = Duration::from_secs(2);
/// Between two rounds when there is nothing.
const LONG_REST: Duration = Duration::from_secs(60);
/// Stamps older than this are written out, long before the server may forget them.
const EXPLICIT_AFTER_US: i64 = 3_600_000_000;
/// Voids and explicit stamps in one transaction.
const PIECE_ROWS: i64 = 10_000;
/// Explicit stamps are compared with all rows of their table. So that this stays below a hundredth of the work of a busy
/// server, it is done after a time that rises with the table's size.
const OVERRIDES_REST: Duration = Duration::from_secs(60);
const BLOCKS_PER_SECOND: i64 = 100;

pub struct Collector {
    database: Oid,
    /// Which of [`Heap::ALL`] is looked through.
    heap: usize,
    next_block: u32,
    /// Tombstones that this round has left.
    left: i64,
    /// What the statistics said when this round began.
    written: i64,
    /// What they said when the last round began, if that left nothing.
    written_before: Option<i64>,
    last_round: Instant,
    next_go: Instant,
    next_overrides: Instant,
    /// Members that were written down as left behind, and the processes that may still apply what they sent.
    expelled: HashMap<NodeId, Vec<i32>>,
}

impl Collector {
    pub fn new(database: Oid) -> Collector {
        let now = Instant::now();
        Collector {
            database,
            heap: 0,
            next_block: 0,
            left: 0,
            written: 0,
            written_before: None,
            last_round: now,
            next_go: now,
            next_overrides: now + OVERRIDES_REST,
            expelled: HashMap::new(),
        }
    }

    /// Goes on with the round. `beat` is the heartbeat that was just announced.
    pub fn go(&mut self, beat: &Beat, subscriptions: &[Subscription]) -> Result<()> {
        self.expelled.retain(|node, _| beat.collection.left_behind.contains(node));
        let started = Instant::now();
        if started < self.next_go {
            return Ok(());
        }
        // in case that it fails, so that it does not fail every second
        self.next_go = started + LONG_REST;
        let has_ended = self.pieces(started, beat, subscriptions)?;
        self.next_go = if has_ended { Instant::now() + REST } else { started };
        Ok(())
    }

    /// Goes from piece to piece; whether the round has ended.
    fn pieces(&mut self, started: Instant, beat: &Beat, subscriptions: &[Subscription]) -> Result<bool> {
        if (self.heap, self.next_block) == (0, 0) && !self.is_round_due()? {
            return Ok(true);
        }
        loop {
            let Some(&of) = Heap::ALL.get(self.heap) else {
                self.end_round(beat)?;
                return Ok(true);
            };
            let total = xact::in_transaction(|_| collection::blocks(of))?;
            let piece = Blocks { of, from: self.next_block, to: self.next_block.saturating_add(PIECE_BLOCKS) };
            if piece.from >= total {
                (self.heap, self.next_block) = (self.heap + 1, 0);
                continue;
            }
            if !self.may_remove(piece, beat, subscriptions)? {
                return Ok(false);
            }
            remove(piece, beat.collection.up_to)?;
            self.left += xact::in_transaction(|_| collection::count(piece))?;
            self.make_explicit(piece)?;
            self.next_block = piece.to;
            if started.elapsed() >= GO || worker::shutdown_requested() {
                return Ok(false);
            }
        }
    }

    /// Whether there may be anything since the last round.
    fn is_round_due(&mut self) -> Result<bool> {
        // before anything is looked at: what is written from here on makes it rise
        self.written = xact::in_transaction(|_| collection::written())?;
        let is_known = self.written_before == Some(self.written);
        Ok(!is_known || self.last_round.elapsed() >= LONG_REST)
    }

    fn end_round(&mut self, beat: &Beat) -> Result<()> {
        // parked work may hold an older void of the same tombstone
        if !beat.is_any_parked && beat.collection.up_to != Timestamp::MIN {
            xact::in_transaction(|_| collection::remove_voids(beat.collection.up_to, PIECE_ROWS))?;
        }
        self.written_before = (self.left == 0).then_some(self.written);
        (self.heap, self.next_block) = (0, 0);
        self.left = 0;
        self.last_round = Instant::now();
        self.remove_overrides()
    }

    /// Writes down and ends what has to be before anything in these blocks may go. False if that is not over yet.
    fn may_remove(&mut self, piece: Blocks, beat: &Beat, subscriptions: &[Subscription]) -> Result<bool> {
        let Collection { up_to, left_behind: away, .. } = &beat.collection;
        if away.is_empty() || *up_to == Timestamp::MIN || !xact::in_transaction(|_| collection::any_due(piece, *up_to))?
        {
            return Ok(true);
        }
        xact::in_transaction(|_| {
            away.iter().try_for_each(|&node| {
                let told = beat.heard.get(&node);
                let promise = told.map_or(Timestamp::MIN, |told| told.promise);
                let horizon = told.map_or(Timestamp::MIN, |told| told.horizon);
                left_behind::note(node, promise, horizon, *up_to)
            })
        })?;
        let entries = registry::entries(self.database);
        for &node in away.iter() {
            if self.expelled.contains_key(&node) {
                continue;
            }
            let its = subscriptions.iter().filter(|subscription| subscription.provider.id == node);
            let workers = its.filter_map(|its| entries.iter().find(|entry| entry.subscription_id == its.id));
            let pids: Vec<i32> = workers.filter(|entry| entry.is_alive()).map(|entry| entry.pid).collect();
            pids.iter().for_each(|&pid| worker::terminate(pid));
            self.expelled.insert(node, pids);
        }
        Ok(!self.expelled.values().flatten().any(|&pid| worker::is_alive(pid)))
    }

    fn make_explicit(&self, piece: Blocks) -> Result<()> {
        let before = Timestamp(clock::now().0.saturating_sub(EXPLICIT_AFTER_US));
        let tables = xact::in_transaction(|_| collection::implicit(piece, before))?;
        for table in tables {
            xact::in_transaction(|xact| {
                // whoever works on keys without a row must not meet a tombstone on its way from one place to another
                if try_exclusive(xact, table) { collection::make_explicit(table, piece, before) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    fn remove_overrides(&mut self) -> Result<()> {
        if Instant::now() < self.next_overrides {
            return Ok(());
        }
        let tables = xact::in_transaction(|_| collection::overridden_tables())?;
        let blocks: i64 = tables.iter().map(|(_, blocks)| blocks).sum();
        for (table, _) in tables {
            xact::in_transaction(|_| collection::remove_stale_overrides(table, PIECE_ROWS))?;
        }
        let rest = Duration::from_secs((blocks / BLOCKS_PER_SECOND).unsigned_abs());
        self.next_overrides = Instant::now() + rest.max(OVERRIDES_REST);
        Ok(())
    }
}

/// Removes what is due in these blocks.
fn remove(piece: Blocks, up_to: Timestamp) -> Result<()> {
    // nobody has been heard of yet
    if up_to == Timestamp::MIN {
        return Ok(());
    }
    if piece.of == Heap::Singles {
        xact::in_transaction(|xact| void_due(xact, piece.from, piece.to, up_to))?;
    }
    xact::in_transaction(|_| collection::remove_tombstones(piece, up_to)).map(drop)
}
