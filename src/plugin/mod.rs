//! The provider's end: decodes WAL into frames. Runs in a walsender.
