//! Cluster harness: real PostgreSQL servers for the scenarios in `tests/`.
//!
//! A scenario asks for a [`Cluster`] of some servers, builds a mesh, writes, provokes faults, waits for the nodes to
//! settle, compares them and calls [`Cluster::finish`], which scans the server logs. What holds everywhere:
//!
//! - a cluster and all its files are gone when its value is, also after a panic; then the logs are kept aside
//! - nothing sleeps for a fixed time: everything polls for what it waits for, with a deadline
//! - a WARNING or worse in a server log that the scenario did not announce fails it
//!
//! Servers run as an ordinary OS user (PostgreSQL refuses root), on private sockets and ports of 127.0.0.1.

pub mod account;
pub mod audit;
pub mod clock;
pub mod cluster;
pub mod compare;
pub mod environment;
pub mod every_type;
pub mod fault;
pub mod log_scan;
pub mod mesh;
pub mod node;
pub mod pgbench;
pub mod port;
pub mod proxy;
pub mod refusal;
pub mod resolutions;
pub mod server;
pub mod settle;
pub mod stamps;
pub mod template;
pub mod traffic;
pub mod wait;

pub use cluster::{Cluster, Plan};
pub use node::Node;
