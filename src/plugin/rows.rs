//! Changes of rows as messages of the stream.

use meld_core::ids::RelId;
use meld_core::value::Value;
use meld_core::wire::{FrameTooLarge, FrameWriter, RelationDescription};
use pgrx::prelude::PgSqlErrorCode;

use super::notes::Told;
use super::publication::Table;
use super::sender::too_large;
use crate::log::Failure;
use crate::pg::decoded::{RowChange, RowEvent};
use crate::pg::output::RowBuffer;

/// Room for the rows of one change.
#[derive(Default)]
pub struct Rows {
    old: RowBuffer,
    new: RowBuffer,
}

/// Whether the change says which row it is about. If not, that is reported once for its table.
pub fn lacks_nothing(table: &mut Table, event: &RowEvent<'_>) -> bool {
    let action = match event {
        RowEvent::Insert { .. } => return true,
        RowEvent::Update { .. } if table.format.has_key() => return true,
        RowEvent::Delete { old: Some(_) } if table.format.has_key() => return true,
        RowEvent::Update { .. } => "update",
        RowEvent::Delete { .. } => "delete",
    };
    if !std::mem::replace(&mut table.has_complained, true) {
        let RelationDescription { schema, name, .. } = &table.description;
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{action} of table \"{schema}.{name}\" is not replicated, because the table has no usable key"),
        )
        .detail("Further updates and deletes of it are left out without a word until it has one.")
        .hint("Give the table a primary key with REPLICA IDENTITY DEFAULT, or a unique index with REPLICA IDENTITY USING INDEX.")
        .warn();
    }
    false
}

/// Appends a change that lacks nothing.
pub fn append_row(
    frames: &mut FrameWriter,
    table: &Table,
    change: &RowChange<'_>,
    told: &Told,
    rows: &mut Rows,
) -> std::result::Result<(), FrameTooLarge> {
    let relation: RelId = table.description.id;
    let format = &table.format;
    let (replaced, counters) = (told.replaced, told.old_counters.as_ref());
    match change.event {
        RowEvent::Insert { new } if told.returns => {
            frames.append_update(relation, replaced, None, None, &format.values(new, &mut rows.new))
        }
        RowEvent::Insert { new } => frames.append_insert(relation, &format.values(new, &mut rows.new)),
        RowEvent::Update { old: None, new } => {
            frames.append_update(relation, replaced, counters, None, &format.values(new, &mut rows.new))
        }
        RowEvent::Update { old: Some(old), new } => {
            let old_key = format.key_values(old, &mut rows.old);
            let mut new = format.values(new, &mut rows.new);
            let has_moved = fill_key(&mut new, &old_key, format.key_places());
            frames.append_update(relation, replaced, counters, has_moved.then_some(old_key.as_slice()), &new)
        }
        RowEvent::Delete { old: Some(old) } => {
            frames.append_delete(relation, replaced, &format.key_values(old, &mut rows.old))
        }
        RowEvent::Delete { old: None } => Ok(()),
    }
}

/// Puts key values that the UPDATE left in a TOAST table into the new row: the old one has them. Says whether the key
/// was changed: with REPLICA IDENTITY FULL the old row is always there.
fn fill_key<'a>(new: &mut [Value<'a>], old_key: &[Value<'a>], places: impl Iterator<Item = usize>) -> bool {
    let mut has_moved = false;
    for place in places {
        if new[place] == Value::Unchanged {
            new[place] = old_key[place];
        } else {
            has_moved |= new[place] != old_key[place];
        }
    }
    has_moved
}

pub fn row_too_large(error: FrameTooLarge, table: &RelationDescription) -> Failure {
    too_large(error).detail(format!("It is a row of table \"{}.{}\".", table.schema, table.name))
}

/// Reports once for its table that an update of counters came without what they were: then it adds nothing to them. The
/// trigger says it of each update, so somebody switched that off.
pub fn lacks_counters(table: &mut Table, event: &RowEvent<'_>, told: &Told) {
    let is_silent = matches!(event, RowEvent::Update { .. }) && table.has_counters() && !told.is_told;
    if is_silent && !std::mem::replace(&mut table.has_complained_of_counters, true) {
        let RelationDescription { schema, name, .. } = &table.description;
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("update of table \"{schema}.{name}\" is replicated without what it adds to the delta columns"),
        )
        .detail("The table's row trigger did not fire. Further updates like this are sent without a word.")
        .warn();
    }
}
