//! Ordinary sequences: kept ahead of what a provider has drawn, so that a node that takes over repeats nothing.
//!
//! The provider is asked over an ordinary connection, and the sequence of that name here is moved on, by how far
//! `meld_core::sequence` says. Where it was moved to is noted, so that this node does not tell others of a value that
//! nobody has drawn: two nodes would drive each other's sequences up without end. It is noted after the move; a crash in
//! between makes the others move once for nothing.

use std::collections::HashMap;
use std::time::Duration;

use meld_core::sequence::{Look, target};
use pgrx::prelude::PgSqlErrorCode;

use super::nextval::refusal;
use crate::catalog::{Subscription, sequence_set};
use crate::log::{Failure, Result};
use crate::pg::sequence::{move_on, standing};
use crate::pg::server::quoted_array;
use crate::receiver::{LinkError, query};

/// For connecting and the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A sequence of a provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub schema: String,
    pub name: String,
    pub increment: i64,
    /// `None`: nothing since it was set there.
    pub drawn: Option<i64>,
}

/// What was drawn at the looks before, by subscription and sequence.
pub type Before = HashMap<(i32, String, String), i64>;

/// Asks a provider how far it has drawn from the sequences in the subscription's sets.
pub fn ask(
    subscription: &Subscription,
    interrupted: &mut dyn FnMut(),
) -> std::result::Result<Vec<Position>, LinkError> {
    let sets = quoted_array(&subscription.replication_sets);
    let sql = "SELECT nspname, relname, increment, drawn FROM meld.sequence_positions($1::text[])";
    let rows = query(&subscription.dsn, "meld", sql, &[Some(&sets)], LIMIT, interrupted)?;
    let read = |row: Vec<Option<String>>| {
        let [schema, name, increment, drawn] = row.try_into().ok()?;
        let drawn = match drawn {
            Some(drawn) => Some(drawn.parse().ok()?),
            None => None,
        };
        Some(Position { schema: schema?, name: name?, increment: increment?.parse().ok()?, drawn })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// Moves the sequence here on, if it has to be. Inside a transaction.
pub fn follow(subscription: i32, position: &Position, before: &mut Before) -> Result<()> {
    let Some(drawn) = position.drawn else { return Ok(()) };
    let shown = format!("{}.{}", position.schema, position.name);
    let oid = sequence_set::by_name(&position.schema, &position.name)?.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("sequence \"{shown}\" does not exist here"))
            .hint("Create it as it is at the provider, or remove it from the replication set there.")
    })?;
    if sequence_set::is_converted(oid)? {
        return Ok(());
    }
    let here = standing(oid).map_err(|trouble| refusal(trouble, &shown))?;
    if (here.increment > 0) != (position.increment > 0) {
        let message = format!("sequence \"{shown}\" goes in another direction than at the provider");
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message));
    }
    let drawn_before = before.insert((subscription, position.schema.clone(), position.name.clone()), drawn);
    let look = Look { increment: position.increment, drawn, drawn_before, here: here.last_value, bound: here.bound };
    if let Some(target) = target(look) {
        move_on(oid, target).map_err(|trouble| refusal(trouble, &shown))?;
        sequence_set::note_set(oid, target)?;
    }
    Ok(())
}
