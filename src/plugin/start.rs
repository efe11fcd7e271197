//! The agreement at the start of a stream: what the subscriber asks for, and whether the two nodes may be linked.

use meld_core::horizon::must_resynchronize;
use meld_core::identity::{Mark, check_distinct};
use meld_core::ids::{NodeId, NodeIdentity};
use meld_core::time::Timestamp;
use meld_core::wire::{OptionError, SUPPORTED, StartOptions, Startup, negotiate};
use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::left_behind;
use crate::log::{Failure, Result};
use crate::pg::decoding_session::{
    database_encoding, database_name, require_database_encoding, server_version, system_identifier,
};
use crate::pg::historic::{self, Key};
use crate::pg::promise;
use crate::pg::worker::my_database;
use crate::settings::SNOWFLAKE_NODE;

/// Capability of a subscriber that wants every value as text.
const FORCE_TEXT: &str = "force_text";

/// Word in `forward_origins` for every node.
const ALL_ORIGINS: &str = "all";

/// What both nodes know once the stream has started.
pub struct Agreement {
    pub protocol: u8,
    /// This node.
    pub provider: NodeIdentity,
    pub subscriber: NodeId,
    pub replication_sets: Vec<String>,
    pub forward: Forward,
    pub text_only: bool,
}

/// Whose changes are sent beside the provider's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forward {
    Nobody,
    Everybody,
    Only(Vec<NodeId>),
}

/// Reads the subscriber's options and refuses what can't be. Needs a transaction.
pub fn agree(options: &[(String, String)]) -> Result<Agreement> {
    let options = StartOptions::parse(options.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map_err(|error| refused(&error))?;
    let protocol =
        negotiate(SUPPORTED, options.protocol).map_err(|error| refused(&OptionError::NoCommonProtocol(error)))?;
    let (provider, others) = known_nodes()?;
    check_subscriber(&provider, &others, &options.node)?;
    check_encoding(&options.encoding)?;
    check_not_left_behind(&provider, &options)?;
    let forward = forward(&options.forward_origins, &provider, &others)?;
    let text_only = options.big_endian != big_endian() || options.capabilities.iter().any(|name| name == FORCE_TEXT);
    Ok(Agreement {
        protocol,
        provider,
        subscriber: options.node.id,
        replication_sets: options.replication_sets,
        forward,
        text_only,
    })
}

/// The first message of the stream.
pub fn startup_message(agreement: &Agreement) -> Startup {
    Startup {
        protocol: agreement.protocol,
        node: agreement.provider.clone(),
        server_version: server_version(),
        encoding: database_encoding(),
        big_endian: big_endian(),
        horizon: promise::announced(my_database()).horizon,
    }
}

fn big_endian() -> bool {
    cfg!(target_endian = "big")
}

fn refused(error: &OptionError) -> Failure {
    match error {
        OptionError::NoCommonProtocol(_) => {
            Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, error.to_string())
                .hint("Install versions of meld on both nodes that can talk to each other.")
        }
        OptionError::Unknown { .. }
        | OptionError::Repeated { .. }
        | OptionError::Missing { .. }
        | OptionError::Invalid { .. } => {
            Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string())
                .hint("Slots of the output plugin \"meld\" are read by subscriptions of meld.")
        }
    }
}

/// This node as it is now, and all others that it knows of as they were when it met them.
fn known_nodes() -> Result<(NodeIdentity, Vec<NodeIdentity>)> {
    let local = historic::read(c"local_node", None, &[c"node_id"], |row| row.int4(0))?;
    let columns = [c"node_id", c"node_name", c"system_identifier", c"database", c"snowflake_node"];
    let nodes = historic::read(c"node", None, &columns, |row| {
        Ok(NodeIdentity {
            id: node_id(row.int4(0)?)?,
            name: row.name(1)?,
            system_identifier: row.int8(2)? as u64,
            database: row.name(3)?,
            snowflake_node: node_id(row.int4(4)?)?.0,
        })
    })?;
    let (Some(local), Some(mut nodes)) = (local, nodes) else {
        return Err(no_node().hint("Execute CREATE EXTENSION meld and SELECT meld.node_create(...) there."));
    };
    let place = local.first().and_then(|&local| nodes.iter().position(|node| i32::from(node.id.0) == local));
    let Some(place) = place else {
        return Err(no_node().hint("Execute SELECT meld.node_create(...) there."));
    };
    let mut provider = nodes.swap_remove(place);
    provider.system_identifier = system_identifier();
    provider.database = database_name();
    if let Some(number) = NodeId::checked(SNOWFLAKE_NODE.get()) {
        provider.snowflake_node = number.0;
    }
    Ok((provider, nodes))
}

