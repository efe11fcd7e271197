//! Clock rules.
