//! Column values and rows as they travel.
//!
//! A [`Tuple`] keeps all of its values in one buffer, so that a row costs two allocations however many columns it has.

use bincode::{Decode, Encode};

/// One column's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    Null,
    /// A TOASTed value that the UPDATE did not touch: the provider's WAL does not hold it.
    Unchanged,
    /// The type's binary send format.
    Binary(&'a [u8]),
    /// The type's text output, in the encoding of the provider's database.
    Text(&'a [u8]),
}

/// A row, or the key columns of one: one value per column of the relation's description, in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Tuple {
    /// 0 null, 1 unchanged, else `(length + 1) << 1 | is_text`: one byte on the wire for most columns.
    cells: Vec<u64>,
    data: Vec<u8>,
}

impl Tuple {
    const NULL: u64 = 0;
    const UNCHANGED: u64 = 1;

    pub fn with_capacity(columns: usize, bytes: usize) -> Tuple {
        Tuple { cells: Vec::with_capacity(columns), data: Vec::with_capacity(bytes) }
    }

    pub fn push(&mut self, value: Value<'_>) {
        let (cell, bytes) = match value {
            Value::Null => (Self::NULL, &[][..]),
            Value::Unchanged => (Self::UNCHANGED, &[][..]),
            Value::Binary(bytes) => ((bytes.len() as u64 + 1) << 1, bytes),
            Value::Text(bytes) => ((bytes.len() as u64 + 1) << 1 | 1, bytes),
        };
        self.cells.push(cell);
        self.data.extend_from_slice(bytes);
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Bytes of memory that the row holds.
    pub fn size_bytes(&self) -> usize {
        self.cells.len() * size_of::<u64>() + self.data.len()
    }

    pub fn has_unchanged(&self) -> bool {
        self.cells.contains(&Self::UNCHANGED)
    }

    /// Whether the cells and the data belong together; a decoder asks once, the other functions rely on it.
    pub fn is_consistent(&self) -> bool {
        let total = self.cells.iter().try_fold(0_u64, |sum, &cell| sum.checked_add(Self::cell_len(cell)));
        total == Some(self.data.len() as u64)
    }

    fn cell_len(cell: u64) -> u64 {
        (cell >> 1).saturating_sub(1)
    }

    /// The values in column order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Value<'_>> {
        let mut rest = self.data.as_slice();
        self.cells.iter().map(move |&cell| match cell {
            Self::NULL => Value::Null,
            Self::UNCHANGED => Value::Unchanged,
            _ => {
                let at = usize::try_from(Self::cell_len(cell)).unwrap_or(usize::MAX).min(rest.len());
                let (bytes, tail) = rest.split_at(at);
                rest = tail;
                if cell & 1 == 1 { Value::Text(bytes) } else { Value::Binary(bytes) }
            }
        })
    }
}

impl<'a> FromIterator<Value<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Value<'a>>>(values: I) -> Tuple {
        let mut tuple = Tuple::default();
        values.into_iter().for_each(|value| tuple.push(value));
        tuple
    }
}
