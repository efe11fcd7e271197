//! The internal row trigger of each replicated table: which version does a local UPDATE or DELETE replace?
//!
//! In backends. If another node wrote the old row, `versions` puts a message with that version's stamp into WAL,
//! directly before the change; the output plugin puts it into the change that it sends. A row that this node wrote itself
//! costs a look at its stamp and no message. Keys that lose their row are noted for their tombstones (`deaths`). Which tables have the trigger follows the replication sets (`upkeep`): the
//! functions that change a set call it, and the manager of the database looks after what somebody switched off.
//!
//! Owners are refused to drop or rename the trigger by a hook in front of their statement.

mod deaths;
mod origins;
mod quiet;
mod rebirth;
mod upkeep;
mod versions;

use std::sync::OnceLock;

use pgrx::prelude::PgSqlErrorCode;

pub use upkeep::{Upkeep, follow_sets, repair};

use crate::log::{Failure, or_raise};
use crate::pg::utility::{self, Statement, Watcher};

/// Called when the library is loaded. `switched`: triggers were enabled or disabled in the transaction that is open.
pub fn init(switched: fn()) {
    deaths::init();
    let _ = SWITCHED.set(switched);
    utility::watch(Watcher { before: look_at, after: put_right });
}

/// Whom to tell that triggers were switched.
static SWITCHED: OnceLock<fn()> = OnceLock::new();

/// After a statement that switched triggers, before anything is written behind it.
fn put_right() {
    or_raise(upkeep::repair_own());
    SWITCHED.get().into_iter().for_each(|switched| switched());
}

/// Refuses a statement that would take the trigger away; whether it switches triggers.
fn look_at(statement: Statement<'_>) -> bool {
    if let Some(trigger) = statement.own_trigger_at_stake() {
        refusal(&trigger).raise();
    }
    statement.switches_triggers()
}

fn refusal(trigger: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("cannot drop or rename trigger \"{trigger}\" because replication needs it"),
    )
    .hint(
        "Remove the table from all replication sets with meld.repset_remove_table; the trigger goes with the last one.",
    )
}
