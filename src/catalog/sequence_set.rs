//! Sequences in replication sets, and keys that are fed by sequences which are in step with nobody's.

use super::query::{self, Row};
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::nextval::MARK;

/// Adds a sequence; false if it was in the set.
pub fn add(set: i32, sequence: Oid) -> Result<bool> {
    let sql = "INSERT INTO meld.replication_set_sequence (set_id, seqid) VALUES ($1, $2) ON CONFLICT DO NOTHING \
               RETURNING set_id";
    Ok(!query::change(sql, &[set.into(), sequence.into()], |row| row.get::<i32>(1))?.is_empty())
}

/// Removes a sequence; false if it was not in the set.
pub fn remove(set: i32, sequence: Oid) -> Result<bool> {
    let sql = "DELETE FROM meld.replication_set_sequence WHERE set_id = $1 AND seqid = $2 RETURNING set_id";
    Ok(!query::change(sql, &[set.into(), sequence.into()], |row| row.get::<i32>(1))?.is_empty())
}

/// The sequences of a schema.
pub fn of_schema(schema: &str) -> Result<Vec<Oid>> {
    let sql = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relkind = 'S' ORDER BY c.relname";
    query::rows(sql, &[schema.into()], |row| row.get(1))
}

/// The sequence of that name here.
pub fn by_name(schema: &str, name: &str) -> Result<Option<Oid>> {
    let sql = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'S'";
    query::first(sql, &[schema.into(), name.into()], |row| row.get(1))
}

/// Notes where a sequence was set.
pub fn note_set(sequence: Oid, value: i64) -> Result<()> {
    query::execute(
        "INSERT INTO meld.sequence_sync (seqid, set_to) VALUES ($1, $2) \
         ON CONFLICT (seqid) DO UPDATE SET set_to = excluded.set_to, synced_at = excluded.synced_at",
        &[sequence.into(), value.into()],
    )
}

/// A key column that an ordinary sequence feeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainKey {
    pub schema: String,
    pub table: String,
    pub column: String,
    /// The call that makes it give ids of its own on each node.
    pub conversion: String,
}

/// Sequences that step by more than one are taken for the halves of a scheme in which no two nodes meet.
const PLAIN_KEYS: &str = "SELECT DISTINCT n.nspname::text, c.relname::text, a.attname::text, \
     format('SELECT snowflake.convert_column_to_snowflake(%L, %L)', format('%I.%I', n.nspname, c.relname), a.attname) \
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     JOIN pg_catalog.pg_depend p ON p.classid = 'pg_catalog.pg_attrdef'::regclass AND p.objid = d.oid \
         AND p.refclassid = 'pg_catalog.pg_class'::regclass \
         OR p.classid = 'pg_catalog.pg_class'::regclass AND p.deptype = 'i' AND a.attidentity <> '' \
         AND p.refclassid = 'pg_catalog.pg_class'::regclass AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum \
     JOIN pg_catalog.pg_sequence q ON q.seqrelid = CASE WHEN p.classid = 'pg_catalog.pg_attrdef'::regclass \
         THEN p.refobjid ELSE p.objid END \
     WHERE (i.indisprimary OR i.indisreplident) AND q.seqincrement IN (1, -1)";

fn read(row: &Row) -> Result<PlainKey> {
    Ok(PlainKey { schema: row.get(1)?, table: row.get(2)?, column: row.get(3)?, conversion: row.get(4)? })
}

/// Of one table.
pub fn plain_keys(table: Oid) -> Result<Vec<PlainKey>> {
    query::rows(&format!("{PLAIN_KEYS} AND c.oid = $1 ORDER BY 1, 2, 3"), &[table.into()], read)
}

/// Of all tables in replication sets.
pub fn plain_keys_in_sets() -> Result<Vec<PlainKey>> {
    let sql =
        format!("{PLAIN_KEYS} AND c.oid IN (SELECT t.set_reloid FROM meld.replication_set_table t) ORDER BY 1, 2, 3");
    query::rows(&sql, &[], read)
}

/// Whether a sequence was converted.
pub fn is_converted(sequence: Oid) -> Result<bool> {
    let sql = "SELECT seqincrement FROM pg_catalog.pg_sequence WHERE seqrelid = $1";
    Ok(query::first(sql, &[sequence.into()], |row| row.get::<i64>(1))? == Some(MARK))
}
