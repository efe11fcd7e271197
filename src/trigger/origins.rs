//! Which node an origin stands for, without a query for each row.
//!
//! An origin keeps its node for good, so what was found is kept as long as the table that it was found in. What was not
//! found is asked for again in the next transaction: a row that came through one of meld's origins was written after
//! that origin became known.

use std::cell::RefCell;
use std::collections::HashMap;

use meld_core::ids::{NodeId, Xid};

use crate::log::Result;
use crate::pg::Oid;
use crate::pg::historic::{self, Key};

#[derive(Default)]
struct Known {
    /// `meld.origin`: another one after the extension was made anew.
    table: Option<Oid>,
    nodes: HashMap<u16, NodeId>,
    /// None of meld's, as of this transaction.
    stranger: Option<(Xid, u16)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The node of an origin of this server, if it is one of meld's.
pub fn node_of(roident: u16, transaction: Xid) -> Result<Option<NodeId>> {
    let table = historic::table(c"origin");
    let known = KNOWN.with_borrow_mut(|known| {
        if known.table != table {
            *known = Known { table, ..Known::default() };
        }
        match known.nodes.get(&roident) {
            Some(&node) => Some(Some(node)),
            None => (known.stranger == Some((transaction, roident))).then_some(None),
        }
    });
    if let Some(answer) = known {
        return Ok(answer);
    }
    let found =
        historic::read(c"origin", Some((c"roident", Key::Oid(u32::from(roident)))), &[c"node_id"], |row| row.int4(0))?;
    let node = found.unwrap_or_default().first().and_then(|&number| NodeId::checked(number));
    KNOWN.with_borrow_mut(|known| match node {
        Some(node) => {
            known.nodes.insert(roident, node);
        }
        None => known.stranger = Some((transaction, roident)),
    });
    Ok(node)
}
