//! Keys of rows as users write them, as JSON, and which partition and whose rights they are about.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::PgSqlErrorCode;

use super::query;
use super::relation;
use crate::log::{Failure, Result};
use crate::pg::Oid;

/// What the current user may do with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    pub may_select: bool,
    pub is_row_security_active: bool,
}

pub fn rights(table: Oid) -> Result<Rights> {
    let sql = "SELECT pg_catalog.has_table_privilege($1::oid, 'SELECT'), pg_catalog.row_security_active($1::oid)";
    let rights = query::first(sql, &[table.into()], |row| {
        Ok(Rights { may_select: row.optional(1)?.unwrap_or(false), is_row_security_active: row.get(2)? })
    })?;
    Ok(rights.unwrap_or(Rights { may_select: false, is_row_security_active: true }))
}

/// Names and values, as text, of a JSON object.
pub fn read(json: &str) -> Result<Vec<(String, String)>> {
    let bad = |what| Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("argument \"key\" {what}"));
    let kind = query::first("SELECT pg_catalog.jsonb_typeof($1::jsonb)", &[json.into()], |row| row.get::<String>(1))?;
    if kind.as_deref() != Some("object") {
        return Err(bad("must be a JSON object").hint("Give the key columns and their values, like {\"id\": 1}."));
    }
    let sql = "SELECT key, value FROM pg_catalog.jsonb_each_text($1::jsonb)";
    let pairs = query::rows(sql, &[json.into()], |row| Ok((row.get::<String>(1)?, row.optional::<String>(2)?)))?;
    pairs.into_iter().map(|(name, value)| Ok((name, value.ok_or_else(|| bad("must not contain null"))?))).collect()
}

/// The columns that decide in which partition of a partitioned table, or of its own partitions, a row is. None, if that
/// is not for columns alone to say.
pub fn partition_columns(table: Oid) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT a.attname::text COLLATE \"C\", x.number = 0 \
        FROM pg_catalog.pg_partition_tree($1::oid::regclass) t JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = t.relid \
        CROSS JOIN LATERAL unnest(p.partattrs::int2[]) x (number) \
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.relid AND a.attnum = x.number ORDER BY 1";
    let columns = query::rows(sql, &[table.into()], |row| row.optional::<String>(1))?;
    // an expression has no name
    Ok(columns.into_iter().collect::<Option<Vec<String>>>().unwrap_or_default())
}

/// The partition, with rows of its own, in which a row with that key would be.
pub fn partition(table: Oid, key: &[(String, String)]) -> Result<Option<Oid>> {
    for leaf in relation::leaves(table)? {
        let types = "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute \
            WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped";
        let mut columns = Vec::new();
        let mut args: Vec<DatumWithOid> = Vec::new();
        for (name, value) in key {
            let args_of_type = [leaf.oid.into(), name.as_str().into()];
            // a column that is not there is refused when the table is looked into
            if let Some(type_name) = query::first(types, &args_of_type, |row| row.get::<String>(1))? {
                args.push(value.as_str().into());
                columns.push(format!("${}::{type_name} AS \"{}\"", args.len(), name.replace('"', "\"\"")));
            }
        }
        let constraint = "SELECT pg_catalog.pg_get_partition_constraintdef($1)";
        let constraint = query::first(constraint, &[leaf.oid.into()], |row| row.optional::<String>(1))?.flatten();
        let constraint = constraint.unwrap_or_else(|| "true".to_owned());
        let sql = format!("SELECT ({constraint}) FROM (SELECT {}) k", columns.join(", "));
        if query::first(&sql, &args, |row| row.optional::<bool>(1))?.flatten() == Some(true) {
            return Ok(Some(leaf.oid));
        }
    }
    Ok(None)
}
