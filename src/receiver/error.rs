//! What ends a link, or fails a query over one: typed, so that the caller can pick a policy and a report.
//!
//! No variant holds a connection string, a password, or libpq's own words about either: libpq repeats parts of a
//! connection string in its complaints, and after a misplaced `@` such a part can be the password.

use std::time::Duration;

use meld_core::identity::IdentityClash;
use meld_core::ids::NodeIdentity;
use meld_core::wire::ProtocolError;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("invalid connection string: {0}")]
    BadDsn(&'static str),
    /// No server could be reached, or what was reached would not talk.
    #[error("could not connect to the server{}: {reason}", at(.place))]
    Connect { place: Option<Place>, reason: String },
    #[error("timed out after {limit:?} while {doing}")]
    Timeout { doing: &'static str, limit: Duration },
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Remote(Box<RemoteError>),
    /// The provider and this node can't be told apart.
    #[error(transparent)]
    Clash(#[from] Box<IdentityClash>),
    #[error("the provider is node \"{}\", but node \"{}\" was expected", .found.name, .expected.name)]
    WrongProvider { expected: Box<NodeIdentity>, found: Box<NodeIdentity> },
    /// The peer's answer is not what was asked for.
    #[error("unexpected answer from the server: {0}")]
    Protocol(String),
    /// A frame of the stream is broken.
    #[error("invalid replication stream: {0}")]
    Stream(#[from] ProtocolError),
    #[error("the server closed the connection")]
    Closed,
    /// The system refused what the link needs.
    #[error("could not {doing}: {reason}")]
    System { doing: &'static str, reason: String },
    /// This side asked the link to stop.
    #[error("the link was stopped")]
    Stopped,
    #[error("the receiver thread failed: {0}")]
    Panic(String),
}

/// Where a server was looked for; known only when its name was resolved, or is a directory on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub host: String,
    pub port: u16,
}

/// A server's error as it reported it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

fn at(place: &Option<Place>) -> String {
    match place {
        Some(Place { host, port }) => format!(" at \"{host}\", port {port}"),
        None => String::new(),
    }
}

impl LinkError {
    pub(super) fn protocol(what: impl Into<String>) -> LinkError {
        LinkError::Protocol(what.into())
    }

    /// The SQLSTATE to report it with: the server's own for what a server said.
    pub fn sqlstate(&self) -> &str {
        match self {
            LinkError::BadDsn(_) => "22023",                          // invalid_parameter_value
            LinkError::Connect { .. } => "08001",                     // sqlclient_unable_to_establish_sqlconnection
            LinkError::Timeout { .. } | LinkError::Closed => "08006", // connection_failure
            LinkError::Remote(error) => &error.sqlstate,
            LinkError::Clash(_) | LinkError::WrongProvider { .. } => "55000", // object_not_in_prerequisite_state
            LinkError::Protocol(_) | LinkError::Stream(_) => "08P01",         // protocol_violation
            LinkError::System { .. } => "58000",                              // system_error
            LinkError::Stopped => "57P01",                                    // admin_shutdown
            LinkError::Panic(_) => "XX000",                                   // internal_error
        }
    }

    /// A whole sentence with what was found, if there is more to say.
    pub fn detail(&self) -> Option<String> {
        match self {
            LinkError::Remote(error) => error.detail.clone(),
            LinkError::Clash(clash) => Some(clash.detail()),
            LinkError::WrongProvider { expected, found } => {
                Some(format!("Expected {}; the connection string leads to {}.", described(expected), described(found)))
            }
            LinkError::BadDsn(_)
            | LinkError::Connect { .. }
            | LinkError::Timeout { .. }
            | LinkError::Protocol(_)
            | LinkError::Stream(_)
            | LinkError::Closed
            | LinkError::System { .. }
            | LinkError::Stopped
            | LinkError::Panic(_) => None,
        }
    }

    /// A whole sentence with what to do, if something can be said.
    pub fn hint(&self) -> Option<String> {
        let ours = match self {
            LinkError::Remote(error) => return error.hint.clone(),
            LinkError::BadDsn(_) => "Use the form \"host=... port=... dbname=... user=...\", or a URI.",
            LinkError::Connect { .. } => "Check that the server runs and that the connection string leads to it.",
            LinkError::Clash(_) => "Every node needs its own name, node id, snowflake number and database.",
            LinkError::WrongProvider { .. } => "Point the subscription's connection string at its provider again.",
            LinkError::Timeout { .. }
            | LinkError::Protocol(_)
            | LinkError::Stream(_)
            | LinkError::Closed
            | LinkError::System { .. }
            | LinkError::Stopped
            | LinkError::Panic(_) => return None,
        };
        Some(ours.to_owned())
    }
}

fn described(node: &NodeIdentity) -> String {
    format!(
        "node \"{}\" with node id {} in database \"{}\" of system {}",
        node.name, node.id, node.database, node.system_identifier
    )
}
