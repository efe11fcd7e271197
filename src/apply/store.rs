//! The heap behind `core`'s port: one change of one remote transaction on one local table.

use meld_core::apply::{LocalRow, LocalStamp, Operation, RowStore};
use meld_core::conflict::{Conflict, ConflictType};
use meld_core::ids::Xid;
use meld_core::lsn::Lsn;
use meld_core::time::Stamp;
#[cfg(feature = "planted_fault")]
use meld_core::time::Timestamp;

use crate::conflict::writers::Writers;
use crate::conflict::{ConflictRecord, Version, record};
use crate::log::{Failure, Result};
use crate::pg::Snapshots;
use crate::pg::origin::Writer;
use crate::pg::target::{RowSide, Target};

/// How often an insert looks again for a row that was there a moment ago.
const INSERT_ROUNDS: usize = 5;

/// What a conflict's record says about the remote transaction.
#[derive(Clone, Copy, Debug)]
pub struct RemoteContext {
    pub stamp: Stamp,
    pub commit_lsn: Lsn,
    pub xid: Xid,
}

/// The store of one change. The target's remote row is the change's.
pub struct HeapStore<'s> {
    pub target: &'s mut Target,
    pub operation: Operation,
    pub writers: &'s mut Writers,
    pub remote: RemoteContext,
    /// Conflicts met, for the statistics.
    pub conflicts: &'s mut Vec<ConflictType>,
}

impl RowStore for HeapStore<'_> {
    type Error = Failure;

    fn find(&mut self) -> Result<Option<LocalRow>> {
        if self.operation == Operation::Insert && !self.target.has_key() {
            return Ok(None);
        }
        let writer = match self.operation {
            Operation::Insert => self.find_for_insert()?,
            Operation::Update => self.target.find(false, Snapshots::FromActive)?,
            Operation::Delete => self.target.find(true, Snapshots::FromActive)?,
        };
        let stamp = writer.map(|writer| self.writers.stamp(writer)).transpose()?;
        #[cfg(feature = "planted_fault")]
        let stamp = stamp.map(|stamp| planted_fault(stamp, self.remote.stamp));
        Ok(stamp.map(|stamp| LocalRow { stamp }))
    }

    fn insert(&mut self) -> Result<()> {
        self.target.insert()
    }

    fn update(&mut self) -> Result<()> {
        self.target.update();
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        self.target.delete();
        Ok(())
    }

    fn record(&mut self, conflict: Conflict, local: Option<LocalRow>) -> Result<()> {
        self.conflicts.push(conflict.kind);
        let remote_json = self.target.row_json(RowSide::Remote);
        let local_version = match local {
            None => Version::default(),
            Some(LocalRow { stamp }) => Version {
                stamp: match stamp {
                    LocalStamp::Known(stamp) => Some(stamp),
                    LocalStamp::ThisTransaction => Some(self.remote.stamp),
                    LocalStamp::Before(_) => None,
                },
                row: Some(self.target.row_json(RowSide::Local)),
            },
        };
        record(&ConflictRecord {
            conflict,
            schema: self.target.schema(),
            table: self.target.name(),
            key_columns: self.target.key_columns(),
            key_source: remote_json.clone(),
            local: local_version,
            remote: Version {
                stamp: Some(self.remote.stamp),
                row: (self.operation != Operation::Delete).then_some(remote_json),
            },
            unchanged_columns: self.target.unchanged_columns(),
            remote_commit_lsn: self.remote.commit_lsn,
            remote_xid: self.remote.xid,
        })
    }
}

impl HeapStore<'_> {
    /// An insert asks the index first, which also tells of rows of open transactions, another apply worker's say. If that
    /// row has gone again when it is looked for, the index is asked once more; one that comes and goes in every round is
    /// left to the unique index, whose error has the transaction tried again.
    fn find_for_insert(&mut self) -> Result<Option<Writer>> {
        for _ in 0..INSERT_ROUNDS {
            match self.target.key_is_free() {
                None => return self.target.find(false, Snapshots::FromActive),
                Some(true) => return Ok(None),
                Some(false) => {}
            }
            // what was committed while the index waited is newer than the change's own snapshot
            if let Some(writer) = self.target.find(false, Snapshots::Fresh)? {
                return Ok(Some(writer));
            }
        }
        Ok(None)
    }
}

/// For the test of the tests: on a node where `meld.planted_fault` is on, the older of two versions wins. A stamp is
/// mirrored at the one that it meets.
#[cfg(feature = "planted_fault")]
fn planted_fault(local: LocalStamp, remote: Stamp) -> LocalStamp {
    match local {
        LocalStamp::Known(stamp) if stamp.node != remote.node && crate::settings::PLANTED_FAULT.get() => {
            let mirrored = remote.commit_ts.0.saturating_mul(2).saturating_sub(stamp.commit_ts.0);
            LocalStamp::Known(Stamp { commit_ts: Timestamp(mirrored), ..stamp })
        }
        _ => local,
    }
}
