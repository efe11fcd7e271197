//! Nodes and the ways to reach them: `meld.node`, `meld.node_interface`, `meld.local_node`.

use meld_core::ids::{NodeId, NodeIdentity};
use pgrx::JsonB;
use pgrx::prelude::PgSqlErrorCode;

use super::query::{self, Row};
use crate::log::{Failure, Result};
use crate::pg::Oid;
use crate::pg::decoding_session::{database_name, system_identifier};
use crate::pg::server::invalidate_relation;
use crate::settings::SNOWFLAKE_NODE;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub identity: NodeIdentity,
    pub location: Option<String>,
    pub country: Option<String>,
}

/// A way to reach a node. The DSN may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Interface {
    pub id: i32,
    pub name: String,
    pub node: NodeId,
    pub dsn: String,
}

const COLUMNS: &str = "n.node_id, n.node_name::text, n.system_identifier, n.database::text, n.snowflake_node, \
                       n.location, n.country";

fn read(row: &Row) -> Result<Node> {
    let identity = NodeIdentity {
        id: checked_id(row.get(1)?)?,
        name: row.get(2)?,
        system_identifier: row.get::<i64>(3)? as u64,
        database: row.get(4)?,
        snowflake_node: checked_id(row.get(5)?)?.0,
    };
    Ok(Node { identity, location: row.optional(6)?, country: row.optional(7)? })
}

pub(super) fn checked_id(number: i32) -> Result<NodeId> {
    NodeId::checked(number).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("invalid node number {number} in meld's catalog"))
    })
}

/// Whether this database has the extension.
pub fn installed() -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regclass('meld.local_node') IS NOT NULL";
    Ok(query::first(sql, &[], |row| row.get(1))?.unwrap_or(false))
}

/// The node that this database is, as it is now: a copied cluster or a renamed database shows at once.
pub fn local() -> Result<Option<Node>> {
    let sql = format!("SELECT {COLUMNS} FROM meld.local_node l JOIN meld.node n ON n.node_id = l.node_id");
    let Some(mut node) = query::first(&sql, &[], read)? else { return Ok(None) };
    node.identity.system_identifier = system_identifier();
    node.identity.database = database_name();
    if let Some(number) = NodeId::checked(SNOWFLAKE_NODE.get()) {
        node.identity.snowflake_node = number.0;
    }
    Ok(Some(node))
}

/// The table that says which node this database is, and that node's id. Everybody may ask.
pub fn local_number() -> Result<Option<(Oid, NodeId)>> {
    let sql = "SELECT tableoid, node_id FROM meld.local_node";
    query::first(sql, &[], |row| Ok((row.get(1)?, checked_id(row.get(2)?)?)))
}

/// Lets every session forget which node this is, once the transaction is committed.
fn announce_local() -> Result<()> {
    let oid = query::first("SELECT 'meld.local_node'::regclass::oid", &[], |row| row.get(1))?;
    oid.into_iter().for_each(invalidate_relation);
    Ok(())
}

/// The node that this database is, or the error that says that it is none.
pub fn require_local() -> Result<Node> {
    local()?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("database \"{}\" is not a node of meld", database_name()),
        )
        .hint("Make it one with meld.node_create.")
    })
}

pub fn by_name(name: &str) -> Result<Option<Node>> {
    query::first(&format!("SELECT {COLUMNS} FROM meld.node n WHERE n.node_name = $1"), &[name.into()], read)
}

pub fn by_id(id: NodeId) -> Result<Option<Node>> {
    let sql = format!("SELECT {COLUMNS} FROM meld.node n WHERE n.node_id = $1");
    query::first(&sql, &[i32::from(id.0).into()], read)
}

/// All nodes that this one knows of, itself included.
pub fn all() -> Result<Vec<Node>> {
    query::rows(&format!("SELECT {COLUMNS} FROM meld.node n ORDER BY n.node_id"), &[], read)
}

