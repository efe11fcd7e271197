//! Partitions that come later: they join the sets of the partitioned table above them when they are made or attached.
//!
//! Called by an event trigger at the end of such a statement, as the extension's owner, in the statement's transaction: a
//! partition that can't be replicated is refused with it. A partition that was removed from a set by itself stays out.
//!
//! Who adds a partitioned table locks it against new partitions before he locks the sets, and a statement that adds a
//! partition has the table's lock before it comes here: so neither misses the other.

use std::collections::HashSet;

use pgrx::prelude::*;

use super::delta::mark_counter;
use super::repset_table::{announce, check_table};
use crate::catalog::{delta, relation, repset};
use crate::log::{Result, or_raise};

#[pg_extern(sql = false)]
fn adopt_partitions() {
    or_raise(adopt());
}

fn adopt() -> Result<()> {
    // without a lock first: most statements bring no partition
    if repset::partitions_to_adopt()?.is_empty() {
        return Ok(());
    }
    repset::lock()?;
    let mut adopted = HashSet::new();
    for wanted in repset::partitions_to_adopt()? {
        let Some(leaf) = relation::by_oid(wanted.partition)? else { continue };
        let Some(set) = repset::by_id(wanted.set)? else { continue };
        check_table(&set, &leaf)?;
        for name in delta::names_below(wanted.parent)? {
            mark_counter(&leaf, &name)?;
        }
        repset::add_table(wanted.set, leaf.oid)?;
        adopted.insert(leaf.oid);
    }
    adopted.into_iter().try_for_each(announce)
}
