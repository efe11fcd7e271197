//! The secret with which this node seals its messages in WAL.
//!
//! It lies in a table that only its owner may read, and is read here past the rights of whoever works in this process: by
//! triggers in a user's session, too. It never leaves this file and its caller but as a seal. A process keeps it as long
//! as the table that it was found in: another one is there after the extension was made anew.

use std::cell::RefCell;

use meld_core::wire::Secret;
use pgrx::prelude::PgSqlErrorCode;

use super::Oid;
use super::historic;
use crate::log::{Failure, Result};

const TABLE: &std::ffi::CStr = c"message_secret";

/// The secret of one table; the extension has another table, and another secret, after it was made anew.
#[derive(Clone)]
pub struct Known {
    table: Oid,
    secret: Secret,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// Runs `work` with the secret. In a transaction.
pub(super) fn with<T>(work: impl FnOnce(&Secret) -> T) -> Result<T> {
    let is_known = KNOWN.with_borrow(|known| known.as_ref().is_some_and(Known::is_present));
    if !is_known {
        KNOWN.set(read()?);
    }
    KNOWN.with_borrow(|known| match known {
        Some(known) => Ok(work(&known.secret)),
        None => {
            Err(Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "this node has no secret to seal messages with")
                .hint("Update the extension with ALTER EXTENSION meld UPDATE."))
        }
    })
}

/// The secret as the catalog has it at the moment: while WAL is decoded, that of the time of the change, whose table must
/// still be there today. None if there was none. Needs catalog access.
pub fn read() -> Result<Option<Known>> {
    let Some(table) = historic::table(TABLE) else { return Ok(None) };
    let rows = historic::read(TABLE, None, &[c"secret"], |row| Ok(Secret::new(row.bytes(0)?)))?;
    let secret = rows.unwrap_or_default().into_iter().flatten().next();
    Ok(secret.map(|secret| Known { table, secret }))
}

impl Known {
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether its table is the one that the catalog has at the moment. Needs catalog access.
    pub fn is_present(&self) -> bool {
        historic::table(TABLE) == Some(self.table)
    }
}
