//! From a connection string to an open connection, and what may be told when that fails.
//!
//! Of libpq's complaint only two things are used: the server's own report, if the server gave one, and which of the
//! system's or libpq's fixed phrases is in it. The rest may repeat the connection string and is thrown away.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::time::Duration;

use super::error::{LinkError, Place, RemoteError};
use super::exec::{Deadline, Session, Wait, c_string};
use super::libpq::{self, Connection, Progress, Want};

/// What the caller wants whatever the connection string says.
pub(super) struct Target<'a> {
    pub dsn: &'a str,
    pub application_name: &'a str,
    pub replication: bool,
    /// Unless the connection string, the environment or a service file has a `connect_timeout`.
    pub connect_timeout: Duration,
}

/// What a connection string may override: a dead network is noticed within a minute or so.
const DEFAULTS: [(&str, &str); 5] = [
    ("keepalives", "1"),
    ("keepalives_idle", "30"),
    ("keepalives_interval", "10"),
    ("keepalives_count", "3"),
    // bounds a cancel request, too, which has no other limit
    ("tcp_user_timeout", "60000"),
];

const CONNECTING: &str = "connecting to the server";

/// Opens the connection. `deadline` is the caller's, on top of the connect time-out, which each host has for itself.
pub(super) fn connect<'w>(
    target: &Target<'_>,
    wait: &'w mut dyn Wait,
    deadline: Option<Deadline>,
) -> Result<Session<'w>, LinkError> {
    let given = parse(target.dsn)?;
    let mut failure = LinkError::BadDsn("it names no host");
    for host in hosts(&given) {
        match attempt(&parameters(target, &given, host)?, target.connect_timeout, wait, deadline) {
            Ok(connection) => return Ok(Session { connection, wait }),
            Err(error) if is_about_the_host(&error) => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// Whether another host may do better; with a wrong password, none would. Like libpq.
fn is_about_the_host(error: &LinkError) -> bool {
    const CANNOT_CONNECT_NOW: &str = "57P03";
    match error {
        LinkError::Connect { .. } | LinkError::Timeout { .. } | LinkError::Closed => true,
        LinkError::Remote(error) => error.sqlstate == CANNOT_CONNECT_NOW,
        LinkError::BadDsn(_)
        | LinkError::Clash(_)
        | LinkError::WrongProvider { .. }
        | LinkError::Protocol(_)
        | LinkError::Stream(_)
        | LinkError::System { .. }
        | LinkError::Stopped
        | LinkError::Panic(_) => false,
    }
}

fn attempt(
    parameters: &[(CString, CString)],
    connect_timeout: Duration,
    wait: &mut dyn Wait,
    deadline: Option<Deadline>,
) -> Result<Connection, LinkError> {
    let mut connection = Connection::start(parameters).ok_or_else(out_of_memory)?;
    let own = Deadline::after(timeout_in_effect(&connection).unwrap_or(connect_timeout));
    let deadline = deadline.map_or(own, |other| own.or(other));
    if connection.is_bad() {
        return Err(failure(&connection, None));
    }
    let mut reached = None;
    let mut want = Want::Write;
    loop {
        deadline.check(CONNECTING)?;
        if connection.socket() >= 0 {
            reached = place(&connection);
        }
        wait.wait(connection.socket(), want, Some(deadline.until))?;
        deadline.check(CONNECTING)?;
        match connection.poll() {
            Progress::Waiting(next) => want = next,
            Progress::Failed => return Err(failure(&connection, reached)),
            Progress::Connected => break,
        }
    }
    if connection.set_nonblocking() { Ok(connection) } else { Err(LinkError::Closed) }
}

/// Whether libpq can read the connection string.
pub fn check_dsn(dsn: &str) -> Result<(), LinkError> {
    parse(dsn).map(|_| ())
}

/// What of a connection string anybody may see: where it leads and as whom, without passwords and files.
pub fn shown_dsn(dsn: &str) -> String {
    const SHOWN: [&str; 5] = ["host", "hostaddr", "port", "dbname", "user"];
    let given = parse(dsn).unwrap_or_default();
    let shown = given.iter().filter(|(key, value)| SHOWN.contains(&key.as_str()) && !value.is_empty());
    shown.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn parse(dsn: &str) -> Result<Vec<(String, String)>, LinkError> {
    if dsn.trim().is_empty() {
        return Err(LinkError::BadDsn("it is empty"));
    }
    let text = CString::new(dsn).map_err(|_| LinkError::BadDsn("it contains a zero byte"))?;
    libpq::parse_dsn(&text).ok_or(LinkError::BadDsn("it is malformed or has an unknown parameter"))
}

/// A host of several: the parameters that single it out; none if it is the only one.
type Host = Vec<(&'static str, String)>;

/// The hosts of a connection string, to be tried one by one. libpq would try them all in one attempt, and a first one
/// that does not answer would use up the time of the others. Where it has to choose between hosts, it is left to do so.
fn hosts(given: &[(String, String)]) -> Vec<Host> {
    const LISTS: [&str; 3] = ["host", "hostaddr", "port"];
    let value = |key: &str| given.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let lists: Vec<(&'static str, Vec<&str>)> =
        LISTS.into_iter().filter_map(|key| Some((key, value(key)?.split(',').collect()))).collect();
    let count = lists.iter().filter(|(key, _)| *key != "port").map(|(_, list)| list.len()).max().unwrap_or(1);
    let chooses = value("target_session_attrs") == Some("prefer-standby") || value("load_balance_hosts").is_some();
    // one port stands for all hosts; any other mismatch is for libpq to complain about
    let fits = |key: &str, list: &[&str]| list.len() == count || (key == "port" && list.len() == 1);
    if count < 2 || chooses || !lists.iter().all(|(key, list)| fits(key, list)) {
        return vec![Host::new()];
    }
    let one = |at: usize| lists.iter().map(|(key, list)| (*key, list[at.min(list.len() - 1)].to_owned())).collect();
    (0..count).map(one).collect()
}

/// The parameters in order of rank: of two with one name, libpq takes the later. An empty value counts as none, so a
/// host or port that is to be the default must not stand beside the list that it is taken from.
fn parameters(
    target: &Target<'_>,
    given: &[(String, String)],
    host: Host,
) -> Result<Vec<(CString, CString)>, LinkError> {
    let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut all: Vec<(String, String)> = DEFAULTS.into_iter().map(|(key, value)| own(key, value)).collect();
    all.extend(given.iter().filter(|(key, _)| !host.iter().any(|(name, _)| name == key)).cloned());
    all.extend(host.into_iter().map(|(key, value)| (key.to_owned(), value)));
    all.push(own("application_name", target.application_name));
    all.push(own("client_encoding", "UTF8"));
    all.push(own("replication", if target.replication { "database" } else { "false" }));
    all.iter().map(|(key, value)| Ok((c_string(key)?, c_string(value)?))).collect()
}

/// The `connect_timeout` in effect; like libpq, 1 second is taken for 2, and 0 or less for none at all.
fn timeout_in_effect(connection: &Connection) -> Option<Duration> {
    let options = connection.options();
    let (_, value) = options.iter().find(|(key, _)| key == "connect_timeout")?;
    match value.trim().parse::<i64>().ok()? {
        ..=0 => None,
        seconds => Some(Duration::from_secs(seconds.max(2).unsigned_abs())),
    }
}

fn out_of_memory() -> LinkError {
    LinkError::System { doing: "make a connection", reason: "out of memory".into() }
}

/// `reached` is where a socket was opened last: its name was resolved, so it is no misread piece of a password.
fn failure(connection: &Connection, reached: Option<Place>) -> LinkError {
    let words = connection.last_words();
    if let Some(report) = server_report(&words) {
        return LinkError::Remote(Box::new(report));
    }
    let reason = if connection.needs_password() {
        "the server asks for a password, and none was given".to_owned()
    } else {
        known_reason(&words).unwrap_or_else(|| "the connection attempt failed".to_owned())
    };
    LinkError::Connect { place: reached.or_else(|| local_place(connection)), reason }
}

/// The server's own report out of libpq's words, which are, with verbosity set to verbose, for example
/// `connection to server ... failed: FATAL:  28P01: password ...`, and more lines. No text of libpq's own looks like
/// that. Of several, the last is of the last attempt.
fn server_report(words: &str) -> Option<RemoteError> {
    let (start, sqlstate) = words
        .match_indices(":  ")
        .filter_map(|(at, mark)| {
            let rest = &words[at + mark.len()..];
            let (code, message) = rest.split_at_checked(5)?;
            let valid = code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) && message.starts_with(": ");
            valid.then_some((at + mark.len() + 7, code))
        })
        .last()?;
    let mut lines = words[start..].lines();
    let message = lines.next()?.to_owned();
    let rest: Vec<&str> = lines.collect();
    let field = |label: &str| rest.iter().find_map(|line| line.strip_prefix(label)).map(str::to_owned);
    Some(RemoteError { sqlstate: sqlstate.to_owned(), message, detail: field("DETAIL:  "), hint: field("HINT:  ") })
}

/// A fixed phrase for what libpq's words say, if they hold one of the phrases that are known.
fn known_reason(words: &str) -> Option<String> {
    const ERRNOS: [i32; 10] = [
        libc::ECONNREFUSED,
        libc::ENOENT,
        libc::EACCES,
        libc::ECONNRESET,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ETIMEDOUT,
        libc::EADDRNOTAVAIL,
        libc::EMFILE,
        libc::EPIPE,
    ];
    const PHRASES: [(&str, &str); 9] = [
        ("could not translate host name", "the host name can't be resolved"),
        ("could not parse network address", "the host address is malformed"),
        ("invalid port number", "the port number is invalid"),
        ("could not match", "the numbers of hosts, addresses and ports differ"),
        ("does not support SSL", "the server does not support SSL, which the connection string requires"),
        ("certificate", "the check of a certificate failed"),
        ("SSL error", "SSL could not be set up"),
        ("session is", "the server is not of the kind that target_session_attrs asks for"),
        ("closed the connection unexpectedly", "the server closed the connection"),
    ];
    let of_libpq = PHRASES.iter().find(|(phrase, _)| words.contains(phrase)).map(|(_, reason)| (*reason).to_owned());
    of_libpq.or_else(|| ERRNOS.into_iter().map(errno_text).find(|text| words.contains(text.as_str())))
}

/// The system's words for an error number.
fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The host that is being tried.
fn place(connection: &Connection) -> Option<Place> {
    Some(Place { host: connection.host()?, port: connection.port()?.parse().ok()? })
}

/// That host if it is certainly a directory of sockets.
fn local_place(connection: &Connection) -> Option<Place> {
    place(connection).filter(|place| place.host.starts_with('/') && Path::new(&place.host).is_dir())
}

/// The encoding of the connected database, as the server calls it.
pub(super) fn server_encoding(connection: &Connection) -> Option<String> {
    const NAME: &CStr = c"server_encoding";
    connection.parameter(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts_of(dsn: &str) -> Vec<String> {
        let one = |host: Host| host.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        hosts(&parse(dsn).unwrap()).into_iter().map(|host| one(host).join(" ")).collect()
    }

    #[test]
    fn hosts_are_tried_one_by_one() {
        assert_eq!(hosts_of("dbname=x"), [""]);
        assert_eq!(hosts_of("host=a port=1"), [""]);
        assert_eq!(hosts_of("host=a,b"), ["host=a", "host=b"]);
        assert_eq!(hosts_of("host=a,b port=5"), ["host=a port=5", "host=b port=5"]);
        assert_eq!(hosts_of("postgresql://a:1,b:2/x"), ["host=a port=1", "host=b port=2"]);
        assert_eq!(hosts_of("host=a,b hostaddr=1.2.3.4,::1"), ["host=a hostaddr=1.2.3.4", "host=b hostaddr=::1"]);
        assert_eq!(hosts_of("host=a,b port=1,2,3"), [""], "libpq has a word for that");
        assert_eq!(hosts_of("host=a,b target_session_attrs=prefer-standby"), [""]);
    }

    #[test]
    fn the_last_report_of_a_server_is_taken() {
        let words = "connection to server at \"h\" (::1), port 1 failed: FATAL:  28000: no entry\nLOCATION:  a, b.c:1\n\
                     connection to server at \"h\" (127.0.0.1), port 1 failed: FATAL:  57P03: not yet\n\
                     DETAIL:  Hot standby mode is disabled.\nLOCATION:  a, b.c:1\n";
        let report = server_report(words).unwrap();
        assert_eq!((report.sqlstate.as_str(), report.message.as_str()), ("57P03", "not yet"));
        assert_eq!(report.detail.as_deref(), Some("Hot standby mode is disabled."));
        assert_eq!(server_report("could not translate host name \"a:  b\" to address: unknown\n"), None);
    }
}
