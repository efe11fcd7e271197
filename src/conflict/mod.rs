//! History of conflicts.