/// Keeps other sessions from changing nodes and subscriptions until the transaction ends.
pub fn lock() -> Result<()> {
    query::execute("LOCK TABLE meld.node, meld.subscription IN SHARE ROW EXCLUSIVE MODE", &[])
}

pub fn insert(
    node: &NodeIdentity,
    location: Option<String>,
    country: Option<String>,
    info: Option<JsonB>,
) -> Result<()> {
    query::execute(
        "INSERT INTO meld.node (node_id, node_name, location, country, info, system_identifier, database, \
         snowflake_node) VALUES ($1, $2::text::name, $3, $4, $5, $6, $7::text::name, $8)",
        &[
            i32::from(node.id.0).into(),
            node.name.as_str().into(),
            location.into(),
            country.into(),
            info.into(),
            (node.system_identifier as i64).into(),
            node.database.as_str().into(),
            i32::from(node.snowflake_node).into(),
        ],
    )
}

/// What a node has learnt about another since it met it.
pub fn update_identity(node: &NodeIdentity) -> Result<()> {
    query::execute(
        "UPDATE meld.node SET snowflake_node = $2 WHERE node_id = $1",
        &[i32::from(node.id.0).into(), i32::from(node.snowflake_node).into()],
    )
}

/// Makes a node of the catalog the one that this database is.
pub fn set_local(id: NodeId, interface: i32) -> Result<()> {
    let args = [i32::from(id.0).into(), interface.into()];
    query::execute("INSERT INTO meld.local_node (node_id, node_local_if) VALUES ($1, $2)", &args)?;
    announce_local()
}

pub fn delete(id: NodeId) -> Result<()> {
    let args = [i32::from(id.0).into()];
    query::execute("DELETE FROM meld.local_node WHERE node_id = $1", &args)?;
    query::execute("DELETE FROM meld.node WHERE node_id = $1", &args)?;
    announce_local()
}

/// Adds an interface and gives its id.
pub fn add_interface(node: NodeId, name: &str, dsn: &str) -> Result<i32> {
    let ids = query::change(
        "INSERT INTO meld.node_interface (if_name, if_nodeid, if_dsn) VALUES ($1::text::name, $2, $3) RETURNING if_id",
        &[name.into(), i32::from(node.0).into(), dsn.into()],
        |row| row.get(1),
    )?;
    ids.into_iter().next().ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "no row was inserted into meld.node_interface")
    })
}

pub fn set_interface_dsn(id: i32, dsn: &str) -> Result<()> {
    query::execute("UPDATE meld.node_interface SET if_dsn = $2 WHERE if_id = $1", &[id.into(), dsn.into()])
}

pub fn interface(node: NodeId, name: &str) -> Result<Option<Interface>> {
    query::first(
        "SELECT if_id, if_name::text, if_nodeid, if_dsn FROM meld.node_interface \
         WHERE if_nodeid = $1 AND if_name = $2",
        &[i32::from(node.0).into(), name.into()],
        |row| Ok(Interface { id: row.get(1)?, name: row.get(2)?, node: checked_id(row.get(3)?)?, dsn: row.get(4)? }),
    )
}

/// The ways to a node, those that were added first before others.
pub fn dsns(node: NodeId) -> Result<Vec<String>> {
    let sql = "SELECT if_dsn FROM meld.node_interface WHERE if_nodeid = $1 ORDER BY if_id LIMIT 4";
    query::rows(sql, &[i32::from(node.0).into()], |row| row.get(1))
}

/// What keeps an interface: subscriptions by name, or `None` in place of one for the local node itself.
pub fn interface_users(id: i32) -> Result<Vec<Option<String>>> {
    query::rows(
        "SELECT sub_name::text FROM meld.subscription WHERE sub_interface = $1 \
         UNION ALL SELECT NULL FROM meld.local_node WHERE node_local_if = $1",
        &[id.into()],
        |row| row.optional(1),
    )
}

pub fn delete_interface(id: i32) -> Result<()> {
    query::execute("DELETE FROM meld.node_interface WHERE if_id = $1", &[id.into()])
}
