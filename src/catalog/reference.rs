//! Rows by what others refer to them by: the values of any unique index, in a table that may be partitioned.
//!
//! A foreign key need not refer to the key by which the rows of a table are found and told apart. Asked by the apply worker
//! on one side, and for a subscriber on the other, past row-level security and in the name of the tables' owners.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::PgSqlErrorCode;

use super::query;
use crate::log::{Failure, Result};
use crate::pg::Oid;
use crate::pg::foreign_keys::as_table_owner;
use crate::pg::present_row::key_names;
use crate::pg::server::with_latest_snapshot;

/// Where such a row is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The table itself, or the partition with the row.
    pub table: Oid,
    pub schema: String,
    pub name: String,
    /// Name and value, as the type prints it, of each column of its key.
    pub key: Vec<(String, String)>,
}

/// In SQL, what holds for a row `p` that has the values `$1`, `$2`, ... in columns of one unique index, in their order.
const CONDITION: &str = "\
    SELECT string_agg(format('p.%I OPERATOR(%I.%s) $%s::%s', a.attname, n.nspname, o.oprname, \
            array_position($2, a.attname::text), format_type(a.atttypid, NULL)), ' AND ' ORDER BY k.place) \
    FROM pg_catalog.pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place) \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
    JOIN pg_catalog.pg_opclass c ON c.oid = (i.indclass::oid[])[k.place - 1] \
    JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype \
        AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 \
    JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace \
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL \
        AND k.place <= i.indnkeyatts \
    GROUP BY i.indexrelid, i.indnkeyatts HAVING count(*) = i.indnkeyatts AND count(*) = cardinality($2) \
        AND bool_and(a.attname = ANY ($2)) ORDER BY i.indexrelid LIMIT 1";

const TABLE: &str = "SELECT n.nspname::text, c.relname::text, c.relowner, c.relkind = 'p' FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1 AND c.relkind IN ('r', 'p')";

/// A table or a whole of partitions.
struct Table {
    schema: String,
    name: String,
    owner: Oid,
    is_partitioned: bool,
}

/// The table of that name, if there is one that rows can refer to.
pub fn table(schema: &str, name: &str) -> Result<Option<Oid>> {
    let sql = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    query::first(sql, &[schema.into(), name.into()], |row| row.get(1))
}

/// The row with these values in these columns, as of this moment.
pub fn find(oid: Oid, columns: &[String], values: &[String]) -> Result<Option<Place>> {
    with_latest_snapshot(|| {
        let Some(whole) = describe(oid)? else { return Ok(None) };
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let condition = query::first(CONDITION, &[oid.into(), names.into()], |row| row.get::<String>(1))?;
        let condition = condition.ok_or_else(|| no_such_key(&whole, columns))?;
        let values: Vec<DatumWithOid> = values.iter().map(|value| value.as_str().into()).collect();
        let only = if whole.is_partitioned { "" } else { "ONLY " };
        let sql = format!("SELECT p.tableoid FROM {only}{} p WHERE {condition}", whole.quoted());
        let leaf = as_table_owner(whole.owner, || query::first(&sql, &values, |row| row.get::<Oid>(1)))?;
        let Some(leaf) = leaf else { return Ok(None) };
        let Some(part) = describe(leaf)? else { return Ok(None) };
        let key = key_names(leaf)?;
        let texts: Vec<String> =
            key.iter().map(|name| format!("pg_catalog.format('%s', p.{})", quoted(name))).collect();
        let sql = format!("SELECT ARRAY[{}]::text[] FROM ONLY {} p WHERE {condition}", texts.join(", "), part.quoted());
        let found = as_table_owner(part.owner, || query::first(&sql, &values, |row| row.get::<Vec<String>>(1)))?;
        let Table { schema, name, .. } = part;
        Ok(found.map(|values| Place { table: leaf, schema, name, key: key.into_iter().zip(values).collect() }))
    })
}

impl Table {
    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn describe(table: Oid) -> Result<Option<Table>> {
    query::first(TABLE, &[table.into()], |row| {
        Ok(Table { schema: row.get(1)?, name: row.get(2)?, owner: row.get(3)?, is_partitioned: row.get(4)? })
    })
}

fn no_such_key(table: &Table, columns: &[String]) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("rows of \"{}.{}\" can't be found by \"{}\"", table.schema, table.name, columns.join("\", \"")),
    )
    .detail("These are not the columns of one of its unique indexes.")
}
