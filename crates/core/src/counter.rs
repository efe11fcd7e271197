//! Delta columns: which contributions count for the counter of a key.
//!
//! A counter is the sum of contributions, each counted once: an INSERT's value, an UPDATE's `new - old`. It lives in the
//! row or, while the row is deleted, in its tombstone as the residue. An INSERT over a residue starts anew by making it
//! void. Two nodes may do that at once, so a void is a register per (key, tombstone): the larger stamp's counts, and it is
//! counted as one subtraction however many there were.

use crate::time::Stamp;
use crate::version::LocalStamp;

/// Whether a void takes the place of the one that the register holds.
pub fn void_counts(by: Stamp, registered: Option<Stamp>) -> bool {
    Some(by) > registered
}

/// What a local INSERT is to the counter of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rebirth {
    /// There was no residue: its values are its contribution.
    Plain,
    /// Its contribution is its values less the residue: this transaction deleted the row itself, so that in the end it
    /// is an update, or the residue of that tombstone was made void before and what is left came later.
    Continues,
    /// Its values are its contribution, and it says that the residue of the tombstone with this stamp is void.
    Voids(Stamp),
}

/// Decides at the origin, for an INSERT over a tombstone. `residue_is_zero` means that all delta columns' residues are.
/// `stamp` is that of the tombstone, `None` for a residue that waits for its row.
pub fn rebirth(stamp: Option<LocalStamp>, residue_is_zero: bool, is_void_already: bool) -> Rebirth {
    match stamp {
        _ if residue_is_zero => Rebirth::Plain,
        Some(LocalStamp::Known(stamp)) if !is_void_already => Rebirth::Voids(stamp),
        // a void needs the tombstone's stamp as a name; without one the same sum is said as a difference
        Some(LocalStamp::Known(_) | LocalStamp::ThisTransaction | LocalStamp::Before(_)) | None => Rebirth::Continues,
    }
}
