//! A remote TRUNCATE: rows up to its stamp go, newer ones stay.
//!
//! The tables are locked and looked through first. If every row of all of them goes, which is the usual case, they are
//! truncated as the server does it; else the rows that go are deleted one by one. Either way the table's floor is raised,
//! so that an older row that comes later stays out.
//!
//! The history gets the rows that the truncating node can't have seen: written elsewhere, after what that node had
//! announced to have applied. Nothing was lost with the others.

use meld_core::conflict::{Conflict, ConflictType, Resolution};
use meld_core::converge::{LocalStamp, Outcome, TableStore, Truncated, apply_truncate, truncated};
use meld_core::time::Stamp;
use meld_core::wire::{RelationDescription, Truncate};

use super::row::Row;
use super::step::{Step, describe};
use crate::conflict::overrides::Overrides;
use crate::conflict::tombstones::Tombstones;
use crate::conflict::{ConflictRecord, Version, Writers, record};
use crate::log::{Failure, Result};
use crate::pg::target::Found;
use crate::pg::truncate::{DoomedRow, DoomedTable, Place, truncate_tables};

/// What was seen of a table.
#[derive(Default)]
struct Survey {
    /// Rows that go, or that nobody can tell of.
    rows: Vec<(Place, LocalStamp)>,
    /// Rows that go unseen by the truncating node.
    lost: Vec<Lost>,
    some_stay: bool,
}

struct Lost {
    stamp: Stamp,
    row: String,
}

/// The rule's view of a table.
struct Doomed<'s> {
    table: &'s DoomedTable,
    rows: Vec<(Place, LocalStamp)>,
    remote: Stamp,
    tombstones: &'s mut Tombstones,
    writers: &'s mut Writers,
}

impl TableStore for Doomed<'_> {
    type Error = Failure;
    type Row = Place;

    fn rows(&mut self) -> Result<Vec<(Place, LocalStamp)>> {
        Ok(std::mem::take(&mut self.rows))
    }

    fn erase(&mut self, row: &Place) -> Result<()> {
        self.table.erase(*row);
        Ok(())
    }

    fn raise_floor(&mut self, stamp: Stamp) -> Result<()> {
        debug_assert_eq!(stamp, self.remote);
        self.tombstones.raise_floor(self.table.oid, stamp, self.writers)
    }
}

/// Applies the truncate to all of its tables.
pub fn apply(step: &mut Step<'_, '_>, truncate: &Truncate) -> Result<Outcome<Row>> {
    // a table that is to be truncated must not be open
    step.tables.close_tables();
    let mut surveys = Vec::with_capacity(truncate.relations.len());
    for &relation in &truncate.relations {
        let description = describe(step.around.relations, relation)?.clone();
        let table = DoomedTable::open(&step.tables.xact, &description)?;
        let survey = survey(&table, step)?;
        record_lost(&table, &description, &survey.lost, step)?;
        surveys.push((table, survey));
    }
    let all_go = !surveys.iter().any(|(_, survey)| survey.some_stay);
    let mut oids = Vec::with_capacity(surveys.len());
    for (table, survey) in surveys {
        let rows = if all_go { Vec::new() } else { survey.rows };
        let mut doomed = Doomed {
            table: &table,
            rows,
            remote: step.remote.stamp,
            tombstones: &mut step.tables.tombstones,
            writers: step.around.writers,
        };
        if !matches!(apply_truncate(step.remote.stamp, &mut doomed)?, Outcome::Applied) {
            return Ok(Outcome::Undecided);
        }
        oids.push(table.oid);
        if table.is_referred_to() {
            step.tables.dangling.emptied.push(table.oid);
        }
        table.close();
    }
    if all_go {
        step.tables.xact.with_snapshot(|| truncate_tables(&step.tables.xact, &oids));
    }
    Ok(Outcome::Applied)
}

fn survey(table: &DoomedTable, step: &mut Step<'_, '_>) -> Result<Survey> {
    let mut survey = Survey::default();
    let remote = step.remote.stamp;
    let seen_there = step.around.seen_by_origin;
    let overrides = &step.tables.overrides;
    let overrides = if overrides.may_exist(table.oid)? { Some(overrides) } else { None };
    let writers = &mut *step.around.writers;
    table.each_row(|row| {
        let stamp = stamp_of(&row, table, overrides, writers)?;
        match truncated(stamp, remote) {
            Truncated::Stays => survey.some_stay = true,
            Truncated::Undecided => {
                survey.some_stay = true;
                survey.rows.push((row.place(), stamp));
            }
            Truncated::Goes => {
                survey.rows.push((row.place(), stamp));
                if let LocalStamp::Known(stamp) = stamp
                    && stamp.node != remote.node
                    && stamp.commit_ts > seen_there
                {
                    survey.lost.push(Lost { stamp, row: row.json() });
                }
            }
        }
        Ok(())
    })?;
    Ok(survey)
}

fn stamp_of(
    row: &DoomedRow<'_>,
    table: &DoomedTable,
    overrides: Option<&Overrides>,
    writers: &mut Writers,
) -> Result<LocalStamp> {
    let Found { writer, xmin } = row.found();
    if let Some(overrides) = overrides
        && let Some(key) = row.key()
        && let Some(stamp) = overrides.find(table.oid, &key, xmin)?
    {
        return Ok(LocalStamp::Known(stamp));
    }
    writers.stamp(writer)
}

fn record_lost(
    table: &DoomedTable,
    description: &RelationDescription,
    lost: &[Lost],
    step: &mut Step<'_, '_>,
) -> Result<()> {
    let conflict = Conflict { kind: ConflictType::DeleteOriginDiffers, resolution: Resolution::ApplyRemote };
    for Lost { stamp, row } in lost {
        step.counts.conflicts.push(conflict.kind);
        let found = ConflictRecord {
            conflict,
            schema: &description.schema,
            table: &description.name,
            index: None,
            key_columns: table.key_columns(),
            key_source: row.clone(),
            local: Version { stamp: Some(*stamp), row: Some(row.clone()) },
            remote: Version { stamp: Some(step.remote.stamp), row: None },
            unchanged_columns: Vec::new(),
            remote_commit_lsn: step.remote.commit_lsn,
            remote_xid: step.remote.xid,
        };
        step.tables.xact.with_snapshot(|| record(&found))?;
    }
    Ok(())
}
