//! Replication sets and the tables in them: `meld.replication_set`, `meld.replication_set_table`.

use super::query::{self, Row};
use crate::log::Result;
use crate::pg::Oid;

/// The sets that every node has; they can be altered, not dropped.
pub const BUILT_IN: [&str; 3] = ["default", "default_insert_only", "ddl_sql"];

/// What of a table's changes a set replicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actions {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Actions {
    /// Whether rows have to be found at the subscriber.
    pub fn need_key(self) -> bool {
        self.update || self.delete
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationSet {
    pub id: i32,
    pub name: String,
    pub actions: Actions,
}

const SELECT: &str = "SELECT set_id, set_name::text, replicate_insert, replicate_update, replicate_delete, \
                      replicate_truncate FROM meld.replication_set";

fn read(row: &Row) -> Result<ReplicationSet> {
    let actions = Actions { insert: row.get(3)?, update: row.get(4)?, delete: row.get(5)?, truncate: row.get(6)? };
    Ok(ReplicationSet { id: row.get(1)?, name: row.get(2)?, actions })
}

pub fn by_name(name: &str) -> Result<Option<ReplicationSet>> {
    query::first(&format!("{SELECT} WHERE set_name = $1"), &[name.into()], read)
}

pub fn by_id(id: i32) -> Result<Option<ReplicationSet>> {
    query::first(&format!("{SELECT} WHERE set_id = $1"), &[id.into()], read)
}

/// Keeps other sessions from changing sets and their tables until the transaction ends.
pub fn lock() -> Result<()> {
    query::execute("LOCK TABLE meld.replication_set, meld.replication_set_table IN SHARE ROW EXCLUSIVE MODE", &[])
}

pub fn insert(name: &str, actions: Actions) -> Result<i32> {
    let ids = query::change(
        "INSERT INTO meld.replication_set (set_name, replicate_insert, replicate_update, replicate_delete, \
         replicate_truncate) VALUES ($1::text::name, $2, $3, $4, $5) RETURNING set_id",
        &[name.into(), actions.insert.into(), actions.update.into(), actions.delete.into(), actions.truncate.into()],
        |row| row.get(1),
    )?;
    Ok(ids.into_iter().next().unwrap_or_default())
}

pub fn set_actions(id: i32, actions: Actions) -> Result<()> {
    query::execute(
        "UPDATE meld.replication_set SET replicate_insert = $2, replicate_update = $3, replicate_delete = $4, \
         replicate_truncate = $5 WHERE set_id = $1",
        &[id.into(), actions.insert.into(), actions.update.into(), actions.delete.into(), actions.truncate.into()],
    )
}

pub fn delete(id: i32) -> Result<()> {
    query::execute("DELETE FROM meld.replication_set WHERE set_id = $1", &[id.into()])
}

/// The tables of a set.
pub fn tables(id: i32) -> Result<Vec<Oid>> {
    let sql = "SELECT set_reloid::oid FROM meld.replication_set_table WHERE set_id = $1";
    query::rows(sql, &[id.into()], |row| row.get(1))
}

/// Adds a table; false if it was in the set.
pub fn add_table(id: i32, relation: Oid) -> Result<bool> {
    let added = query::change(
        // a catalog table takes no ON CONFLICT; `lock` keeps others away
        "INSERT INTO meld.replication_set_table (set_id, set_reloid) SELECT $1, $2 WHERE NOT EXISTS \
         (SELECT FROM meld.replication_set_table t WHERE t.set_id = $1 AND t.set_reloid = $2) RETURNING set_id",
        &[id.into(), relation.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!added.is_empty())
}

/// A partition whose place is in a set, and which is not there yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adoption {
    pub set: i32,
    /// The partitioned table through which it belongs there.
    pub parent: Oid,
    pub partition: Oid,
}

pub fn partitions_to_adopt() -> Result<Vec<Adoption>> {
    let sql = "SELECT p.set_id, p.set_reloid::oid, l.relid::oid FROM meld.replication_set_tree p, \
         pg_catalog.pg_partition_tree(p.set_reloid) l WHERE p.joins AND l.isleaf AND l.relid <> p.set_reloid \
         AND NOT EXISTS (SELECT FROM meld.replication_set_table t WHERE t.set_id = p.set_id AND t.set_reloid = l.relid) \
         AND NOT EXISTS (SELECT FROM meld.replication_set_tree o WHERE o.set_id = p.set_id AND o.set_reloid = l.relid \
             AND NOT o.joins) ORDER BY 1, 3";
    query::rows(sql, &[], |row| Ok(Adoption { set: row.get(1)?, parent: row.get(2)?, partition: row.get(3)? }))
}

/// Remembers that partitions of a table join the set, or that a partition does not.
pub fn remember(id: i32, relation: Oid, joins: bool) -> Result<()> {
    forget(id, relation)?;
    query::execute(
        "INSERT INTO meld.replication_set_tree (set_id, set_reloid, joins) VALUES ($1, $2, $3)",
        &[id.into(), relation.into(), joins.into()],
    )
}

/// Whether partitions of the table joined the set.
pub fn forget(id: i32, relation: Oid) -> Result<bool> {
    let forgotten = query::change(
        "DELETE FROM meld.replication_set_tree WHERE set_id = $1 AND set_reloid = $2 RETURNING joins",
        &[id.into(), relation.into()],
        |row| row.get::<bool>(1),
    )?;
    Ok(forgotten.contains(&true))
}

/// Removes a table; false if it was not in the set.
pub fn remove_table(id: i32, relation: Oid) -> Result<bool> {
    let removed = query::change(
        "DELETE FROM meld.replication_set_table WHERE set_id = $1 AND set_reloid = $2 RETURNING set_id",
        &[id.into(), relation.into()],
        |row| row.get::<i32>(1),
    )?;
    Ok(!removed.is_empty())
}
