//! What keeps a link from its provider, and that neither errors nor a stop hang or tell a secret.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use meld_cluster_tests::Plan;

use crate::receiver::{Link, LinkError, Place, RemoteError, check_dsn};
use crate::{SECRET, SOON, end, options, tells_no_secret};

/// A port where nobody listens any more.
fn refusing_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_refused_connection_says_where() {
    let port = refusing_port();
    let mut link = Link::start(options(&format!("host=127.0.0.1 port={port} password={SECRET}"))).unwrap();
    let error = end(&mut link);
    assert_eq!(
        error.to_string(),
        format!("could not connect to the server at \"127.0.0.1\", port {port}: Connection refused")
    );
    assert_eq!(error.sqlstate(), "08001");
    let expected = Some(Place { host: "127.0.0.1".into(), port });
    assert!(matches!(&error, LinkError::Connect { place, .. } if *place == expected), "{error:?}");
    tells_no_secret(&error);

    let mut link = Link::start(options("host=/nonexistent-directory")).unwrap();
    let error = end(&mut link).to_string();
    assert_eq!(error, "could not connect to the server: No such file or directory", "not certain to be a directory");
}

#[test]
fn a_bad_connection_string_is_refused_without_repeating_it() {
    for dsn in [
        "",
        "  ",
        SECRET,
        "host",
        &format!("host='127.0.0.1 password={SECRET}"),
        &format!("passwort={SECRET}"),
        &format!("host=x {SECRET}"),
        &format!("postgresql://u:{SECRET}@[::1/db"),
        &format!("postgresql://u@h/db?{SECRET}"),
        &format!("postgresql://u@h/db?{SECRET}=1"),
        &format!("host=x\0{SECRET}"),
    ] {
        let error = check_dsn(dsn).unwrap_err();
        assert!(matches!(error, LinkError::BadDsn(_)), "{error:?}");
        tells_no_secret(&error);
        assert!(Link::start(options(dsn)).is_err());
    }
    check_dsn("host=127.0.0.1 port=1").unwrap();
    check_dsn("postgresql://u:p@h:1/db?application_name=x").unwrap();
}

#[test]
fn values_that_only_fail_later_are_not_repeated_either() {
    for dsn in [
        // an @ in a password makes the rest of it the host
        format!("postgresql://u:x@{SECRET}@h/db"),
        format!("postgresql://u@{SECRET}/db"),
        format!("host=127.0.0.1 port={SECRET}"),
        format!("host=127.0.0.1 sslmode={SECRET}"),
        format!("hostaddr={SECRET}"),
        format!("host=/{SECRET}"),
        format!("host=127.0.0.1 target_session_attrs={SECRET}"),
        format!("service={SECRET}"),
    ] {
        let mut link = Link::start(options(&dsn)).unwrap();
        let error = end(&mut link);
        assert!(matches!(error, LinkError::Connect { .. }), "{error:?}");
        tells_no_secret(&error);
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let dsn = format!("host=127.0.0.1 port={port} password={SECRET}");
    for (dsn, limit) in [(dsn.clone(), 1), (format!("{dsn} connect_timeout=3"), 3)] {
        let mut options = options(&dsn);
        options.connect_timeout = Duration::from_secs(1);
        let start = Instant::now();
        let error = end(&mut Link::start(options).unwrap());
        let limit = Duration::from_secs(limit);
        assert_eq!(error, LinkError::Timeout { doing: "connecting to the server", limit });
        assert!(start.elapsed() >= limit && start.elapsed() < limit + SOON, "{:?}", start.elapsed());
    }
}

#[test]
fn a_host_that_does_not_answer_leaves_time_for_the_next() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ports = format!("{},{}", silent.local_addr().unwrap().port(), refusing_port());
    let mut options = options(&format!("host=127.0.0.1,127.0.0.1 port={ports} password={SECRET}"));
    options.connect_timeout = Duration::from_secs(1);
    let error = end(&mut Link::start(options).unwrap());
    assert!(error.to_string().ends_with("Connection refused"), "{error}");
}

#[test]
fn a_link_that_is_connecting_can_be_stopped() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let link = Link::start(options(&format!("host=127.0.0.1 port={port}"))).unwrap();
    // the connection is there when it can be accepted
    let _accepted = silent.accept().unwrap();
    let start = Instant::now();
    drop(link);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn what_the_server_says_is_passed_on() {
    let cluster = Plan::plain("receiver_connecting", 1).start();
    let node = cluster.node(1);
    node.batch(&format!(
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE locked LOGIN REPLICATION PASSWORD '{SECRET}'"
    ));
    let rules =
        "local all all trust\nhost all,replication locked 127.0.0.1/32 scram-sha-256\nhost all postgres all trust\n";
    fs::write(node.server.data.join("pg_hba.conf"), rules).unwrap();
    node.batch("SELECT pg_reload_conf()");
    let port = node.server.port();
    let base = format!("host=127.0.0.1 port={port} dbname=app sslmode=disable gssencmode=disable");
    let failing = |more: &str| {
        let error = end(&mut Link::start(options(&format!("{base} {more}"))).unwrap());
        tells_no_secret(&error);
        error
    };
    let remote = |more: &str| match failing(more) {
        LinkError::Remote(error) => {
            let RemoteError { sqlstate, message, .. } = *error;
            (sqlstate, message)
        }
        other => panic!("{other:?}"),
    };
    meld_cluster_tests::wait::until_equal("the refusal of a wrong password", "28P01".to_owned(), || {
        remote("user=locked password=geheim-wrong").0
    });
    assert_eq!(remote("user=locked password=geheim-wrong").1, "password authentication failed for user \"locked\"");
    let error = failing("user=locked passfile=/nonexistent");
    assert!(error.to_string().ends_with("the server asks for a password, and none was given"), "{error}");
    assert_eq!(remote("user=stranger").0, "28000", "no line in pg_hba.conf");
    assert_eq!(remote("user=postgres dbname=nowhere"), ("3D000".into(), "database \"nowhere\" does not exist".into()));
    // the right password leads on to the check of identity, which fails where meld is not installed
    assert_eq!(
        remote(&format!("user=locked password={SECRET}")),
        ("3F000".into(), "schema \"meld\" does not exist".into())
    );
    cluster.discard();
}
