//! Sequences and the columns that they feed, from PostgreSQL's own catalog; and what meld keeps of converted ones.
//!
//! Names that go into statements come quoted from the server. Texts of defaults are compared as the server writes them
//! with `search_path = pg_catalog`, which the functions that come here are declared with.

use super::query::{self, Row};
use crate::log::Result;
use crate::pg::Oid;

/// A relation's name as the session would write it.
pub fn shown(oid: Oid) -> Result<String> {
    let name = query::first("SELECT $1::oid::regclass::text", &[oid.into()], |row| row.get(1))?;
    Ok(name.unwrap_or_default())
}

/// Whether the current user may see what was drawn.
pub fn may_look(oid: Oid) -> Result<bool> {
    let sql = "SELECT pg_catalog.has_sequence_privilege($1::oid, 'USAGE, SELECT')";
    query::first(sql, &[oid.into()], |row| row.optional(1)).map(|may| may.flatten().unwrap_or(false))
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequence {
    pub oid: Oid,
    /// Schema and name, quoted for a statement.
    pub quoted: String,
    pub owner: String,
    pub persistence: char,
    pub definition: Definition,
}

/// What ALTER SEQUENCE can change, as far as a conversion does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    pub type_name: String,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
    pub last_value: i64,
    pub is_called: bool,
}

/// The sequence, `None` if it is none.
pub fn by_oid(oid: Oid) -> Result<Option<Sequence>> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname), format('%I', pg_get_userbyid(c.relowner)), \
               c.relpersistence::text, format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqcycle \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid \
               WHERE c.oid = $1";
    let read = |row: &Row| {
        let definition = Definition {
            type_name: row.get(4)?,
            increment: row.get(5)?,
            min: row.get(6)?,
            max: row.get(7)?,
            cycle: row.get(8)?,
            last_value: 0,
            is_called: false,
        };
        let persistence = row.get::<String>(3)?.chars().next().unwrap_or(' ');
        Ok(Sequence { oid, quoted: row.get(1)?, owner: row.get(2)?, persistence, definition })
    };
    let Some(mut found) = query::first(sql, &[oid.into()], read)? else { return Ok(None) };
    let sql = format!("SELECT last_value, is_called FROM {}", found.quoted);
    if let Some((last_value, is_called)) = query::first(&sql, &[], |row| Ok((row.get(1)?, row.get(2)?)))? {
        found.definition.last_value = last_value;
        found.definition.is_called = is_called;
    }
    Ok(Some(found))
}

/// Defines a sequence anew; where it stands goes with it if the transaction is undone.
pub fn define(sequence: &str, to: &Definition) -> Result<()> {
    let Definition { type_name, increment, min, max, .. } = to;
    let cycle = if to.cycle { "CYCLE" } else { "NO CYCLE" };
    query::execute(
        &format!(
            "ALTER SEQUENCE {sequence} AS {type_name} INCREMENT BY {increment} MINVALUE {min} MAXVALUE {max} \
             RESTART WITH {} {cycle}",
            to.last_value
        ),
        &[],
    )?;
    let args = [sequence.into(), to.last_value.into(), to.is_called.into()];
    query::rows("SELECT setval($1::regclass, $2, $3)", &args, |_| Ok(())).map(drop)
}

/// How a column gets its values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// GENERATED ALWAYS, or BY DEFAULT.
    Identity { always: bool },
    /// `nextval` of the sequence.
    Plain,
    /// `snowflake.nextval` of the sequence.
    Snowflake,
    /// Some expression around it.
    Expression,
}

/// A column that a sequence feeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FedColumn {
    pub table: Oid,
    /// Quoted, with its schema.
    pub quoted_table: String,
    pub number: i16,
    pub name: String,
    pub quoted: String,
    pub type_oid: Oid,
    pub type_name: String,
    pub feed: Feed,
    /// Its definition is that of a table above.
    pub is_inherited: bool,
}

