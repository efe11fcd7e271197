//! Nodes in memory around the convergence rule of `meld-core`.
//!
//! The rule is the one that the extension uses, over the port that the extension implements on the heap; here it works on
//! maps. `random` drives whole worlds from a seed, `explore` tries every interleaving of small programs, `check` compares
//! what the nodes hold with what their logs say must be, and `mutant` names deliberate mistakes that the checks have to
//! notice. Data flows `users -> local -> log -> world (links, faults) -> worker -> core, over store -> state`.
#![forbid(unsafe_code)]

pub mod agree;
pub mod cases;
pub mod check;
pub mod data;
pub mod explore;
mod local;
pub mod mutant;
pub mod node;
pub mod random;
mod rng;
pub mod shrink;
pub mod state;
mod store;
mod users;
mod worker;
pub mod world;
