//! The stream between two nodes: what is asked for (`options`), what is said (`message`), and how it is packed and
//! checked (`frame`, over `codec` and `row`). `docs/protocol.md` describes every byte.
//!
//! The provider's output plugin fills a [`FrameWriter`] and hands each finished frame to the server as one write; the
//! subscriber's receiver thread puts each payload that arrives through a [`FrameReader`] and queues what it gives.
//! Whatever a peer sends is data: every decoder here is total, and holds no more memory than a constant times its
//! input.

pub mod codec;
mod error;
pub mod frame;
mod logical;
pub mod message;
pub mod options;
mod row;
mod seal;
mod version;

pub use error::{FrameTooLarge, MessageFault, ProtocolError};
pub use frame::{FrameReader, FrameWriter};
pub use logical::{LogicalMessage, RemovalNote, Replacing, Version};
pub use message::{
    Begin, Column, Commit, Contribution, Delete, Insert, Message, RelationDescription, Removal, Startup, Truncate,
    Update, Void,
};
pub use options::{OptionError, StartOptions};
pub use seal::Secret;
pub use version::{NoCommonProtocol, ProtocolRange, SUPPORTED, negotiate};
