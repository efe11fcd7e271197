//! Start options: what a subscriber asks for, and who it is, as name and value strings in START_REPLICATION.
//!
//! The subscriber's receiver makes the clause, the provider's output plugin reads the pairs when its slot starts. An
//! option that is not known is refused, so that no wish is silently ignored; names that begin with `x_` are free for
//! trials and are skipped. A new option that may be ignored is a capability, one that may not takes a new protocol
//! version.

use std::collections::BTreeMap;

use super::version::{NoCommonProtocol, ProtocolRange, SUPPORTED, negotiate};
use crate::ids::{NodeId, NodeIdentity};
use crate::time::Timestamp;

/// What a subscriber tells its provider at the start of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartOptions {
    pub protocol: ProtocolRange,
    /// Version of the extension, for the log.
    pub meld_version: String,
    /// The subscriber.
    pub node: NodeIdentity,
    /// The sets of the provider whose tables are wanted.
    pub replication_sets: Vec<String>,
    /// Names of the nodes whose changes are wanted beside the provider's own; `all` is every node.
    pub forward_origins: Vec<String>,
    /// `server_version_num`.
    pub server_version: u32,
    /// Name of the subscriber's database encoding.
    pub encoding: String,
    pub big_endian: bool,
    /// The subscriber's horizon as it announced it last, `Timestamp::MIN` if it has none yet.
    pub horizon: Timestamp,
    /// What the subscriber can do beyond its protocol version; the provider skips those that it doesn't know.
    pub capabilities: Vec<String>,
}

/// The peer's start options can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    #[error("unrecognized start option \"{name}\"")]
    Unknown { name: String },
    #[error("start option \"{name}\" is given more than once")]
    Repeated { name: String },
    #[error("start option \"{name}\" is missing")]
    Missing { name: &'static str },
    #[error("invalid value \"{value}\" for start option \"{name}\": expected {expected}")]
    Invalid { name: &'static str, value: String, expected: &'static str },
    #[error(transparent)]
    NoCommonProtocol(#[from] NoCommonProtocol),
}

const PROTOCOL_MIN: &str = "protocol_min";
const PROTOCOL_MAX: &str = "protocol_max";
const MELD_VERSION: &str = "meld_version";
const NODE_ID: &str = "node_id";
const NODE_NAME: &str = "node_name";
const SYSTEM_IDENTIFIER: &str = "system_identifier";
const DATABASE: &str = "database";
const SNOWFLAKE_NODE: &str = "snowflake_node";
const REPLICATION_SETS: &str = "replication_sets";
const FORWARD_ORIGINS: &str = "forward_origins";
const SERVER_VERSION: &str = "server_version";
const ENCODING: &str = "encoding";
const BIG_ENDIAN: &str = "big_endian";
const HORIZON: &str = "horizon";
const CAPABILITIES: &str = "capabilities";

/// Every option, all of which must be given.
const NAMES: [&str; 15] = [
    PROTOCOL_MIN,
    PROTOCOL_MAX,
    MELD_VERSION,
    NODE_ID,
    NODE_NAME,
    SYSTEM_IDENTIFIER,
    DATABASE,
    SNOWFLAKE_NODE,
    REPLICATION_SETS,
    FORWARD_ORIGINS,
    SERVER_VERSION,
    ENCODING,
    BIG_ENDIAN,
    HORIZON,
    CAPABILITIES,
];

/// Names that this protocol leaves to trials.
const FREE_PREFIX: &str = "x_";

/// How much of a peer's text an error repeats.
const SHOWN_CHARACTERS: usize = 64;

impl StartOptions {
    /// The options as names and values.
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            (PROTOCOL_MIN, self.protocol.min.to_string()),
            (PROTOCOL_MAX, self.protocol.max.to_string()),
            (MELD_VERSION, self.meld_version.clone()),
            (NODE_ID, self.node.id.to_string()),
            (NODE_NAME, self.node.name.clone()),
            (SYSTEM_IDENTIFIER, self.node.system_identifier.to_string()),
            (DATABASE, self.node.database.clone()),
            (SNOWFLAKE_NODE, self.node.snowflake_node.to_string()),
            (REPLICATION_SETS, quoted_list(&self.replication_sets)),
            (FORWARD_ORIGINS, quoted_list(&self.forward_origins)),
            (SERVER_VERSION, self.server_version.to_string()),
            (ENCODING, self.encoding.clone()),
            (BIG_ENDIAN, self.big_endian.to_string()),
            (HORIZON, self.horizon.0.to_string()),
            (CAPABILITIES, quoted_list(&self.capabilities)),
        ]
    }

    /// The options as START_REPLICATION takes them: `("protocol_min" '1', ...)`.
    pub fn to_clause(&self) -> String {
        let quoted = |(name, value): (&str, String)| format!("{} '{}'", quoted(name), value.replace('\'', "''"));
        let items: Vec<String> = self.to_pairs().into_iter().map(quoted).collect();
        format!("({})", items.join(", "))
    }

    /// Reads a peer's options. A peer of which no protocol version is ours is told so before anything else: what its
    /// other options mean is not known here.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<StartOptions, OptionError> {
        let given = Given::collect(pairs);
        let protocol = given.protocol()?;
        negotiate(SUPPORTED, protocol)?;
        given.refuse_strays()?;
        Ok(StartOptions {
            protocol,
            meld_version: given.text(MELD_VERSION)?,
            node: NodeIdentity {
                id: NodeId(given.node_number(NODE_ID)?),
                name: given.text(NODE_NAME)?,
                system_identifier: given.number(SYSTEM_IDENTIFIER, "a system identifier")?,
                database: given.text(DATABASE)?,
                snowflake_node: given.node_number(SNOWFLAKE_NODE)?,
            },
            replication_sets: given.list(REPLICATION_SETS)?,
            forward_origins: given.list(FORWARD_ORIGINS)?,
            server_version: given.number(SERVER_VERSION, "a server version number")?,
            encoding: given.text(ENCODING)?,
            big_endian: given.truth(BIG_ENDIAN)?,
            horizon: Timestamp(given.read(HORIZON, "microseconds since 2000", signed)?),
            capabilities: given.list(CAPABILITIES)?,
        })
    }
}

