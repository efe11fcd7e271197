//! A transaction of this node's own that has to be committed before a remote one can be applied: removals, and parents
//! that are written anew.
//!
//! It runs without the subscription's origin, so that the commit is a local one with a local stamp, and is replicated; and
//! it is on disk before it is seen, since the remote transaction that led to it comes again after a crash but finds
//! nothing to remove any more.

use std::collections::BTreeSet;

use meld_core::conflict::ConflictType;
use meld_core::converge::{self, First, LinkedStore, Outcome};
use meld_core::ids::RelId;
use meld_core::time::Stamp;

use super::clashed::Clashed;
use super::clock::wait_until_past;
use super::fetched::Fetched;
use super::row::Row;
use super::store::{Committer, HeapStore, RemoteContext, overtaken};
use super::tables::Tables;
use super::transaction::Surroundings;
use crate::log::Result;
use crate::pg::origin::WithoutOrigin;
use crate::pg::trap::trap;

/// What came of it.
enum Round {
    Committed,
    Undecided,
    /// Nobody else may be at work on these tables.
    Busy(BTreeSet<RelId>),
}

/// Carries `first` out and commits it. False if a forgotten stamp would decide.
pub fn carry_out(
    first: &[First<Row>],
    led_by: RemoteContext,
    fetched: &mut Fetched,
    clashed: &mut Clashed,
    around: &mut Surroundings<'_>,
    conflicts: &mut Vec<ConflictType>,
) -> Result<bool> {
    let latest = first.iter().map(|first| version(first, fetched)).fold(led_by.stamp, Stamp::max);
    wait_until_past(latest.commit_ts, latest.node)?;
    let mut alone = BTreeSet::new();
    loop {
        // what is committed under no origin is this node's own
        let without_origin = WithoutOrigin::begin();
        let round = trap(|| one_round(first, led_by, &alone, fetched, clashed, around, conflicts));
        drop(without_origin);
        match round? {
            Round::Committed => return Ok(true),
            Round::Undecided => return Ok(false),
            Round::Busy(tables) => alone.extend(tables),
        }
    }
}

fn one_round(
    first: &[First<Row>],
    led_by: RemoteContext,
    alone: &BTreeSet<RelId>,
    fetched: &mut Fetched,
    clashed: &mut Clashed,
    around: &mut Surroundings<'_>,
    conflicts: &mut Vec<ConflictType>,
) -> Result<Round> {
    let mut tables = Tables::begin(alone);
    conflicts.clear();
    let mut store = HeapStore {
        tables: &mut tables,
        writers: around.writers,
        fetched,
        fetcher: around.fetcher,
        clashed,
        remote: led_by,
        committer: Committer::Own,
        in_hand: None,
        conflicts,
    };
    if converge::carry_out(first, led_by.stamp, &mut store)? != Outcome::Applied {
        tables.abort();
        return Ok(Round::Undecided);
    }
    // what was decided a moment ago may leave somebody alone by now
    let is_whole = store.orphans()?.is_empty();
    if !is_whole {
        tables.abort();
        return Err(overtaken());
    }
    if let Err(busy) = tables.check_dead()? {
        tables.abort();
        return Ok(Round::Busy(busy));
    }
    tables.close().commit_durably();
    Ok(Round::Committed)
}

/// The stamp that the transaction's own has to pass.
fn version(first: &First<Row>, fetched: &Fetched) -> Stamp {
    match first {
        First::Remove(removal) => removal.version,
        First::KeepParent { parent, or_else } => {
            fetched.stamp(parent).map_or(or_else.version, |there| there.max(or_else.version))
        }
    }
}
