//! Node numbers that nobody else has, and servers that are not copies of each other.
//!
//! What two nodes are is compared at every connect on both sides (`meld_core::identity`). This adds what needs a third
//! look:
//!
//! * **Other nodes' numbers** go into shared memory at each look of the manager, so that the check of the setting
//!   `snowflake.node` can refuse one of them, and so that `snowflake.nextval` draws nothing under one.
//! * **What a provider's number is now** is learned at each connect, and compared with all that are known.
//! * **Copies.** A copy of a node's server has all marks of the node. Each server draws a number when it starts (its
//!   *run*), and a provider asks over the connecting node's own connection string which run answers there: if that is
//!   not the one that connects, it is a copy. A server asks the same of itself before it connects anywhere. Where nobody
//!   answers there is nothing to compare, and the node is let in: that is what a node behind a firewall looks like, or
//!   one that has moved.

use std::time::Duration;

use meld_core::identity::check_distinct;
use meld_core::ids::{NodeId, NodeIdentity};
use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::node;
use crate::log::{Failure, Result};
use crate::pg::worker::my_database;
use crate::pg::{Oid, numbers};
use crate::receiver::query;

/// For connecting and the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Of the tables, since a copy does not say who it is; in the order in which DROP EXTENSION locks them.
const RUN: &str =
    "SELECT node_id, n.node_name, meld.server_run() FROM meld.node n JOIN meld.local_node USING (node_id)";

/// Lets all processes of this database know the numbers of other nodes. `None`: it is no node any more.
pub fn publish(database: Oid, local: Option<&NodeIdentity>) -> Result<()> {
    let Some(local) = local else {
        numbers::publish(database, &[]);
        numbers::set_copy(database, false);
        return Ok(());
    };
    let others: Vec<NodeIdentity> =
        node::all()?.into_iter().map(|node| node.identity).filter(|node| node.id != local.id).collect();
    let named: Vec<(NodeId, &str)> =
        others.iter().map(|node| (NodeId(node.snowflake_node), node.name.as_str())).collect();
    numbers::publish(database, &named);
    Ok(())
}

/// A provider has told who it is. Notes its present number, unless another node that is known here has it.
pub fn met(provider: &NodeIdentity) -> Result<()> {
    let known: Vec<NodeIdentity> = node::all()?.into_iter().map(|node| node.identity).collect();
    for other in known.iter().filter(|node| node.id != provider.id) {
        if let Err(clash) = check_distinct(other, provider) {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, clash.to_string())
                .detail(format!("The provider is node \"{}\"; node \"{}\" is known here.", provider.name, other.name))
                .hint("If the known node is no more, drop it here with meld.node_drop."));
        }
    }
    let before = known.iter().find(|node| node.id == provider.id);
    if before.is_some_and(|before| before.snowflake_node != provider.snowflake_node) {
        node::update_identity(provider)?;
    }
    Ok(())
}

/// Who answers at a connection string.
struct Answer {
    node: NodeId,
    name: String,
    run: i64,
}

/// `None` if nobody answers who is a node.
fn ask(dsn: &str, interrupted: &mut dyn FnMut()) -> Option<Answer> {
    let rows = query(dsn, "meld", RUN, &[], LIMIT, interrupted).ok()?;
    let [node, name, run] = rows.into_iter().next()?.try_into().ok()?;
    Some(Answer { node: NodeId::checked(node?.parse().ok()?)?, name: name?, run: run?.parse().ok()? })
}

/// At a provider: refuses a node that connects from another server than its connection strings lead to.
pub fn admit(id: NodeId, name: &str, run: i64, interrupted: &mut dyn FnMut()) -> Result<()> {
    // another node with this id is refused for that, in other words
    let Some(known) = node::by_id(id)?.filter(|known| known.identity.name == name) else { return Ok(()) };
    match answering_run(&known.identity, interrupted)? {
        Some(answering) if answering != run => {
            let message =
                format!("node \"{}\" runs on another server than the one that connects as it", known.identity.name);
            Err(copy(
                message,
                &format!("The connection string of node \"{}\" leads to another server", known.identity.name),
            ))
        }
        _ => Ok(()),
    }
}

/// At a subscriber: refuses a provider that says it is a known node, while that runs on another server.
pub fn check_provider_run(provider: &NodeIdentity, run: i64, interrupted: &mut dyn FnMut()) -> Result<()> {
    admit(provider.id, &provider.name, run, interrupted)
}

/// The run of the server to which the known connection strings of a node lead.
fn answering_run(known: &NodeIdentity, interrupted: &mut dyn FnMut()) -> Result<Option<i64>> {
    for dsn in node::dsns(known.id)? {
        if let Some(answer) = ask(&dsn, interrupted)
            && (answer.node, answer.name.as_str()) == (known.id, known.name.as_str())
        {
            return Ok(Some(answer.run));
        }
    }
    Ok(None)
}

/// Refuses to go on if the local node's own connection string leads to this node on another server: then this is the
/// copy, or the original that nobody can reach any more. Notes what it finds for all processes of the database.
pub fn check_not_a_copy(local: &NodeIdentity, dsns: &[String], interrupted: &mut dyn FnMut()) -> Result<()> {
    let Some(own) = numbers::run() else { return Ok(()) };
    let answers = dsns.iter().filter_map(|dsn| ask(dsn, interrupted));
    let mut runs = answers.filter(|answer| (answer.node, &answer.name) == (local.id, &local.name)).map(|a| a.run);
    let is_copy = match runs.next() {
        // nobody answers: what was found before stays
        None => numbers::is_copy(),
        Some(run) => run != own,
    };
    numbers::set_copy(my_database(), is_copy);
    if is_copy { Err(is_a_copy(&local.name)) } else { Ok(()) }
}

/// What a node says that is a copy.
pub fn is_a_copy(name: &str) -> Failure {
    copy(
        format!("this server is a copy of the one that node \"{name}\" runs on"),
        "The node's own connection string leads to another server",
    )
}

fn copy(message: String, found: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, message)
        .detail(format!("{found} that is the same node. Two servers that are one node would give the same ids and take each other's changes for their own."))
        .hint("Stop one of the two. A server that takes the node's place has to be reached by its connection string.")
}
