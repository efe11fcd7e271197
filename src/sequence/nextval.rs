//! Behind `snowflake.nextval`: under which number this node draws, and what is said when it can't.

use std::cell::RefCell;

use meld_core::ids::{NodeId, RelId};
use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::{node, sequence};
use crate::log::{Failure, Result, or_raise};
use crate::pg::invalidation::Invalidations;
use crate::pg::nextval::{Trouble, Ways};
use crate::pg::{Oid, numbers};
use crate::settings::SNOWFLAKE_NODE;

use super::peers;

crate::nextval_entry!(snowflake_nextval, pg_finfo_snowflake_nextval => Ways { number, find_number, refuse });

thread_local! {
    /// The local node's id, kept until `meld.local_node` changes.
    static LOCAL: RefCell<Local> = RefCell::default();
}

#[derive(Default)]
struct Local {
    known: Option<(RelId, NodeId)>,
    invalidations: Option<Invalidations>,
}

impl Local {
    fn get(&mut self) -> Option<NodeId> {
        let (table, id) = self.known?;
        let changed = self.invalidations.as_ref().and_then(Invalidations::take);
        if changed.is_some_and(|changed| changed.all_relations || changed.relations.contains(&table)) {
            self.known = None;
            return None;
        }
        Some(id)
    }
}

/// The number as it is known in this process.
fn number() -> Option<NodeId> {
    let number = NodeId::checked(SNOWFLAKE_NODE.get()).or_else(|| LOCAL.with_borrow_mut(Local::get));
    number.filter(|&number| !numbers::is_taken(number) && !numbers::is_copy())
}

fn find_number() -> NodeId {
    or_raise(look_number_up())
}

#[cold]
fn look_number_up() -> Result<NodeId> {
    let set = NodeId::checked(SNOWFLAKE_NODE.get());
    let number = match set {
        Some(number) => number,
        None => look_node_up()?,
    };
    if let Some(other) = numbers::other_node(number) {
        let from =
            if set.is_some() { "The number comes from snowflake.node." } else { "The number is the id of this node." };
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("snowflake node number {number} belongs to node \"{other}\""),
        )
        .detail(format!("{from} Ids that are drawn under it could be that node's ids as well."))
        .hint("Set snowflake.node to a number that no node of meld.node has, or drop that node with meld.node_drop."));
    }
    if numbers::is_copy() {
        return Err(peers::is_a_copy(&node::require_local()?.identity.name));
    }
    Ok(number)
}

fn look_node_up() -> Result<NodeId> {
    // listening begins before the look
    LOCAL.with_borrow_mut(|local| {
        let listening = local.invalidations.get_or_insert_with(Invalidations::listen);
        drop(listening.take());
    });
    let Some((table, id)) = node::local_number()? else {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no node number for snowflake ids",
        )
        .detail("This database is not a node of meld, and snowflake.node is not set.")
        .hint("Make it a node with meld.node_create, or set snowflake.node to a number that no other server has."));
    };
    LOCAL.with_borrow_mut(|local| local.known = Some((RelId(table.to_u32()), id)));
    Ok(id)
}

fn refuse(trouble: Trouble, oid: Oid) -> ! {
    let name = or_raise(sequence::shown(oid));
    refusal(trouble, &name).raise()
}

/// What is said about a sequence that can't be used.
pub fn refusal(trouble: Trouble, name: &str) -> Failure {
    use PgSqlErrorCode::*;
    match trouble {
        Trouble::NotASequence => Failure::new(ERRCODE_WRONG_OBJECT_TYPE, format!("\"{name}\" is not a sequence")),
        Trouble::NotPermanent => Failure::new(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("sequence \"{name}\" is temporary or unlogged, so its values could come again"),
        ),
        Trouble::NotAllowed => {
            Failure::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for sequence {name}"))
        }
        Trouble::NotConverted => Failure::new(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("sequence \"{name}\" does not give snowflake ids"),
        )
        .hint(format!("Execute SELECT snowflake.convert_sequence_to_snowflake('{name}') once.")),
        Trouble::Corrupt => Failure::new(ERRCODE_DATA_CORRUPTED, format!("page of sequence \"{name}\" is damaged")),
        Trouble::Exhausted => Failure::new(
            ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED,
            format!("sequence \"{name}\" has no more snowflake ids"),
        )
        .detail("The time in its last id, or the clock of this server, is beyond the year 2092."),
    }
}
