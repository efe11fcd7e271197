//! How this server's writers become stamps.
//!
//! A row, a tombstone and an override tell who wrote them as PostgreSQL does: by a transaction, whose commit timestamp and
//! replication origin are asked for. The rule deals in stamps, whose origin is a node. Runs wherever a stamp is needed:
//! in the apply worker, in backends, in the collector.

use std::collections::HashMap;

use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};
use meld_core::version::LocalStamp;

use pgrx::prelude::PgSqlErrorCode;

use crate::catalog::Node;
use crate::clock::forgotten_before;
use crate::log::{Failure, Result};
use crate::pg::historic;
use crate::pg::origin::Writer;

/// Stands for the transaction at work where its stamp is not known yet: larger than all others.
pub const UNCOMMITTED: Stamp = Stamp { commit_ts: Timestamp(i64::MAX), node: NodeId(u16::MAX) };

/// Who is who among the origins of this server.
#[derive(Debug)]
pub struct Writers {
    pub local_node: NodeId,
    /// By replication origin of this server.
    node_of_origin: HashMap<u16, NodeId>,
}

impl Writers {
    /// Reads the catalog. `local` is the node that this database is.
    pub fn read(local: &Node) -> Result<Writers> {
        Ok(Writers { local_node: local.identity.id, node_of_origin: node_ids()? })
    }

    /// Reads the catalog past the rights of the session's user, for a trigger of his statement.
    pub fn read_past_rights() -> Result<Writers> {
        let local = historic::read(c"local_node", None, &[c"node_id"], |row| Ok(NodeId::checked(row.int4(0)?)))?;
        let Some(&Some(local_node)) = local.unwrap_or_default().first() else {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "this database is not a node of meld",
            ));
        };
        Ok(Writers { local_node, node_of_origin: node_ids()? })
    }

    /// A stamp in any case: `own` for the transaction in hand. A forgotten one is not younger than its bound, which makes
    /// it win over what it may be older than.
    pub fn stamp_or_bound(&mut self, writer: Writer, own: Stamp) -> Result<Stamp> {
        Ok(match self.stamp(writer)? {
            LocalStamp::ThisTransaction => own,
            LocalStamp::Known(stamp) | LocalStamp::Before(stamp) => stamp,
        })
    }

    pub fn stamp(&mut self, writer: Writer) -> Result<LocalStamp> {
        Ok(match writer {
            Writer::ThisTransaction => LocalStamp::ThisTransaction,
            Writer::Committed(mark) => {
                LocalStamp::Known(Stamp { commit_ts: mark.commit_ts, node: self.node_of(mark.roident)? })
            }
            Writer::Forgotten => LocalStamp::Before(Stamp { commit_ts: forgotten_before()?, node: self.local_node }),
            Writer::ThisOrOlder(mark) => {
                let bound = forgotten_before()?.max(Timestamp(mark.commit_ts.0.saturating_add(1)));
                LocalStamp::Before(Stamp { commit_ts: bound, node: self.local_node })
            }
        })
    }

    /// An origin that is not known yet belongs to a subscription that was made later than this was read. One that is none
    /// of meld's stands for a writer outside of the mesh, whose rows count as this node's own.
    pub fn node_of(&mut self, roident: u16) -> Result<NodeId> {
        if roident == 0 {
            return Ok(self.local_node);
        }
        if !self.node_of_origin.contains_key(&roident) {
            self.node_of_origin = node_ids()?;
        }
        Ok(self.node_of_origin.get(&roident).copied().unwrap_or(self.local_node))
    }
}

fn node_ids() -> Result<HashMap<u16, NodeId>> {
    let origins = historic::read(c"origin", None, &[c"roident", c"node_id"], |row| {
        Ok((u16::try_from(row.oid(0)?).ok(), NodeId::checked(row.int4(1)?)))
    })?;
    Ok(origins.unwrap_or_default().into_iter().filter_map(|(roident, node)| Some((roident?, node?))).collect())
}
