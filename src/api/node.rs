//! Nodes: `node_create`, `node_drop`, their interfaces, `node_info`, `identity`.

use meld_core::ids::{NodeId, NodeIdentity};
use pgrx::JsonB;
use pgrx::prelude::*;

use super::args;
use crate::catalog::{self, node};
use crate::log::{Failure, Result, or_raise};
use crate::monitor::requirements;
use crate::pg::decoding_session::{database_encoding, database_name, server_version, system_identifier};
use crate::pg::numbers;
use crate::pg::server::may_replicate_as_session_user;
use crate::pg::types::Name;
use crate::pg::worker::check_for_interrupts;
use crate::sequence::peers;
use crate::settings::SNOWFLAKE_NODE;
use crate::workers;

#[pg_extern(sql = false)]
fn node_create(
    node_name: Option<Name>,
    dsn: Option<String>,
    location: Option<String>,
    country: Option<String>,
    info: Option<JsonB>,
    node_id: Option<i32>,
) -> i32 {
    or_raise(create(node_name, dsn, location, country, info, node_id))
}

fn create(
    node_name: Option<Name>,
    dsn: Option<String>,
    location: Option<String>,
    country: Option<String>,
    info: Option<JsonB>,
    node_id: Option<i32>,
) -> Result<i32> {
    args::require_superuser("create a node")?;
    let name = args::new_name(node_name, "node_name")?;
    let dsn = args::dsn(dsn, "dsn")?;
    let id = chosen_id(node_id, &name)?;
    requirements::check()?;
    node::lock()?;
    let database = database_name();
    if let Some(local) = node::local()? {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("database \"{database}\" is node \"{}\" already", local.identity.name),
        )
        .hint("Drop that node with meld.node_drop first."));
    }
    let snowflake_node = NodeId::checked(SNOWFLAKE_NODE.get()).unwrap_or(id).0;
    let identity = NodeIdentity { id, name, system_identifier: system_identifier(), database, snowflake_node };
    refuse_known(&identity)?;
    node::insert(&identity, location, country, info)?;
    let interface = node::add_interface(id, &identity.name, &dsn)?;
    node::set_local(id, interface)?;
    workers::wake_at_commit();
    Ok(id.0.into())
}

/// The number that was asked for, or that of the snowflake ids, or one from the name.
fn chosen_id(asked_for: Option<i32>, name: &str) -> Result<NodeId> {
    match asked_for {
        Some(number) => NodeId::checked(number).ok_or_else(|| {
            Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid node id {number}"))
                .detail(format!("A node id is a number from {} to {}.", NodeId::MIN, NodeId::MAX))
        }),
        None => Ok(NodeId::checked(SNOWFLAKE_NODE.get()).unwrap_or_else(|| NodeId::from_name(name))),
    }
}

/// A node that was here before, or a peer's, may have taken a mark of the new one.
fn refuse_known(new: &NodeIdentity) -> Result<()> {
    for known in node::all()? {
        if let Err(clash) = meld_core::identity::check_distinct(new, &known.identity) {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, clash.to_string())
                .detail(clash.detail())
                .hint("Choose another name or node_id, or drop the known node with meld.node_drop."));
        }
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn node_drop(node_name: Option<Name>, ifexists: Option<bool>) -> bool {
    or_raise(drop_node(node_name, ifexists))
}

fn drop_node(node_name: Option<Name>, ifexists: Option<bool>) -> Result<bool> {
    let name = args::name(node_name, "node_name")?;
    let ifexists = args::given(ifexists, "ifexists")?;
    node::lock()?;
    let Some(dropped) = node::by_name(&name)? else {
        return if ifexists { Ok(false) } else { Err(no_such_node(&name)) };
    };
    let id = dropped.identity.id;
    let is_local = node::local()?.is_some_and(|local| local.identity.id == id);
    let users: Vec<String> = catalog::subscription::all()?
        .into_iter()
        .filter(|subscription| is_local || subscription.provider.id == id)
        .map(|subscription| format!("\"{}\"", subscription.name))
        .collect();
    if !users.is_empty() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop node \"{name}\" because subscriptions need it"),
        )
        .detail(format!("Subscriptions: {}.", users.join(", ")))
        .hint("Drop them with meld.sub_drop first."));
    }
    node::delete(id)?;
    workers::wake_at_commit();
    Ok(true)
}

