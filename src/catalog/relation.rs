//! What kind of relation a table is, as far as replication cares, from PostgreSQL's own catalog.

use super::query::{self, Row};
use crate::log::Result;
use crate::pg::Oid;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: r table, p partitioned table, f foreign table, v view, ...
    pub kind: char,
    /// `pg_class.relpersistence`: p permanent, u unlogged, t temporary.
    pub persistence: char,
    /// Of the server, of meld, or of another extension.
    pub belongs_to_system: bool,
    /// A row can be found by its primary key or its replica identity index, in the way in which the output plugin
    /// tells of it: REPLICA IDENTITY NOTHING and a deferrable primary key are no key.
    pub has_key: bool,
    pub is_partition: bool,
    /// One of its exclusion or deferrable unique constraints.
    pub lenient_constraint: Option<String>,
}

const SELECT: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, \
     c.oid < 16384 OR n.nspname IN ('pg_catalog', 'information_schema', 'meld', 'snowflake', 'pg_toast'), \
     EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisready \
         AND i.indimmediate AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'f' THEN i.indisprimary \
             WHEN 'i' THEN i.indisreplident ELSE false END), \
     (SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid \
         AND (k.contype = 'x' OR k.contype IN ('p', 'u') AND (k.condeferrable OR EXISTS (SELECT FROM pg_catalog.pg_index i \
             WHERE i.indexrelid = k.conindid AND i.indisexclusion))) ORDER BY k.conname LIMIT 1), c.relispartition \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";

fn read(row: &Row) -> Result<Relation> {
    let letter = |text: String| text.chars().next().unwrap_or(' ');
    Ok(Relation {
        oid: row.get(1)?,
        schema: row.get(2)?,
        name: row.get(3)?,
        kind: letter(row.get(4)?),
        persistence: letter(row.get(5)?),
        belongs_to_system: row.get(6)?,
        has_key: row.get(7)?,
        lenient_constraint: row.optional(8)?,
        is_partition: row.get(9)?,
    })
}

pub fn by_oid(oid: Oid) -> Result<Option<Relation>> {
    query::first(&format!("{SELECT} WHERE c.oid = $1"), &[oid.into()], read)
}

/// The tables below a partitioned one that hold rows.
pub fn leaves(oid: Oid) -> Result<Vec<Relation>> {
    let sql = format!(
        "{SELECT} WHERE c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1::oid::regclass) t WHERE t.isleaf) \
         ORDER BY n.nspname, c.relname"
    );
    query::rows(&sql, &[oid.into()], read)
}

/// The ordinary tables of a schema, partitions included, temporary and unlogged ones not.
pub fn ordinary_tables(schema: &str) -> Result<Vec<Relation>> {
    let sql =
        format!("{SELECT} WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY c.relname");
    query::rows(&sql, &[schema.into()], read)
}

pub fn schema_exists(schema: &str) -> Result<bool> {
    let sql = "SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1";
    Ok(query::first(sql, &[schema.into()], |row| row.get::<bool>(1))?.is_some())
}
