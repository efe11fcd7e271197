//! Foreign keys to a table, and of one, from PostgreSQL's own catalog.
//!
//! Whoever asks again and again, as apply does, takes [`links`], which are kept with their plans until one of the tables
//! in them changes. A partition that joins a table which refers changes that table.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem::ManuallyDrop;
use std::rc::Rc;

use meld_core::ids::RelId;

use super::query;
use crate::log::Result;
use crate::pg::Oid;
use crate::pg::foreign_keys::ForeignKey;
use crate::pg::invalidation::Invalidations;
use crate::pg::parents::ParentKey;
use crate::pg::plan::Plan;

/// The foreign keys that a table has to do with.
#[derive(Debug)]
pub struct Links {
    /// To the rows that its rows refer to.
    pub parents: Vec<ParentKey>,
    /// Of the rows that refer to its rows.
    pub children: Vec<ForeignKey>,
}

#[derive(Default)]
struct Known {
    links: HashMap<Oid, Rc<Links>>,
    /// All tables in them.
    watched: HashSet<RelId>,
    invalidations: Option<Invalidations>,
}

thread_local! {
    // plans can't be freed any more when a process ends
    static KNOWN: RefCell<ManuallyDrop<Known>> = RefCell::default();
}

/// The foreign keys of a table and to it. With an active snapshot.
pub fn links(table: Oid) -> Result<Rc<Links>> {
    let known = KNOWN.with_borrow_mut(|known| {
        let changed = known.invalidations.get_or_insert_with(Invalidations::listen).take();
        if changed.is_some_and(|changed| changed.all_relations || !changed.relations.is_disjoint(&known.watched)) {
            known.links.clear();
            known.watched.clear();
        }
        known.links.get(&table).cloned()
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let links = Rc::new(Links { parents: of_table(table)?, children: to_table(table)? });
    let whole = "SELECT DISTINCT conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = $1";
    let mut watched: Vec<Oid> = query::rows(whole, &[table.into()], |row| row.get(1))?;
    watched.extend(links.parents.iter().map(|key| key.parent));
    watched.extend(links.children.iter().map(|key| key.child));
    watched.push(table);
    KNOWN.with_borrow_mut(|known| {
        known.watched.extend(watched.into_iter().map(|table| RelId(table.to_u32())));
        known.links.insert(table, links.clone());
    });
    Ok(links)
}

/// A foreign key between partitioned tables stands in the catalog for the partitions, too: of the table referred to, with
/// the numbers of its own columns. A partitioned table that refers is taken apart into those with rows, which have columns
/// of the same names. Values are cast to what the operator takes, unless that is a family of types.
const TO_TABLE: &str = "\
    SELECT DISTINCT k.conname::text, c.oid, n.nspname::text, c.relname::text, c.relowner, \
        coalesce((SELECT array_agg(a.attname::text ORDER BY x.place) FROM pg_catalog.pg_index i, \
            unnest(i.indkey) WITH ORDINALITY x (attnum, place), pg_catalog.pg_attribute a \
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND x.place <= i.indnkeyatts \
            AND a.attrelid = c.oid AND a.attnum = x.attnum AND CASE c.relreplident \
                WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END), '{}'), \
        k.confkey::int2[], \
        (SELECT string_agg(format('($%s%s%s) OPERATOR(%I.%s) c.%I%s', x.place, \
                CASE WHEN l.typtype = 'p' THEN '' ELSE '::' || format_type(l.oid, NULL) END, \
                coalesce((SELECT format(' COLLATE %I.%I', s.nspname, b.collname) FROM pg_catalog.pg_collation b \
                    JOIN pg_catalog.pg_namespace s ON s.oid = b.collnamespace WHERE b.oid = p.attcollation), ''), \
                z.nspname, o.oprname, f.attname, \
                CASE WHEN r.typtype = 'p' THEN '' ELSE '::' || format_type(r.oid, NULL) END), ' AND ' ORDER BY x.place) \
            FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY x (ours, theirs, operator, place) \
            JOIN pg_catalog.pg_attribute f ON f.attrelid = k.conrelid AND f.attnum = x.ours \
            JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = x.theirs \
            JOIN pg_catalog.pg_operator o ON o.oid = x.operator \
            JOIN pg_catalog.pg_namespace z ON z.oid = o.oprnamespace \
            JOIN pg_catalog.pg_type l ON l.oid = o.oprleft JOIN pg_catalog.pg_type r ON r.oid = o.oprright) \
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid \
    CROSS JOIN LATERAL (SELECT t.oid WHERE t.relkind = 'r' UNION ALL \
        SELECT g.relid FROM pg_catalog.pg_partition_tree(t.oid) g WHERE t.relkind = 'p' AND g.isleaf) h (oid) \
    JOIN pg_catalog.pg_class c ON c.oid = h.oid AND c.relkind = 'r' \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE k.contype = 'f' AND k.confrelid = $1";

/// All foreign keys to rows of a table, of each table that has rows which refer to it.
pub fn to_table(parent: Oid) -> Result<Vec<ForeignKey>> {
    query::rows(&format!("{TO_TABLE}{} ORDER BY 3, 4, 1", enforced()), &[parent.into()], |row| {
        Ok(ForeignKey {
            name: row.get(1)?,
            child: row.get(2)?,
            child_schema: row.get(3)?,
            child_table: row.get(4)?,
            child_owner: row.get(5)?,
            child_key: row.get(6)?,
            parent_columns: row.get(7)?,
            condition: row.get(8)?,
            plan: Plan::default(),
        })
    })
}

/// The foreign key that a partition has by its partitioned table stands in the catalog for itself; one to a partitioned
/// table stands there for each partition as well, below the one that counts.
const OF_TABLE: &str = "\
    SELECT k.conname::text, c.oid, n.nspname::text, c.relname::text, c.relowner, c.relkind = 'p', k.conkey::int2[], \
        c.oid = $1 OR EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors($1) a WHERE a.relid = c.oid), x.names, x.types, x.condition \
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    CROSS JOIN LATERAL (SELECT array_agg(p.attname::text ORDER BY x.place) AS names, \
            array_agg(format_type(p.atttypid, p.atttypmod) ORDER BY x.place) AS types, \
            string_agg(format('p.%I%s OPERATOR(%I.%s) $%s%s', p.attname, \
                CASE WHEN l.typtype = 'p' THEN '' ELSE '::' || format_type(l.oid, NULL) END || \
                coalesce((SELECT format(' COLLATE %I.%I', s.nspname, b.collname) FROM pg_catalog.pg_collation b \
                    JOIN pg_catalog.pg_namespace s ON s.oid = b.collnamespace WHERE b.oid = p.attcollation), ''), \
                z.nspname, o.oprname, x.place, \
                CASE WHEN r.typtype = 'p' THEN '' ELSE '::' || format_type(r.oid, NULL) END), ' AND ' ORDER BY x.place) \
                AS condition \
        FROM unnest(k.confkey, k.conpfeqop) WITH ORDINALITY x (theirs, operator, place) \
        JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = x.theirs \
        JOIN pg_catalog.pg_operator o ON o.oid = x.operator \
        JOIN pg_catalog.pg_namespace z ON z.oid = o.oprnamespace \
        JOIN pg_catalog.pg_type l ON l.oid = o.oprleft JOIN pg_catalog.pg_type r ON r.oid = o.oprright) x \
    WHERE k.contype = 'f' AND k.conrelid = $1 AND NOT EXISTS \
        (SELECT FROM pg_catalog.pg_constraint q WHERE q.oid = k.conparentid AND q.conrelid = k.conrelid)";

/// All foreign keys that rows of a table have to obey.
pub fn of_table(child: Oid) -> Result<Vec<ParentKey>> {
    query::rows(&format!("{OF_TABLE}{} ORDER BY 1", enforced()), &[child.into()], |row| {
        Ok(ParentKey {
            name: row.get(1)?,
            parent: row.get(2)?,
            parent_schema: row.get(3)?,
            parent_table: row.get(4)?,
            parent_owner: row.get(5)?,
            is_partitioned: row.get(6)?,
            child_columns: row.get(7)?,
            is_own_table: row.get(8)?,
            parent_names: row.get(9)?,
            parent_types: row.get(10)?,
            condition: row.get(11)?,
            plan: Plan::default(),
        })
    })
}

/// One that is not enforced (PostgreSQL 18) holds nothing; one of periods is held by several rows together.
fn enforced() -> &'static str {
    if cfg!(feature = "pg18") { " AND k.conenforced AND NOT k.conperiod" } else { "" }
}
