//! What the store's functions are made of: looking, completing, burying, telling.

use meld_core::conflict::{Conflict, ConflictType};
use meld_core::converge::{Grave, Here, LocalStamp, Operation, Values};
use pgrx::prelude::PgSqlErrorCode;

use super::{Committer, HeapStore, INSERT_ROUNDS, Met, Seen};
use crate::apply::row::Row;
use crate::apply::tables::OpenTable;
use crate::conflict::tombstones::NewTombstone;
use crate::conflict::{ConflictRecord, Version, record};
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::clash::Clash;
use crate::pg::target::{Found, RowSide, Target};
#[cfg(feature = "planted_fault")]
use crate::settings::{PLANTED_FAULT, PlantedFault};

impl HeapStore<'_> {
    pub(super) fn open(&mut self, table: usize) -> &mut OpenTable {
        self.tables.get(table)
    }

    /// Table and operation of the change in hand, if it is this row's.
    pub(super) fn in_hand(&self, row: &Row) -> Option<(usize, Operation)> {
        self.in_hand.as_ref().filter(|in_hand| in_hand.row == *row).map(|in_hand| (in_hand.table, in_hand.operation))
    }

    pub(super) fn table_of(&mut self, row: &Row) -> Result<usize> {
        match (self.in_hand(row), row.name()) {
            (Some((table, _)), _) => Ok(table),
            (None, Some(name)) => self.tables.by_name(&name.schema, &name.table),
            (None, None) => Err(not_in_hand()),
        }
    }

    /// The row in hand gets its name, to be handed on.
    pub(super) fn name(&mut self, row: &Row) {
        if let Some((table, _)) = self.in_hand(row)
            && row.name().is_none()
        {
            row.call(self.open(table).name_of(RowSide::Remote));
        }
    }

    /// Does something to a row that is not in hand, with its key in its target's remote slot.
    pub(super) fn at<T>(&mut self, row: &Row, work: impl FnOnce(&mut Self, usize) -> Result<T>) -> Result<T> {
        let (Some(name), None) = (row.name(), &self.in_hand) else { return Err(not_in_hand()) };
        if name.is_reference {
            let row = self.by_key(row, name)?.ok_or_else(not_in_hand)?;
            return self.at(&row, work);
        }
        let table = self.tables.by_name(&name.schema, &name.table)?;
        let key = self.open(table).key_tuple(&name.key);
        self.tables.begin_change(table);
        self.open(table).target.read(&key)?;
        let result = work(self, table)?;
        self.tables.end_change(table);
        Ok(result)
    }

    /// An insert asks the index first, which also tells of rows of open transactions, another apply worker's say. If that
    /// row has gone again when it is looked for, the index is asked once more; one that comes and goes in every round is
    /// left to the unique index, whose error has the transaction tried again.
    pub(super) fn look_for_in_hand(&mut self, table: usize, operation: Operation) -> Result<Option<Found>> {
        let target = &mut self.open(table).target;
        match operation {
            Operation::Insert if !target.has_key() => Ok(None),
            Operation::Insert => look_before_insert(target),
            Operation::Update => target.find(false, Snapshots::FromActive),
            Operation::Delete => target.find(true, Snapshots::FromActive),
        }
    }

    /// What is here of the key in the target's remote slot. `may_put`: a row may be put there if none is.
    pub(super) fn state(&mut self, table: usize, found: Option<Found>, may_put: bool) -> Result<(Here, Seen)> {
        let oid = self.open(table).target.oid();
        if let Some(found) = found {
            let explicit =
                self.tables.explicit_stamp(table, found.xmin, |target| Ok(target.row_key(RowSide::Local)))?;
            let stamp = match explicit {
                Some(stamp) => LocalStamp::Known(stamp),
                None => self.writers.stamp(found.writer)?,
            };
            #[cfg(feature = "planted_fault")]
            let stamp = planted_fault(stamp, self.remote.stamp);
            let seen = Seen { is_live: true, has_override: explicit.is_some(), has_tombstone: false };
            return Ok((Here::Live(stamp), seen));
        }
        if !self.open(table).target.has_key() {
            return Ok((Here::Nothing, Seen::default()));
        }
        if may_put {
            self.tables.share(table);
        }
        #[cfg(feature = "planted_fault")]
        if PLANTED_FAULT.get() == PlantedFault::NoTombstones {
            return Ok((Here::Nothing, Seen::default()));
        }
        if !self.tables.tombstones.may_exist(oid)? {
            return Ok((Here::Nothing, Seen::default()));
        }
        let key = self.open(table).target.row_key(RowSide::Remote);
        let kept = self.tables.tombstones.find(oid, &key, self.writers, self.remote.stamp)?;
        let seen = Seen { has_tombstone: kept.is_some(), ..Seen::default() };
        let grave = kept.and_then(|kept| kept.tombstone.grave);
        Ok((grave.map_or(Here::Nothing, Here::Dead), seen))
    }

    /// Makes the values that are to be written those in the remote slot of the row in hand. What they leave out is taken
    /// from the row found, or is a default, when they are written.
    pub(super) fn take(&mut self, row: &Row, values: Values) -> Result<()> {
        let Some(in_hand) = self.in_hand.as_mut().filter(|in_hand| in_hand.row == *row) else {
            return Err(not_in_hand());
        };
        if values == Values::Fetched && !std::mem::replace(&mut in_hand.has_fetched, true) {
            let Some(there) = self.fetched.row(row) else { return Err(not_in_hand()) };
            self.tables.get(in_hand.table).target.read(&there.row)?;
        }
        Ok(())
    }

    /// The rows that the row in the target's remote slot clashes with.
    pub(super) fn clashes_at(&mut self, table: usize, row: &Row) -> Result<Vec<(Row, LocalStamp)>> {
        let clashes = self.open(table).target.clashes()?;
        let Some(first_index) = clashes.first().map(|clash| clash.index.clone()) else { return Ok(Vec::new()) };
        // most rows meet none, and need no name
        self.name(row);
        let mut rows = Vec::with_capacity(clashes.len());
        let mut indexes = Vec::with_capacity(clashes.len());
        for Clash { key, writer, xmin, index } in clashes {
            let explicit = self.tables.explicit_stamp(table, xmin, |target| target.key_of_tuple(&key))?;
            let stamp = match explicit {
                Some(stamp) => LocalStamp::Known(stamp),
                None => self.writers.stamp(writer)?,
            };
            let in_the_way = Row::named(self.open(table).name_of_key(&key));
            indexes.push((in_the_way.clone(), index));
            rows.push((in_the_way, stamp));
        }
        let json = self.open(table).target.row_json(RowSide::Remote);
        self.clashed.note(row, json, indexes, first_index);
        Ok(rows)
    }

    /// What is known of the clash in a unique index or exclusion constraint for which the row goes. Rows with one key
    /// are in conflict by their key, and what another node has removed it has told of itself.
    pub(super) fn clash_of(&mut self, row: &Row, conflict: Conflict, here: Here) -> Option<(String, Option<String>)> {
        use ConflictType::{InsertExists, MultipleUniqueConflicts, UpdateExists};
        if !matches!(conflict.kind, InsertExists | UpdateExists | MultipleUniqueConflicts) {
            return None;
        }
        match (self.committer, here) {
            (Committer::Own, Here::Live(_)) => {
                self.clashed.in_the_way(row).map(|(index, by)| (index.to_owned(), Some(by.to_owned())))
            }
            (Committer::Remote, Here::Dead(_)) => {
                self.name(row);
                self.clashed.incoming(row).map(|index| (index.to_owned(), None))
            }
            (Committer::Own, Here::Dead(_) | Here::Nothing) | (Committer::Remote, Here::Live(_) | Here::Nothing) => {
                None
            }
        }
    }

    /// The row in the target's slots goes, if there is one, and leaves a tombstone.
    pub(super) fn bury_at(&mut self, table: usize, seen: Seen, grave: Grave) -> Result<()> {
        // the stamp of the transaction that writes it need not be said
        let implied = self.committer == Committer::Remote && grave.stamp == self.remote.stamp;
        let has_counters = !self.open(table).counters.is_empty();
        if has_counters {
            self.bury_counters(table, seen, Some(grave), implied)?;
        }
        let target = &mut self.tables.get(table).target;
        let oid = target.oid();
        let key = target.row_key(RowSide::Remote);
        if seen.is_live {
            target.delete();
            if seen.has_override {
                self.tables.overrides.clear(oid, &key)?;
            }
            self.look_after_delete(table)?;
        } else if !has_counters {
            self.tables.note_dead(table);
        }
        if !has_counters {
            self.tables.tombstones.put(oid, &key, &NewTombstone::plain(grave, implied))?;
        }
        Ok(())
    }

    pub(super) fn record_at(&mut self, table: usize, met: Met, has_row: bool) -> Result<()> {
        let Met { conflict, here, clash } = met;
        let (index, given_way_to) = clash.unzip();
        let target = &self.tables.get(table).target;
        let remote_json = target.row_json(RowSide::Remote);
        let local = match here {
            Here::Nothing => Version::default(),
            Here::Dead(grave) => Version { stamp: Some(grave.stamp), row: None },
            Here::Live(stamp) => Version {
                stamp: match stamp {
                    LocalStamp::Known(stamp) => Some(stamp),
                    LocalStamp::ThisTransaction => Some(self.remote.stamp),
                    LocalStamp::Before(_) => None,
                },
                row: Some(target.row_json(RowSide::Local)),
            },
        };
        record(&ConflictRecord {
            conflict,
            schema: target.schema(),
            table: target.name(),
            index,
            key_columns: target.key_columns(),
            key_source: remote_json.clone(),
            local,
            remote: Version {
                stamp: Some(self.remote.stamp),
                row: given_way_to.flatten().or(has_row.then_some(remote_json)),
            },
            unchanged_columns: target.unchanged_columns(),
            remote_commit_lsn: self.remote.commit_lsn,
            remote_xid: self.remote.xid,
        })
    }
}

fn look_before_insert(target: &mut Target) -> Result<Option<Found>> {
    for _ in 0..INSERT_ROUNDS {
        match target.key_is_free() {
            None => return target.find(false, Snapshots::FromActive),
            Some(true) => return Ok(None),
            Some(false) => {}
        }
        // what was committed while the index waited is newer than the change's own snapshot
        if let Some(found) = target.find(false, Snapshots::Fresh)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The rule asked for something of a row that was not shown to it.
pub(super) fn not_in_hand() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "row store was asked for a row that is not in hand")
}

/// For the test of the tests: the older of two versions wins. A stamp is mirrored at the one that it meets.
#[cfg(feature = "planted_fault")]
fn planted_fault(local: LocalStamp, remote: meld_core::time::Stamp) -> LocalStamp {
    use meld_core::time::{Stamp, Timestamp};
    match local {
        LocalStamp::Known(stamp) if stamp.node != remote.node && PLANTED_FAULT.get() == PlantedFault::OlderWins => {
            let mirrored = remote.commit_ts.0.saturating_mul(2).saturating_sub(stamp.commit_ts.0);
            LocalStamp::Known(Stamp { commit_ts: Timestamp(mirrored), ..stamp })
        }
        _ => local,
    }
}
