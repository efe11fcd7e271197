//! Writing one conflict into the history and the server log.

use std::cell::RefCell;

use meld_core::conflict::Conflict;
use meld_core::ids::Xid;
use meld_core::lsn::Lsn;
use meld_core::time::{Stamp, Timestamp};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::OwnedPreparedStatement;

use crate::log::{Failure, Result};
use crate::settings;

/// One side of a conflict. Either part may be unknown: a missing row has no stamp, a delete brings no row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Version {
    pub stamp: Option<Stamp>,
    /// The row as JSON text.
    pub row: Option<String>,
}

/// A conflict and where it happened.
pub struct ConflictRecord<'a> {
    pub conflict: Conflict,
    pub schema: &'a str,
    pub table: &'a str,
    /// In which two rows with different keys clashed, where that is known.
    pub index: Option<String>,
    /// Names of the key columns, whose values are in `key_source`.
    pub key_columns: Vec<String>,
    /// JSON text of a row that has the key.
    pub key_source: String,
    pub local: Version,
    pub remote: Version,
    /// Columns that the change left out, and that its row is shown without.
    pub unchanged_columns: Vec<String>,
    pub remote_commit_lsn: Lsn,
    pub remote_xid: Xid,
}

const INSERT: &str = "
    INSERT INTO meld.resolutions (nspname, relname, conflict_type, conflict_resolution, key, local_origin,
        local_commit_ts, local_row, remote_origin, remote_commit_ts, remote_row, remote_commit_lsn, remote_xid,
        index_name)
    SELECT $1, $2, $3, $4, (SELECT jsonb_object_agg(k, $5::jsonb -> k) FROM unnest($6) k), $7,
        $8, $9::jsonb, $10, $11, $12::jsonb - $13, $14::pg_lsn, $15::xid, $16
    RETURNING key::text";

thread_local! {
    /// The plan of `INSERT`, kept for the life of the process.
    static PLAN: RefCell<Option<OwnedPreparedStatement>> = const { RefCell::new(None) };
}

/// Stores the conflict in `meld.resolutions` (unless that is switched off) and writes it to the server log.
pub fn record(record: &ConflictRecord<'_>) -> Result<()> {
    let key = if settings::SAVE_RESOLUTIONS.get() { store(record)? } else { None };
    log(record, key.as_deref());
    Ok(())
}

/// Returns the key as it was stored.
fn store(record: &ConflictRecord<'_>) -> Result<Option<String>> {
    let time = |stamp: Option<Stamp>| stamp.and_then(|s| TimestampWithTimeZone::try_from(s.commit_ts.0).ok());
    let node = |stamp: Option<Stamp>| stamp.map(|s| i32::from(s.node.0));
    let arguments: [DatumWithOid<'_>; 16] = [
        record.schema.into(),
        record.table.into(),
        record.conflict.kind.name().into(),
        record.conflict.resolution.name().into(),
        record.key_source.as_str().into(),
        record.key_columns.clone().into(),
        node(record.local.stamp).into(),
        time(record.local.stamp).into(),
        record.local.row.as_deref().into(),
        node(record.remote.stamp).into(),
        time(record.remote.stamp).into(),
        record.remote.row.as_deref().into(),
        record.unchanged_columns.clone().into(),
        record.remote_commit_lsn.to_string().into(),
        record.remote_xid.0.to_string().into(),
        record.index.as_deref().into(),
    ];
    PLAN.with_borrow_mut(|plan| {
        Spi::connect_mut(|client| {
            if plan.is_none() {
                *plan = Some(client.prepare_mut(INSERT, &argument_types())?.keep());
            }
            let Some(plan) = plan.as_ref() else { unreachable!("prepared above") };
            Ok(client.update(plan, None, &arguments)?.first().get_one::<String>()?)
        })
    })
}

fn argument_types() -> Vec<PgOid> {
    [
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTARRAYOID,
        PgBuiltInOids::INT4OID,
        PgBuiltInOids::TIMESTAMPTZOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::INT4OID,
        PgBuiltInOids::TIMESTAMPTZOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTARRAYOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
        PgBuiltInOids::TEXTOID,
    ]
    .into_iter()
    .map(PgOid::from)
    .collect()
}

/// In the words of PostgreSQL's own conflict log.
fn log(record: &ConflictRecord<'_>, key: Option<&str>) {
    let Conflict { kind, resolution } = record.conflict;
    let side = |name: &str, version: &Version| match version.stamp {
        Some(Stamp { commit_ts, node }) => format!("{name} version of node {node} at {}", format_time(commit_ts)),
        None => format!("no {name} version"),
    };
    let message = format!(
        "conflict detected on relation \"{}.{}\": conflict={kind}, resolution={resolution}",
        record.schema, record.table
    );
    let mut detail = format!(
        "{}; {}; remote transaction {} at {}",
        side("local", &record.local),
        side("remote", &record.remote),
        record.remote_xid.0,
        record.remote_commit_lsn
    );
    if let Some(key) = key {
        detail.push_str(&format!("; key {key}"));
    }
    Failure::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message)
        .detail(detail + ".")
        .log_at(settings::CONFLICT_LOG_LEVEL.get());
}

fn format_time(time: Timestamp) -> String {
    match TimestampWithTimeZone::try_from(time.0) {
        Ok(time) => time.to_string(),
        Err(_) => "an unknown time".to_owned(),
    }
}