fn no_such_node(name: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("node \"{name}\" does not exist"))
}

#[pg_extern(sql = false)]
fn node_add_interface(node_name: Option<Name>, interface_name: Option<Name>, dsn: Option<String>) -> i32 {
    or_raise(add_interface(node_name, interface_name, dsn))
}

fn add_interface(node_name: Option<Name>, interface_name: Option<Name>, dsn: Option<String>) -> Result<i32> {
    args::require_superuser("add an interface")?;
    let name = args::name(node_name, "node_name")?;
    let interface_name = args::new_name(interface_name, "interface_name")?;
    let dsn = args::dsn(dsn, "dsn")?;
    node::lock()?;
    let id = node::by_name(&name)?.ok_or_else(|| no_such_node(&name))?.identity.id;
    if node::interface(id, &interface_name)?.is_some() {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("node \"{name}\" has an interface \"{interface_name}\" already"),
        ));
    }
    node::add_interface(id, &interface_name, &dsn)
}

#[pg_extern(sql = false)]
fn node_drop_interface(node_name: Option<Name>, interface_name: Option<Name>) -> bool {
    or_raise(drop_interface(node_name, interface_name))
}

fn drop_interface(node_name: Option<Name>, interface_name: Option<Name>) -> Result<bool> {
    let name = args::name(node_name, "node_name")?;
    let interface_name = args::name(interface_name, "interface_name")?;
    node::lock()?;
    let id = node::by_name(&name)?.ok_or_else(|| no_such_node(&name))?.identity.id;
    let interface = node::interface(id, &interface_name)?.ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("node \"{name}\" has no interface \"{interface_name}\""),
        )
    })?;
    let users = node::interface_users(interface.id)?;
    if !users.is_empty() {
        let users: Vec<String> = users
            .into_iter()
            .map(|user| user.map_or("the local node itself".to_owned(), |name| format!("subscription \"{name}\"")))
            .collect();
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop interface \"{interface_name}\" because it is in use"),
        )
        .detail(format!("Used by {}.", users.join(", ")))
        .hint("Let a subscription use another interface with meld.sub_alter_interface."));
    }
    node::delete_interface(interface.id)?;
    Ok(true)
}

type Identity = (i32, Name, i64, Name, i32, i32, String, String);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn identity() -> TableIterator<
    'static,
    (
        name!(node_id, i32),
        name!(node_name, Name),
        name!(system_identifier, i64),
        name!(database, Name),
        name!(snowflake_node, i32),
        name!(server_version, i32),
        name!(encoding, String),
        name!(meld_version, String),
    ),
> {
    TableIterator::once(or_raise(own_identity()))
}

fn own_identity() -> Result<Identity> {
    let identity = node::require_local()?.identity;
    if numbers::is_copy() {
        return Err(peers::is_a_copy(&identity.name));
    }
    Ok((
        identity.id.0.into(),
        Name(identity.name),
        identity.system_identifier as i64,
        Name(identity.database),
        identity.snowflake_node.into(),
        server_version() as i32,
        database_encoding(),
        env!("CARGO_PKG_VERSION").to_owned(),
    ))
}

#[pg_extern(sql = false)]
fn server_run() -> Option<i64> {
    numbers::run()
}

#[pg_extern(sql = false)]
fn admit(node_id: Option<i32>, node_name: Option<Name>, run: Option<i64>) {
    or_raise(admit_node(node_id, node_name, run));
}

fn admit_node(node_id: Option<i32>, node_name: Option<Name>, run: Option<i64>) -> Result<()> {
    let id = args::given(node_id, "node_id")?;
    let name = args::name(node_name, "node_name")?;
    let run = args::given(run, "run")?;
    if !may_replicate_as_session_user() {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied to subscribe")
            .hint("Must be superuser or have the attribute REPLICATION."));
    }
    NodeId::checked(id).map_or(Ok(()), |id| peers::admit(id, &name, run, &mut check_for_interrupts))
}
