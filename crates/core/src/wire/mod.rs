//! The stream between two nodes: what is said (`message`) and, around it, how it is packed and checked (`frame`).

pub mod message;

pub use message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, RelationDescription, Startup, Truncate, Update,
};
