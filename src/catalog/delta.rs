//! Delta columns: `meld.delta_column`, and what PostgreSQL's own catalog says of a column that is to become one.

use super::query;
use crate::log::Result;
use crate::pg::Oid;

/// A column, as far as counters care.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    pub number: i16,
    pub type_oid: Oid,
    /// As users write it.
    pub type_name: String,
    pub is_not_null: bool,
    pub is_generated: bool,
    /// One of the unique indexes whose columns, expressions or condition name it.
    pub unique_index: Option<String>,
    /// One of the foreign keys that it is part of.
    pub foreign_key: Option<String>,
    /// It is part of the partition key of a table above.
    pub is_partition_key: bool,
    pub is_delta: bool,
}

/// A column of a table, unless it is dropped.
pub fn column(table: Oid, name: &str) -> Result<Option<Column>> {
    let sql = "SELECT a.attnum, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, \
            a.attgenerated <> '', \
            (SELECT i.indexrelid::regclass::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend d \
                ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
                WHERE i.indrelid = a.attrelid AND (i.indisunique OR i.indisexclusion) \
                AND (a.attnum = ANY (i.indkey::int2[]) \
                    OR d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum) \
                ORDER BY 1 LIMIT 1), \
            (SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' \
                AND k.conrelid = a.attrelid AND a.attnum = ANY (k.conkey) ORDER BY 1 LIMIT 1), \
            EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(a.attrelid) p JOIN pg_catalog.pg_attribute up \
                ON up.attrelid = p.relid AND up.attname = a.attname JOIN pg_catalog.pg_depend d \
                ON d.classid = 'pg_class'::regclass AND d.objid = p.relid AND d.objsubid = up.attnum \
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.relid AND d.refobjsubid = 0 \
                WHERE p.relid <> a.attrelid), \
            EXISTS (SELECT FROM meld.delta_column m WHERE m.relid = a.attrelid AND m.attnum = a.attnum) \
         FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = $1 AND a.attname = $2::text::name AND a.attnum > 0 AND NOT a.attisdropped";
    query::first(sql, &[table.into(), name.into()], |row| {
        Ok(Column {
            number: row.get(1)?,
            type_oid: row.get(2)?,
            type_name: row.get(3)?,
            is_not_null: row.get(4)?,
            is_generated: row.get(5)?,
            unique_index: row.optional(6)?,
            foreign_key: row.optional(7)?,
            is_partition_key: row.get(8)?,
            is_delta: row.get(9)?,
        })
    })
}

/// Names of the counters that partitions below a table have.
pub fn names_below(parent: Oid) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT a.attname::text FROM pg_catalog.pg_partition_tree($1::oid::regclass) t \
         JOIN meld.delta_column d ON d.relid = t.relid \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = d.relid AND a.attnum = d.attnum AND NOT a.attisdropped \
         ORDER BY 1";
    query::rows(sql, &[parent.into()], |row| row.get(1))
}

/// Marks a column, which is not yet.
pub fn add(table: Oid, number: i16) -> Result<()> {
    query::execute("INSERT INTO meld.delta_column (relid, attnum) VALUES ($1, $2)", &[table.into(), number.into()])
}

pub fn remove(table: Oid, number: i16) -> Result<()> {
    query::execute("DELETE FROM meld.delta_column WHERE relid = $1 AND attnum = $2", &[table.into(), number.into()])
}
