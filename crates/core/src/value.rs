//! Column values and rows as they travel.
//!
//! A [`Tuple`] keeps all of its values in one buffer, so that a row costs two allocations however many columns it has.
//! Its cells and its buffer always belong together: it is made value by value here, or by `wire::row` from bytes of
//! which just as many are taken as the cells ask for.

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

impl<'a> Value<'a> {
    pub(crate) const NULL_CELL: u64 = 0;
    pub(crate) const UNCHANGED_CELL: u64 = 1;

    /// What stands for the value beside its bytes, in memory and on the wire: 0 null, 1 unchanged, else
    /// `(length + 1) << 1 | is_text`, which is one byte on the wire for most columns.
    pub(crate) fn cell(self) -> u64 {
        match self {
            Value::Null => Self::NULL_CELL,
            Value::Unchanged => Self::UNCHANGED_CELL,
            Value::Binary(bytes) => (bytes.len() as u64 + 1) << 1,
            Value::Text(bytes) => (bytes.len() as u64 + 1) << 1 | 1,
        }
    }

    /// The value's bytes; none for a null or an unchanged one.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Null | Value::Unchanged => &[],
            Value::Binary(bytes) | Value::Text(bytes) => bytes,
        }
    }
}

/// A row, or the key columns of one: one value per column of the relation's description, in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tuple {
    /// See [`Value::cell`].
    cells: Vec<u64>,
    data: Vec<u8>,
}

impl Tuple {
    pub fn with_capacity(columns: usize, bytes: usize) -> Tuple {
        Tuple { cells: Vec::with_capacity(columns), data: Vec::with_capacity(bytes) }
    }

    pub fn push(&mut self, value: Value<'_>) {
        self.cells.push(value.cell());
        self.data.extend_from_slice(value.bytes());
    }

    /// A tuple of cells and the bytes that `data_len` of them counts; none if there are more or fewer.
    pub(crate) fn from_parts(cells: Vec<u64>, data: Vec<u8>) -> Option<Tuple> {
        (Self::data_len(&cells) == Some(data.len())).then_some(Tuple { cells, data })
    }

    pub(crate) fn parts(&self) -> (&[u64], &[u8]) {
        (&self.cells, &self.data)
    }

    /// How many bytes of data the cells claim, if a machine can count so far.
    pub(crate) fn data_len(cells: &[u64]) -> Option<usize> {
        let total = cells.iter().try_fold(0_u64, |sum, &cell| sum.checked_add(Self::cell_len(cell)));
        usize::try_from(total?).ok()
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Bytes of memory that the row holds outside its own struct.
    pub fn size_bytes(&self) -> usize {
        self.cells.capacity() * size_of::<u64>() + self.data.capacity()
    }

    pub fn has_unchanged(&self) -> bool {
        self.cells.contains(&Value::UNCHANGED_CELL)
    }

    fn cell_len(cell: u64) -> u64 {
        (cell >> 1).saturating_sub(1)
    }

    /// The values in column order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Value<'_>> {
        let mut rest = self.data.as_slice();
        self.cells.iter().map(move |&cell| match cell {
            Value::NULL_CELL => Value::Null,
            Value::UNCHANGED_CELL => Value::Unchanged,
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