/// The options as they came, each taken once.
struct Given<'a> {
    values: BTreeMap<&'a str, &'a str>,
    repeated: Option<&'a str>,
}

impl<'a> Given<'a> {
    fn collect(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Given<'a> {
        let mut given = Given { values: BTreeMap::new(), repeated: None };
        for (name, value) in pairs {
            if given.values.insert(name, value).is_some() && given.repeated.is_none() {
                given.repeated = Some(name);
            }
        }
        given
    }

    fn refuse_strays(&self) -> Result<(), OptionError> {
        if let Some(name) = self.repeated {
            return Err(OptionError::Repeated { name: shown(name) });
        }
        let stray = self.values.keys().find(|name| !NAMES.contains(name) && !name.starts_with(FREE_PREFIX));
        match stray {
            Some(name) => Err(OptionError::Unknown { name: shown(name) }),
            None => Ok(()),
        }
    }

    fn value(&self, name: &'static str) -> Result<&'a str, OptionError> {
        self.values.get(name).copied().ok_or(OptionError::Missing { name })
    }

    /// The option's value, if `read` makes something of it.
    fn read<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, OptionError> {
        let value = self.value(name)?;
        read(value).ok_or_else(|| OptionError::Invalid { name, value: shown(value), expected })
    }

    fn protocol(&self) -> Result<ProtocolRange, OptionError> {
        let min = self.number(PROTOCOL_MIN, "a protocol version")?;
        let max = self.read(PROTOCOL_MAX, "a protocol version not below \"protocol_min\"", |value| {
            decimal::<u8>(value).filter(|&max| max >= min)
        })?;
        Ok(ProtocolRange { min, max })
    }

    fn text(&self, name: &'static str) -> Result<String, OptionError> {
        self.read(name, "a text that is not empty", |value| (!value.is_empty()).then(|| value.to_owned()))
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str, expected: &'static str) -> Result<T, OptionError> {
        self.read(name, expected, decimal)
    }

    fn node_number(&self, name: &'static str) -> Result<u16, OptionError> {
        self.read(name, "a number from 1 to 1023", |value| Some(NodeId::checked(decimal(value)?)?.0))
    }

    fn truth(&self, name: &'static str) -> Result<bool, OptionError> {
        self.read(name, "true or false", |value| value.parse().ok())
    }

    fn list(&self, name: &'static str) -> Result<Vec<String>, OptionError> {
        self.read(name, "quoted names separated by commas", parse_list)
    }
}

/// A number of digits only: the library's own parser would take a plus sign, too.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The same with an optional minus sign.
fn signed(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    decimal::<u64>(digits).and_then(|_| text.parse().ok())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"default","Other ""set"""`; nothing for no name.
fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",")
}

/// The names of a list as [`quoted_list`] writes it, with blanks allowed around them; none empty.
fn parse_list(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text.trim_matches(' ');
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let (name, tail) = parse_quoted(rest)?;
        names.push(name);
        let tail = tail.trim_start_matches(' ');
        if tail.is_empty() {
            return Some(names);
        }
        rest = tail.strip_prefix(',')?.trim_start_matches(' ');
    }
}

/// One quoted name and what comes after it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let (part, tail) = rest.split_once('"')?;
        name.push_str(part);
        match tail.strip_prefix('"') {
            Some(doubled) => {
                name.push('"');
                rest = doubled;
            }
            None => return (!name.is_empty()).then_some((name, tail)),
        }
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
