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

/// Opens the connection. `deadline` is the caller's, on top of the connect time-out.
pub(super) fn connect<'w>(
    target: &Target<'_>,
    wait: &'w mut dyn Wait,
    deadline: Option<Deadline>,
) -> Result<Session<'w>, LinkError> {
    let parameters = parameters(target)?;
    let connection = Connection::start(&parameters).ok_or_else(out_of_memory)?;
    let limit = connect_timeout(&connection).unwrap_or(target.connect_timeout);
    let own = Deadline::after(limit);
    let deadline = deadline.map_or(own, |other| own.or(other));
    let mut session = Session { connection, wait };
    if session.connection.is_bad() {
        return Err(failure(&session.connection, None));
    }
    let mut reached = None;
    let mut want = Want::Write;
    loop {
        deadline.check(CONNECTING)?;
        if session.connection.socket() >= 0 {
            reached = place(&session.connection);
        }
        session.wait.wait(session.connection.socket(), want, Some(deadline.until))?;
        deadline.check(CONNECTING)?;
        match session.connection.poll() {
            Progress::Waiting(next) => want = next,
            Progress::Failed => return Err(failure(&session.connection, reached)),
            Progress::Connected => break,
        }
    }
    if !session.connection.set_nonblocking() {
        return Err(LinkError::Closed);
    }
    Ok(session)
}

/// Whether libpq can read the connection string.
pub fn check_dsn(dsn: &str) -> Result<(), LinkError> {
    parse(dsn).map(|_| ())
}

fn parse(dsn: &str) -> Result<Vec<(String, String)>, LinkError> {
    if dsn.trim().is_empty() {
        return Err(LinkError::BadDsn("it is empty"));
    }
    let text = CString::new(dsn).map_err(|_| LinkError::BadDsn("it contains a zero byte"))?;
    libpq::parse_dsn(&text).ok_or(LinkError::BadDsn("it is malformed or has an unknown parameter"))
}

/// The parameters in order of rank: of two with one name, libpq takes the later.
fn parameters(target: &Target<'_>) -> Result<Vec<(CString, CString)>, LinkError> {
    let given = parse(target.dsn)?;
    let defaults = DEFAULTS.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut all: Vec<(String, String)> = defaults.chain(given).collect();
    all.push(own("application_name", target.application_name));
    all.push(own("client_encoding", "UTF8"));
    all.push(own("replication", if target.replication { "database" } else { "false" }));
    all.iter().map(|(key, value)| Ok((c_string(key)?, c_string(value)?))).collect()
}

/// The `connect_timeout` in effect; like libpq, 1 second is taken for 2, and 0 or less for none at all.
fn connect_timeout(connection: &Connection) -> Option<Duration> {
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