const FED: &str = "SELECT c.oid, format('%I.%I', n.nspname, c.relname), a.attnum, a.attname::text, format('%I', a.attname), \
     a.atttypid, format_type(a.atttypid, a.atttypmod), \
     CASE WHEN a.attidentity <> '' THEN a.attidentity::text \
          WHEN pg_get_expr(d.adbin, d.adrelid) = format('nextval(%L::regclass)', $1::regclass) THEN 'plain' \
          WHEN pg_get_expr(d.adbin, d.adrelid) = format('snowflake.nextval(%L::regclass)', $1::regclass) THEN 'snowflake' \
          ELSE 'expression' END, a.attinhcount > 0 \
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE NOT a.attisdropped AND (EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_attrdef'::regclass \
             AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass AND p.refobjid = $1) \
         OR a.attidentity <> '' AND EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_class'::regclass \
             AND p.objid = $1 AND p.deptype = 'i' AND p.refclassid = 'pg_class'::regclass \
             AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum)) \
     ORDER BY a.attinhcount, c.oid, a.attnum";

/// The columns that a sequence feeds, those of tables above before those below.
pub fn fed_columns(sequence: Oid) -> Result<Vec<FedColumn>> {
    query::rows(FED, &[sequence.into()], |row| {
        let feed = match row.get::<String>(8)?.as_str() {
            "a" => Feed::Identity { always: true },
            "d" => Feed::Identity { always: false },
            "plain" => Feed::Plain,
            "snowflake" => Feed::Snowflake,
            _ => Feed::Expression,
        };
        Ok(FedColumn {
            table: row.get(1)?,
            quoted_table: row.get(2)?,
            number: row.get(3)?,
            name: row.get(4)?,
            quoted: row.get(5)?,
            type_oid: row.get(6)?,
            type_name: row.get(7)?,
            feed,
            is_inherited: row.get(9)?,
        })
    })
}

/// The sequence in a column's default, or behind its identity. `None` in the outer place: there is no such column.
pub fn of_column(table: Oid, column: &str) -> Result<Option<Option<Oid>>> {
    let sql = "SELECT (SELECT s.oid FROM pg_class s JOIN pg_depend p ON s.relkind = 'S' \
             AND (p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass \
                     AND p.refobjid = s.oid \
                 OR p.classid = 'pg_class'::regclass AND p.objid = s.oid AND p.deptype = 'i' \
                     AND p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum) LIMIT 1) \
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    query::first(sql, &[table.into(), column.into()], |row| row.optional(1))
}

/// Columns of other tables that hold values of this one and are too small for a bigint.
pub fn narrow_references(column: &FedColumn) -> Result<Vec<String>> {
    let sql = "SELECT format('%s(%I)', k.conrelid::regclass, a.attname) FROM pg_constraint k, \
         unnest(k.conkey, k.confkey) AS u (child, parent), pg_attribute a WHERE k.contype = 'f' AND k.confrelid = $1 \
         AND u.parent = $2 AND a.attrelid = k.conrelid AND a.attnum = u.child \
         AND a.atttypid IN ('int2'::regtype, 'int4'::regtype) ORDER BY 1";
    query::rows(sql, &[column.table.into(), column.number.into()], |row| row.get(1))
}

/// Views, and rules of other kinds, that depend on the column.
pub fn views_of(column: &FedColumn) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend p JOIN pg_rewrite r ON r.oid = p.objid \
         WHERE p.classid = 'pg_rewrite'::regclass AND p.refclassid = 'pg_class'::regclass AND p.refobjid IN \
             (SELECT t.relid FROM pg_partition_tree($1::oid::regclass) t UNION SELECT $1) AND p.refobjsubid = $2 ORDER BY 1";
    query::rows(sql, &[column.table.into(), column.number.into()], |row| row.get(1))
}

/// Gives a column the type bigint; where it is inherited, too.
pub fn widen(column: &FedColumn) -> Result<()> {
    let sql = format!("ALTER TABLE {} ALTER COLUMN {} TYPE bigint", column.quoted_table, column.quoted);
    query::execute(&sql, &[])
}

/// Lets a column be fed by a function of a sequence. For a column that was an identity, the tables below follow.
pub fn set_default(column: &FedColumn, function: &str, sequence: &str) -> Result<()> {
    let only = if matches!(column.feed, Feed::Identity { .. }) { "" } else { "ONLY " };
    let literal = sequence.replace('\'', "''");
    query::execute(
        &format!(
            "ALTER TABLE {only}{} ALTER COLUMN {} SET DEFAULT {function}('{literal}'::regclass)",
            column.quoted_table, column.quoted
        ),
        &[],
    )
}

