//! What this node knows of a key, for whoever asks from outside of apply: a subscriber that fetches a row, a user that
//! wants to see a stamp.
//!
//! Row, explicit stamp and tombstone are read one after the other, without a lock. A live row's explicit stamp is written
//! by the transaction that writes the version; so either it is found beside the version, or the row is looked at once
//! more, and if the version is still there, it has none.

use meld_core::time::Stamp;
use meld_core::version::LocalStamp;
use pgrx::prelude::PgSqlErrorCode;

use super::overrides::Overrides;
use super::tombstones::Tombstones;
use super::writers::{UNCOMMITTED, Writers};
use crate::log::{Failure, Result};
use crate::pg::present_row::PresentTable;

/// Looks at a row that is written again and again meanwhile.
const MAX_ROUNDS: usize = 100;

/// What there is of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Live(LocalStamp),
    /// `None`: deleted by the transaction that asks.
    Dead(Option<Stamp>),
    Nothing,
}

/// The stamp of the row that is there, which `table` has found when this returns.
pub fn live_stamp(table: &mut PresentTable, writers: &mut Writers) -> Result<Option<LocalStamp>> {
    let overrides = Overrides::default();
    let stamp = settled_stamp(table, writers, &overrides)?;
    overrides.close();
    Ok(stamp)
}

fn settled_stamp(table: &mut PresentTable, writers: &mut Writers, overrides: &Overrides) -> Result<Option<LocalStamp>> {
    let mut seen = table.look();
    for _ in 0..MAX_ROUNDS {
        let Some(version) = seen else { return Ok(None) };
        if let Some(stamp) = overrides.find_if_any(table.oid(), version.xmin, || Ok(table.found_key()))? {
            return Ok(Some(LocalStamp::Known(stamp)));
        }
        seen = table.look();
        if seen == Some(version) {
            return Ok(Some(writers.stamp(version.writer)?));
        }
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "row changed too often while its stamp was looked for",
    ))
}

/// The live row's stamp, or else that of its tombstone; a truncate is one for every key.
pub fn known(table: &mut PresentTable, writers: &mut Writers) -> Result<Known> {
    if let Some(stamp) = live_stamp(table, writers)? {
        return Ok(Known::Live(stamp));
    }
    // what the transaction that asks has deleted has no stamp yet; it is larger than all others
    let tombstones = Tombstones::default();
    let mut dead = None;
    if tombstones.may_exist(table.oid())? {
        if let Some(key) = table.asked_key() {
            let kept = tombstones.find(table.oid(), &key, writers, UNCOMMITTED)?;
            dead = kept.and_then(|kept| kept.tombstone.grave).map(|grave| grave.stamp);
        }
        dead = dead.max(tombstones.floor(table.oid(), writers, UNCOMMITTED)?);
    }
    tombstones.close();
    Ok(dead.map_or(Known::Nothing, |stamp| Known::Dead((stamp != UNCOMMITTED).then_some(stamp))))
}
