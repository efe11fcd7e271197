//! Names of conflicts and of what was done about them, as users read them in `meld.resolutions` and the server log.

use std::fmt;

use bincode::{Decode, Encode};

/// What an incoming change met. The first eight carry PostgreSQL's own names. The order is that of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum ConflictType {
    InsertExists,
    UpdateOriginDiffers,
    UpdateExists,
    UpdateMissing,
    UpdateDeleted,
    DeleteOriginDiffers,
    DeleteMissing,
    MultipleUniqueConflicts,
    /// An insert older than the tombstone it meets.
    InsertDeleted,
    /// A delete older than the row.
    DeleteExists,
    ForeignKey,
}

impl ConflictType {
    pub const ALL: [ConflictType; 11] = [
        ConflictType::InsertExists,
        ConflictType::UpdateOriginDiffers,
        ConflictType::UpdateExists,
        ConflictType::UpdateMissing,
        ConflictType::UpdateDeleted,
        ConflictType::DeleteOriginDiffers,
        ConflictType::DeleteMissing,
        ConflictType::MultipleUniqueConflicts,
        ConflictType::InsertDeleted,
        ConflictType::DeleteExists,
        ConflictType::ForeignKey,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ConflictType::InsertExists => "insert_exists",
            ConflictType::UpdateOriginDiffers => "update_origin_differs",
            ConflictType::UpdateExists => "update_exists",
            ConflictType::UpdateMissing => "update_missing",
            ConflictType::UpdateDeleted => "update_deleted",
            ConflictType::DeleteOriginDiffers => "delete_origin_differs",
            ConflictType::DeleteMissing => "delete_missing",
            ConflictType::MultipleUniqueConflicts => "multiple_unique_conflicts",
            ConflictType::InsertDeleted => "insert_deleted",
            ConflictType::DeleteExists => "delete_exists",
            ConflictType::ForeignKey => "foreign_key",
        }
    }
}

impl fmt::Display for ConflictType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of the incoming change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resolution {
    ApplyRemote,
    KeepLocal,
    Merge,
    Skip,
    Error,
}

impl Resolution {
    pub fn name(self) -> &'static str {
        match self {
            Resolution::ApplyRemote => "apply_remote",
            Resolution::KeepLocal => "keep_local",
            Resolution::Merge => "merge",
            Resolution::Skip => "skip",
            Resolution::Error => "error",
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A conflict and its outcome, as it goes into the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    pub kind: ConflictType,
    pub resolution: Resolution,
}
