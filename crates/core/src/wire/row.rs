//! Rows on the wire: the number of columns, one cell per column ([`Value::cell`]), then the bytes of all values.
//!
//! How many bytes those are follows from the cells and is not said again. The two ways to write a row, from a [`Tuple`]
//! and from values that are borrowed from the server's memory, give the same bytes.

use bincode::de::read::Reader;
use bincode::de::{Decode, Decoder};
use bincode::enc::write::Writer;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use crate::ids::RelId;
use crate::value::{Tuple, Value};
use crate::version::Replaced;

/// A cell up to this is a byte of its own: bincode marks longer integers with the bytes above.
const LAST_ONE_BYTE_CELL: u8 = 250;

/// A row of borrowed values.
struct Row<'a>(&'a [Value<'a>]);

impl Encode for Row<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.0.len() as u64).encode(encoder)?;
        for value in self.0 {
            value.cell().encode(encoder)?;
        }
        for value in self.0 {
            encoder.writer().write(value.bytes())?;
        }
        Ok(())
    }
}

impl Encode for Tuple {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let (cells, data) = self.parts();
        (cells.len() as u64).encode(encoder)?;
        for cell in cells {
            cell.encode(encoder)?;
        }
        encoder.writer().write(data)
    }
}

impl<Context> Decode<Context> for Tuple {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Tuple, DecodeError> {
        let columns = to_usize(u64::decode(decoder)?)?;
        let cells = decode_cells(columns, decoder)?;
        let length = Tuple::data_len(&cells).ok_or(DecodeError::LimitExceeded)?;
        let data = peek(length, decoder)?.to_vec();
        decoder.reader().consume(length);
        Tuple::from_parts(cells, data).ok_or(DecodeError::LimitExceeded)
    }
}

bincode::impl_borrow_decode!(Tuple);

/// Each cell takes a byte or more, so that no more memory is taken than eight times what is really there.
fn decode_cells<D: Decoder>(columns: usize, decoder: &mut D) -> Result<Vec<u64>, DecodeError> {
    let heads = peek(columns, decoder)?;
    if heads.iter().all(|&head| head <= LAST_ONE_BYTE_CELL) {
        let cells = heads.iter().map(|&head| u64::from(head)).collect();
        decoder.reader().consume(columns);
        return Ok(cells);
    }
    let mut cells = Vec::with_capacity(columns);
    for _ in 0..columns {
        cells.push(u64::decode(decoder)?);
    }
    Ok(cells)
}

/// The next bytes, if there are so many: what keeps a claimed length from being believed.
fn peek<D: Decoder>(length: usize, decoder: &mut D) -> Result<&[u8], DecodeError> {
    decoder.reader().peek_read(length).ok_or(DecodeError::UnexpectedEnd { additional: length })
}

fn to_usize(number: u64) -> Result<usize, DecodeError> {
    usize::try_from(number).map_err(|_| DecodeError::OutsideUsizeRange(number))
}

/// A row change whose values are still borrowed; encoded like the [`super::Message`] of the same name.
pub(super) enum RowChange<'a> {
    Insert {
        relation: RelId,
        new: &'a [Value<'a>],
    },
    Update {
        relation: RelId,
        replaced: Replaced,
        old_counters: Option<&'a Tuple>,
        old_key: Option<&'a [Value<'a>]>,
        new: &'a [Value<'a>],
    },
    Delete {
        relation: RelId,
        replaced: Replaced,
        key: &'a [Value<'a>],
    },
}

// places of the variants in `Message`
const INSERT: u32 = 4;
const UPDATE: u32 = 5;
const DELETE: u32 = 6;

impl Encode for RowChange<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match *self {
            RowChange::Insert { relation, new } => (INSERT, relation, Row(new)).encode(encoder),
            RowChange::Update { relation, replaced, old_counters, old_key, new } => {
                (UPDATE, relation, replaced, old_counters, old_key.map(Row), Row(new)).encode(encoder)
            }
            RowChange::Delete { relation, replaced, key } => (DELETE, relation, replaced, Row(key)).encode(encoder),
        }
    }
}
