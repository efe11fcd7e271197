//! Which tables have the trigger.

use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::{repset, row_trigger};
use crate::log::{Failure, Result};
use crate::pg::trap::trap;
use crate::pg::trigger_catalog::Kind;
use crate::pg::{Oid, server, trigger_catalog, worker, xact};

/// What came of looking after the triggers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upkeep {
    Done,
    /// A table was in use; it is worth another try soon.
    Busy,
}

/// Gives a table its triggers, or takes them away, after the table went into a replication set or out of one, or its delta
/// columns changed. The caller holds the lock on the sets.
pub fn follow_sets(table: Oid) -> Result<()> {
    for kind in Kind::ALL {
        let function = row_trigger::function(kind)?.ok_or_else(|| {
            Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, "a trigger function of meld does not exist")
                .hint("Update the extension with ALTER EXTENSION meld UPDATE.")
        })?;
        settle(table, kind, function)?;
    }
    Ok(())
}

/// Puts right, in the transaction that is open, what a superuser's statement in it has switched: those tables are locked by
/// it. The manager comes to any other.
pub fn repair_own() -> Result<()> {
    if !server::is_superuser() {
        // who may not switch meld's triggers, and may not see all that is looked at here
        return Ok(());
    }
    server::with_latest_snapshot(|| {
        for kind in Kind::ALL {
            let Some(function) = row_trigger::function(kind)? else { continue };
            for table in row_trigger::to_repair(kind, function)?.into_iter().filter(|&t| server::locks_out_writers(t)) {
                settle(table, kind, function)?;
            }
        }
        Ok(())
    })
}

fn settle(table: Oid, kind: Kind, function: Oid) -> Result<()> {
    let present = row_trigger::of_table(table, function)?;
    let is_wanted = row_trigger::is_wanted(table, kind)?;
    if is_wanted && matches!(present[..], [only] if only.fires_always) {
        return Ok(());
    }
    present.into_iter().for_each(|trigger| trigger_catalog::remove(trigger.oid));
    if is_wanted {
        trigger_catalog::create(table, function, kind);
    }
    Ok(())
}

/// Puts right what somebody switched off, removed or left behind, a transaction for each table. In the manager, which
/// waits for a lock for a short time only.
pub fn repair() -> Upkeep {
    let busy = Kind::ALL.into_iter().filter(|&kind| repair_kind(kind) == Upkeep::Busy);
    if busy.count() > 0 { Upkeep::Busy } else { Upkeep::Done }
}

fn repair_kind(kind: Kind) -> Upkeep {
    let broken = trap(|| {
        xact::in_transaction(|_| match row_trigger::function(kind)? {
            Some(function) => Ok((Some(function), row_trigger::to_repair(kind, function)?)),
            None => Ok((None, Vec::new())),
        })
    });
    let mut outcome = Upkeep::Done;
    let mut note = |failure: Failure| {
        use PgSqlErrorCode::{ERRCODE_LOCK_NOT_AVAILABLE, ERRCODE_UNDEFINED_TABLE};
        if worker::shutdown_requested() {
            // its query was cancelled by that
            return;
        }
        // in use, or DROP EXTENSION is under way
        if matches!(failure.code, ERRCODE_LOCK_NOT_AVAILABLE | ERRCODE_UNDEFINED_TABLE) {
            outcome = Upkeep::Busy;
        } else {
            failure.warn();
        }
    };
    match broken {
        Ok((Some(function), tables)) => {
            for table in tables {
                let repaired = trap(|| {
                    xact::in_transaction(|_| {
                        repset::lock()?;
                        settle(table, kind, function)
                    })
                });
                match repaired {
                    Ok(()) => report(table),
                    Err(failure) => note(failure),
                }
            }
        }
        Ok((None, _)) => {}
        Err(failure) => note(failure),
    }
    outcome
}

/// Changes made in between have gone out without the version that they replaced.
fn report(table: Oid) {
    tracing::info!(table = table.to_u32(), "put the row trigger of a replicated table right");
}
