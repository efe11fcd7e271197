//! Subscriptions of this node: `meld.subscription`, with the provider and the DSN that they use.

use meld_core::ids::{NodeId, NodeIdentity};

use super::query::{self, Row};
use crate::log::Result;

/// A subscription. The DSN may hold a password; `Debug` is left out so that it can't be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: i32,
    pub name: String,
    pub provider: NodeIdentity,
    pub interface_name: String,
    pub dsn: String,
    pub enabled: bool,
    pub slot_name: String,
    pub origin_name: String,
    pub replication_sets: Vec<String>,
    pub forward_origins: Vec<String>,
    pub apply_delay_ms: i64,
    pub force_text: bool,
    /// The slot on the provider and the origin here exist.
    pub ready: bool,
}

const SELECT: &str = "SELECT s.sub_id, s.sub_name::text, n.node_id, n.node_name::text, n.system_identifier, \
     n.database::text, n.snowflake_node, i.if_name::text, i.if_dsn, s.sub_enabled, s.sub_slot_name::text, \
     s.sub_origin_name, s.sub_replication_sets, s.sub_forward_origins, \
     (pg_catalog.extract('epoch', s.sub_apply_delay) * 1000)::int8, s.sub_force_text, s.sub_ready \
     FROM meld.subscription s JOIN meld.node n ON n.node_id = s.sub_provider \
     JOIN meld.node_interface i ON i.if_id = s.sub_interface";

fn read(row: &Row) -> Result<Subscription> {
    Ok(Subscription {
        id: row.get(1)?,
        name: row.get(2)?,
        provider: NodeIdentity {
            id: super::node::checked_id(row.get(3)?)?,
            name: row.get(4)?,
            system_identifier: row.get::<i64>(5)? as u64,
            database: row.get(6)?,
            snowflake_node: super::node::checked_id(row.get(7)?)?.0,
        },
        interface_name: row.get(8)?,
        dsn: row.get(9)?,
        enabled: row.get(10)?,
        slot_name: row.get(11)?,
        origin_name: row.get(12)?,
        replication_sets: row.get(13)?,
        forward_origins: row.get(14)?,
        apply_delay_ms: row.get(15)?,
        force_text: row.get(16)?,
        ready: row.get(17)?,
    })
}

pub fn by_id(id: i32) -> Result<Option<Subscription>> {
    query::first(&format!("{SELECT} WHERE s.sub_id = $1"), &[id.into()], read)
}

pub fn by_name(name: &str) -> Result<Option<Subscription>> {
    query::first(&format!("{SELECT} WHERE s.sub_name = $1"), &[name.into()], read)
}

pub fn all() -> Result<Vec<Subscription>> {
    query::rows(&format!("{SELECT} ORDER BY s.sub_id"), &[], read)
}

/// Slot and origin are made: the next worker goes on from the origin's position.
pub fn mark_ready(id: i32) -> Result<()> {
    query::execute("UPDATE meld.subscription SET sub_ready = true WHERE sub_id = $1", &[id.into()])
}

/// What `sub_create` was told.
pub struct NewSubscription<'a> {
    pub name: &'a str,
    pub provider: NodeId,
    pub interface: i32,
    pub enabled: bool,
    /// Name of both slot and origin.
    pub link_name: &'a str,
    pub replication_sets: Vec<String>,
}

/// Adds a subscription and gives its id.
pub fn insert(new: NewSubscription) -> Result<i32> {
    let ids = query::change(
        "INSERT INTO meld.subscription (sub_name, sub_provider, sub_interface, sub_enabled, sub_slot_name, \
         sub_origin_name, sub_replication_sets) VALUES ($1::text::name, $2, $3, $4, $5::text::name, $5, $6) \
         RETURNING sub_id",
        &[
            new.name.into(),
            i32::from(new.provider.0).into(),
            new.interface.into(),
            new.enabled.into(),
            new.link_name.into(),
            new.replication_sets.into(),
        ],
        |row| row.get(1),
    )?;
    Ok(ids.into_iter().next().unwrap_or_default())
}

pub fn delete(id: i32) -> Result<()> {
    query::execute("DELETE FROM meld.subscription WHERE sub_id = $1", &[id.into()])
}

pub fn set_enabled(id: i32, enabled: bool) -> Result<()> {
    query::execute("UPDATE meld.subscription SET sub_enabled = $2 WHERE sub_id = $1", &[id.into(), enabled.into()])
}

pub fn set_interface(id: i32, interface: i32) -> Result<()> {
    let args = [id.into(), interface.into()];
    query::execute("UPDATE meld.subscription SET sub_interface = $2 WHERE sub_id = $1", &args)
}

pub fn set_replication_sets(id: i32, sets: Vec<String>) -> Result<()> {
    let args = [id.into(), sets.into()];
    query::execute("UPDATE meld.subscription SET sub_replication_sets = $2 WHERE sub_id = $1", &args)
}
