//! TRUNCATE: the rows with a stamp up to its own go on every node; newer ones stay.

use super::port::{Grave, LocalStamp, Outcome, not_newer};
use crate::time::Stamp;

/// A table as a whole.
pub trait TableStore {
    type Error;
    /// A row, named so that `erase` finds it.
    type Row;

    /// Stops writers, and tells all rows and their stamps. A store may leave rows out that it erases in bulk itself,
    /// having seen that all of them go.
    fn rows(&mut self) -> Result<Vec<(Self::Row, LocalStamp)>, Self::Error>;

    /// Takes the row away without a tombstone (the floor is one) and records it as truncated.
    fn erase(&mut self, row: &Self::Row) -> Result<(), Self::Error>;

    /// Raises the floor to the stamp, unless it is higher, and drops the tombstones below it ([`truncated`]).
    fn raise_floor(&mut self, stamp: Stamp) -> Result<(), Self::Error>;
}

/// What a truncate does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truncated {
    Goes,
    Stays,
    /// The row's stamp is forgotten.
    Undecided,
}

/// Whether a truncate with this stamp takes a row. A tombstone goes if it is older; at the same stamp it may be that of
/// a removal, which says more than the floor does.
pub fn truncated(row: LocalStamp, stamp: Stamp) -> Truncated {
    match not_newer(row, stamp) {
        Some(true) => Truncated::Goes,
        Some(false) => Truncated::Stays,
        None => Truncated::Undecided,
    }
}

/// Whether the floor makes a tombstone superfluous.
pub fn covers(stamp: Stamp, grave: Grave) -> bool {
    grave.stamp < stamp
}

/// Applies a truncate of one table.
pub fn apply_truncate<S: TableStore>(stamp: Stamp, table: &mut S) -> Result<Outcome<S::Row>, S::Error> {
    for (row, local) in table.rows()? {
        match truncated(local, stamp) {
            Truncated::Goes => table.erase(&row)?,
            Truncated::Stays => {}
            Truncated::Undecided => return Ok(Outcome::Undecided),
        }
    }
    table.raise_floor(stamp)?;
    Ok(Outcome::Applied)
}