fn node_id(number: i32) -> Result<NodeId> {
    NodeId::checked(number).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("invalid node number {number} in meld's catalog"))
    })
}

fn no_node() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("database \"{}\" is not a node of meld", database_name()),
    )
}

fn check_subscriber(provider: &NodeIdentity, others: &[NodeIdentity], subscriber: &NodeIdentity) -> Result<()> {
    if let Err(clash) = check_distinct(provider, subscriber) {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, clash.to_string())
            .detail(clash.detail())
            .hint("Give each node a name and numbers of its own with meld.node_create."));
    }
    for other in others.iter().filter(|other| !is_same_node(other, subscriber)) {
        if let Err(clash) = check_distinct(other, subscriber) {
            return Err(claimed(other, subscriber, &clash.shared));
        }
    }
    Ok(())
}

/// The node itself; its snowflake number may have changed since it was met.
fn is_same_node(known: &NodeIdentity, subscriber: &NodeIdentity) -> bool {
    known.id == subscriber.id
        && known.name == subscriber.name
        && known.system_identifier == subscriber.system_identifier
        && known.database == subscriber.database
}

fn claimed(known: &NodeIdentity, subscriber: &NodeIdentity, shared: &[Mark]) -> Failure {
    let shared = shared.iter().map(Mark::to_string).collect::<Vec<_>>().join(", ");
    let describe = |node: &NodeIdentity| {
        format!(
            "\"{}\" with node id {}, snowflake node number {}, database \"{}\" of system {}",
            node.name, node.id, node.snowflake_node, node.database, node.system_identifier
        )
    };
    Failure::new(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("node \"{}\" can't be told from known node \"{}\": same {shared}", subscriber.name, known.name),
    )
    .detail(format!("The subscriber is {}; the known node is {}.", describe(subscriber), describe(known)))
    .hint("If the known node is no more, drop it here with meld.node_drop.")
}

/// Refuses a node that was away for so long that rows were forgotten which it may not know to be deleted.
fn check_not_left_behind(provider: &NodeIdentity, options: &StartOptions) -> Result<()> {
    let node = &options.node;
    let key = Some((c"node_id", Key::Int4(i32::from(node.id.0))));
    let forgotten = historic::read(c"left_behind", key, &[c"forgotten"], |row| row.timestamp(0).map(Timestamp))?;
    let forgotten = forgotten.unwrap_or_default().into_iter().max();
    if forgotten.is_some_and(|forgotten| must_resynchronize(options.horizon, forgotten)) {
        return Err(left_behind::refusal(&node.name, &provider.name));
    }
    Ok(())
}

fn check_encoding(subscriber: &str) -> Result<()> {
    require_database_encoding()?;
    let ours = database_encoding();
    if subscriber == ours {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("provider's encoding \"{ours}\" and subscriber's encoding \"{subscriber}\" differ"),
    )
    .hint("Create the databases of all nodes with the same encoding."))
}

fn forward(names: &[String], provider: &NodeIdentity, others: &[NodeIdentity]) -> Result<Forward> {
    if names.iter().any(|name| name == ALL_ORIGINS) {
        return Ok(Forward::Everybody);
    }
    let node = |name: &String| {
        let known = others.iter().chain([provider]).find(|node| node.name == *name);
        known.map(|node| node.id).ok_or_else(|| {
            Failure::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("node \"{name}\" in forward_origins is not known to node \"{}\"", provider.name),
            )
        })
    };
    let nodes = names.iter().map(node).collect::<Result<Vec<_>>>()?;
    Ok(if nodes.is_empty() { Forward::Nobody } else { Forward::Only(nodes) })
}
