//! What is asked of a provider over an ordinary connection: who it is, what sets it has, to drop a slot.

use std::time::{Duration, Instant};

use meld_core::identity::check_distinct;
use meld_core::ids::{NodeId, NodeIdentity};
use pgrx::prelude::PgSqlErrorCode;

use super::args::link_failure;
use crate::catalog::node;
use crate::log::{Failure, Result};
use crate::pg::worker::{check_for_interrupts, pause};
use crate::receiver::{LinkError, query};
use crate::sequence::peers;

/// For the connection and the answer together.
const DEADLINE: Duration = Duration::from_secs(20);
/// For a slot whose walsender has to end first.
const DROP_DEADLINE: Duration = Duration::from_secs(10);
const APPLICATION_NAME: &str = "meld";

fn ask(dsn: &str, sql: &str, params: &[Option<&str>]) -> std::result::Result<Vec<Vec<Option<String>>>, LinkError> {
    query(dsn, APPLICATION_NAME, sql, params, DEADLINE, &mut check_for_interrupts)
}

/// The node that the connection string leads to.
pub fn identity(dsn: &str) -> Result<NodeIdentity> {
    let sql = "SELECT node_id, node_name, system_identifier, database, snowflake_node FROM meld.identity()";
    let rows = ask(dsn, sql, &[]).map_err(|error| match error.sqlstate() {
        // undefined_function, invalid_schema_name
        "42883" | "3F000" => Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the provider's database does not have the extension meld",
        )
        .hint("Execute CREATE EXTENSION meld and SELECT meld.node_create(...) there."),
        _ => link_failure(&error, Some("could not ask the provider who it is")),
    })?;
    rows.first().and_then(|row| parse_identity(row)).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, "the provider's answer about itself makes no sense")
            .hint("Check that both nodes have the same version of meld.")
    })
}

fn parse_identity(row: &[Option<String>]) -> Option<NodeIdentity> {
    let [id, name, system_identifier, database, snowflake_node] = row else { return None };
    Some(NodeIdentity {
        id: NodeId::checked(id.as_ref()?.parse().ok()?)?,
        name: name.clone()?,
        system_identifier: system_identifier.as_ref()?.parse::<i64>().ok()? as u64,
        database: database.clone()?,
        snowflake_node: snowflake_node.as_ref()?.parse().ok()?,
    })
}

/// Refuses a provider that can't be told from this node, or from another node that this one knows.
pub fn check_provider(local: &NodeIdentity, provider: &NodeIdentity) -> Result<()> {
    let hint = "Give each node a name and numbers of its own with meld.node_create.";
    if let Err(clash) = check_distinct(local, provider) {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, clash.to_string())
            .detail(clash.detail())
            .hint(hint));
    }
    for known in node::all()?.into_iter().map(|node| node.identity) {
        let is_same = known.id == provider.id
            && known.name == provider.name
            && known.system_identifier == provider.system_identifier
            && known.database == provider.database;
        if known.id == local.id || is_same {
            continue;
        }
        if let Err(clash) = check_distinct(&known, provider) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("provider \"{}\" can't be told from known node \"{}\"", provider.name, known.name),
            )
            .detail(format!("{clash}. {}", clash.detail()))
            .hint("If the known node is no more, drop it here with meld.node_drop."));
        }
    }
    Ok(())
}

/// Refuses a provider that is a copy of a node that is known here, and to go on if this server is one.
pub fn check_copies(local: &NodeIdentity, provider: &NodeIdentity, dsn: &str) -> Result<()> {
    peers::check_not_a_copy(local, &node::dsns(local.id)?, &mut check_for_interrupts)?;
    if check_distinct(local, provider).is_err() {
        // which is said in more words later
        return Ok(());
    }
    let rows = ask(dsn, "SELECT meld.server_run()", &[])
        .map_err(|error| link_failure(&error, Some("could not ask the provider who it is")))?;
    match rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()) {
        Some(run) => peers::check_provider_run(provider, run, &mut check_for_interrupts),
        None => Ok(()),
    }
}

/// Refuses sets that the provider does not have.
pub fn check_sets(dsn: &str, provider: &str, sets: &[String]) -> Result<()> {
    let rows = ask(dsn, "SELECT set_name FROM meld.replication_set", &[])
        .map_err(|error| link_failure(&error, Some("could not read the provider's replication sets")))?;
    let known: Vec<&str> = rows.iter().filter_map(|row| row.first()?.as_deref()).collect();
    match sets.iter().find(|set| !known.contains(&set.as_str())) {
        None => Ok(()),
        Some(missing) => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("node \"{provider}\" has no replication set \"{missing}\""),
        )
        .detail(format!("Its sets are \"{}\".", known.join("\", \"")))
        .hint("Create it there with meld.repset_create.")),
    }
}

/// Drops a slot of meld's on the provider, once its walsender has ended. None of that name is fine, too.
pub fn drop_slot(dsn: &str, slot_name: &str) -> Result<()> {
    let sql = "SELECT CASE WHEN active THEN 'active' \
               ELSE 'dropped' || pg_catalog.pg_drop_replication_slot(slot_name)::pg_catalog.text END \
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND plugin = 'meld'";
    let deadline = Instant::now() + DROP_DEADLINE;
    loop {
        let outcome = ask(dsn, sql, &[Some(slot_name)]);
        let is_busy = match &outcome {
            Ok(rows) => rows.iter().flatten().flatten().any(|answer| answer == "active"),
            // object_in_use: the walsender came back in between
            Err(error) => error.sqlstate() == "55006",
        };
        if !is_busy {
            return outcome.map(|_| ()).map_err(|error| link_failure(&error, None));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, "the slot is still in use"));
        }
        pause(Duration::from_millis(100));
    }
}
