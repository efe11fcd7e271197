//! Typed rows of meld's own tables.