pub fn drop_default(column: &FedColumn) -> Result<()> {
    let sql = format!("ALTER TABLE ONLY {} ALTER COLUMN {} DROP DEFAULT", column.quoted_table, column.quoted);
    query::execute(&sql, &[])
}

/// Makes an ordinary column of one that is an identity; its sequence goes, and another takes its name and place.
pub fn drop_identity(column: &FedColumn, sequence: &Sequence) -> Result<Oid> {
    let FedColumn { quoted_table, quoted, .. } = column;
    let grants = grants(sequence.oid)?;
    query::execute(&format!("ALTER TABLE {quoted_table} ALTER COLUMN {quoted} DROP IDENTITY"), &[])?;
    query::execute(&format!("CREATE SEQUENCE {} AS bigint", sequence.quoted), &[])?;
    query::execute(&format!("ALTER SEQUENCE {} OWNER TO {}", sequence.quoted, sequence.owner), &[])?;
    query::execute(&format!("ALTER SEQUENCE {} OWNED BY {quoted_table}.{quoted}", sequence.quoted), &[])?;
    for grant in grants {
        query::execute(&grant, &[])?;
    }
    let oid = query::first("SELECT $1::regclass::oid", &[sequence.quoted.as_str().into()], |row| row.get(1))?;
    Ok(oid.unwrap_or(sequence.oid))
}

/// Makes an identity of a column again, over the sequence's name. The sequence that was there goes.
pub fn make_identity(column: &FedColumn, sequence: &str, always: bool) -> Result<()> {
    let FedColumn { quoted_table, quoted, .. } = column;
    let kind = if always { "ALWAYS" } else { "BY DEFAULT" };
    query::execute(&format!("ALTER TABLE {quoted_table} ALTER COLUMN {quoted} DROP DEFAULT"), &[])?;
    query::execute(&format!("DROP SEQUENCE {sequence}"), &[])?;
    query::execute(
        &format!(
            "ALTER TABLE {quoted_table} ALTER COLUMN {quoted} ADD GENERATED {kind} AS IDENTITY (SEQUENCE NAME {sequence})"
        ),
        &[],
    )
}

/// The statements that grant what is granted on a sequence to others than its owner.
fn grants(sequence: Oid) -> Result<Vec<String>> {
    let sql = "SELECT format('GRANT %s ON SEQUENCE %s TO %s%s', x.privilege_type, c.oid::regclass, \
             CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END, \
             CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
         FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $1 AND x.grantee <> c.relowner";
    query::rows(sql, &[sequence.into()], |row| row.get(1))
}

/// Remembers what a sequence was before its conversion.
pub fn remember(sequence: Oid, was: &Definition, identity: Option<bool>) -> Result<()> {
    forget(sequence)?;
    query::execute(
        "INSERT INTO meld.snowflake_sequence VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            sequence.into(),
            was.type_name.as_str().into(),
            was.increment.into(),
            was.min.into(),
            was.max.into(),
            was.cycle.into(),
            was.last_value.into(),
            was.is_called.into(),
            identity.into(),
        ],
    )
}

/// What it was, and whether its column was an identity that is always generated.
pub fn remembered(sequence: Oid) -> Result<Option<(Definition, Option<bool>)>> {
    let sql = "SELECT type_name, increment, min, max, is_cycled, last_value, is_called, is_always \
               FROM meld.snowflake_sequence WHERE seqid = $1";
    query::first(sql, &[sequence.into()], |row| {
        let was = Definition {
            type_name: row.get(1)?,
            increment: row.get(2)?,
            min: row.get(3)?,
            max: row.get(4)?,
            cycle: row.get(5)?,
            last_value: row.get(6)?,
            is_called: row.get(7)?,
        };
        Ok((was, row.optional(8)?))
    })
}

pub fn forget(sequence: Oid) -> Result<()> {
    query::execute("DELETE FROM meld.snowflake_sequence WHERE seqid = $1", &[sequence.into()])
}
