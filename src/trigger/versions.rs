//! The trigger's function: a version message for a row that another node wrote, or that has counters.

use meld_core::time::Stamp;
use meld_core::value::Tuple;
use meld_core::version::Replaced;
use meld_core::wire::Version;

use super::{deaths, origins, quiet};
use crate::conflict::overrides::Overrides;
use crate::log::{Result, or_raise};
use crate::pg::Oid;
use crate::pg::message;
use crate::pg::origin::{CommitMark, Writer};
use crate::pg::row_trigger::{OldRow, is_replaying};
use crate::pg::session::is_for_apply;

crate::row_trigger_entry!(meld_row_trigger, pg_finfo_meld_row_trigger => look);

fn look(row: &OldRow<'_>) {
    // the apply worker keeps tombstones by itself
    if is_for_apply() {
        return;
    }
    if let Some(key) = quiet::key_of_quiet(row) {
        return or_raise(deaths::note_plain(row, &key));
    }
    or_raise(deaths::note(row));
    // what is replayed is not sent on
    if is_replaying() {
        return;
    }
    let old_counters = or_raise(row.old_counters());
    let writer = row.writer();
    if !matches!(writer, Writer::ThisTransaction)
        && let Some(stamp) = or_raise(explicit_stamp(row))
    {
        return or_raise(note(row, Replaced::Version(stamp), old_counters));
    }
    match writer {
        Writer::ThisTransaction | Writer::Committed(CommitMark { roident: 0, .. }) => {
            if old_counters.is_some() {
                or_raise(note(row, Replaced::Own, old_counters));
            } else if !matches!(writer, Writer::ThisTransaction) && !or_raise(row.has_counters()) {
                quiet::remember(row);
            }
        }
        Writer::Committed(mark) => or_raise(note_other(row, mark, old_counters)),
        Writer::ThisOrOlder(_) | Writer::Forgotten => or_raise(note(row, Replaced::Unknown, old_counters)),
    }
}

#[cold]
fn note_other(row: &OldRow<'_>, mark: CommitMark, old_counters: Option<Tuple>) -> Result<()> {
    // what came from outside of the mesh counts as this node's own
    let replaced = match origins::node_of(mark.roident, row.transaction())? {
        Some(node) => Replaced::Version(Stamp { commit_ts: mark.commit_ts, node }),
        None if old_counters.is_none() => return Ok(()),
        None => Replaced::Own,
    };
    note(row, replaced, old_counters)
}

/// Of a row whose last writer's commit does not carry its stamp: apply's, or this node's own after a fetch.
fn explicit_stamp(row: &OldRow<'_>) -> Result<Option<Stamp>> {
    let table = Oid::from(row.relation().0);
    let overrides = Overrides::default();
    let stamp = overrides.find_if_any(table, row.xmin(), || Ok(row.row_key()))?;
    overrides.close();
    Ok(stamp)
}

#[cold]
fn note(row: &OldRow<'_>, replaced: Replaced, old_counters: Option<Tuple>) -> Result<()> {
    // without a key no change of the row is sent
    let Some(key) = row.key() else { return Ok(()) };
    message::emit_version(Version { relation: row.relation(), change: row.change(), key, replaced, old_counters })
}
