//! Start options: both directions, and each way to be wrong.

use super::*;

fn options() -> StartOptions {
    StartOptions {
        protocol: SUPPORTED,
        meld_version: "0.1.0".into(),
        node: NodeIdentity {
            id: NodeId(7),
            name: "n7".into(),
            system_identifier: u64::MAX,
            database: "it's \"app\"".into(),
            snowflake_node: 9,
        },
        replication_sets: vec!["default".into(), "a \"b\", c".into()],
        forward_origins: vec![],
        server_version: 150_020,
        encoding: "UTF8".into(),
        big_endian: false,
        horizon: Timestamp(-1),
        capabilities: vec!["lz4".into()],
    }
}

fn parse(pairs: &[(&str, String)]) -> Result<StartOptions, OptionError> {
    StartOptions::parse(pairs.iter().map(|(name, value)| (*name, value.as_str())))
}

/// The error for options that are right but for one.
fn error_with(name: &str, value: &str) -> String {
    let mut pairs = options().to_pairs();
    pairs.iter_mut().filter(|pair| pair.0 == name).for_each(|pair| pair.1 = value.into());
    parse(&pairs).unwrap_err().to_string()
}

#[test]
fn options_go_both_ways() {
    assert_eq!(parse(&options().to_pairs()), Ok(options()));
    let names: Vec<&str> = options().to_pairs().iter().map(|pair| pair.0).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn every_horizon_goes_both_ways() {
    for horizon in [Timestamp::MIN, Timestamp(0), Timestamp(i64::MAX)] {
        let options = StartOptions { horizon, ..options() };
        assert_eq!(parse(&options.to_pairs()), Ok(options));
    }
}

#[test]
fn the_clause_quotes_names_and_values() {
    let clause = options().to_clause();
    assert!(clause.starts_with("(\"protocol_min\" '1', \"protocol_max\" '1', "), "{clause}");
    assert!(clause.contains(r#""database" 'it''s "app"', "#), "{clause}");
    assert!(clause.contains(r#""replication_sets" '"default","a ""b"", c"', "#), "{clause}");
    assert!(clause.ends_with(r#""capabilities" '"lz4"')"#), "{clause}");
}

#[test]
fn each_missing_option_is_named() {
    for name in NAMES {
        let pairs: Vec<_> = options().to_pairs().into_iter().filter(|pair| pair.0 != name).collect();
        assert_eq!(parse(&pairs), Err(OptionError::Missing { name }));
    }
}

#[test]
fn unknown_and_repeated_options_are_refused_but_trials_are_skipped() {
    let with = |name, value: &str| [options().to_pairs(), vec![(name, value.to_string())]].concat();
    assert_eq!(parse(&with("proto", "1")).unwrap_err().to_string(), "unrecognized start option \"proto\"");
    assert_eq!(parse(&with("x_proto", "1")), Ok(options()));
    let repeated = parse(&with("encoding", "UTF8")).unwrap_err();
    assert_eq!(repeated.to_string(), "start option \"encoding\" is given more than once");
}

#[test]
fn each_wrong_value_is_refused_with_what_was_expected() {
    let cases = [
        ("protocol_min", "0x1", "a protocol version"),
        ("protocol_max", "256", "a protocol version not below \"protocol_min\""),
        ("protocol_max", "0", "a protocol version not below \"protocol_min\""),
        ("node_id", "0", "a number from 1 to 1023"),
        ("node_id", "1024", "a number from 1 to 1023"),
        ("node_id", "-1", "a number from 1 to 1023"),
        ("node_name", "", "a text that is not empty"),
        ("system_identifier", "18446744073709551616", "a system identifier"),
        ("database", "", "a text that is not empty"),
        ("snowflake_node", "+1", "a number from 1 to 1023"),
        ("replication_sets", "default", "quoted names separated by commas"),
        ("forward_origins", "\"a\",", "quoted names separated by commas"),
        ("server_version", "", "a server version number"),
        ("encoding", "", "a text that is not empty"),
        ("big_endian", "yes", "true or false"),
        ("horizon", "", "microseconds since 2000"),
        ("horizon", "+1", "microseconds since 2000"),
        ("horizon", "--1", "microseconds since 2000"),
        ("horizon", "9223372036854775808", "microseconds since 2000"),
        ("capabilities", "\"\"", "quoted names separated by commas"),
    ];
    for (name, value, expected) in cases {
        let text = format!("invalid value \"{value}\" for start option \"{name}\": expected {expected}");
        assert_eq!(error_with(name, value), text);
    }
}

#[test]
fn a_peer_of_other_versions_is_told_so_before_its_unknown_options() {
    let mut pairs = options().to_pairs();
    pairs[0].1 = "2".into();
    pairs[1].1 = "3".into();
    pairs.push(("later", "1".into()));
    let text = "no protocol version in common: this node speaks 1, its peer 2 to 3";
    assert_eq!(parse(&pairs).unwrap_err().to_string(), text);
}

#[test]
fn an_error_repeats_only_the_beginning_of_a_long_value() {
    let text = error_with("big_endian", &"ä".repeat(100_000));
    assert!(text.contains(&format!("\"{}...\"", "ä".repeat(SHOWN_CHARACTERS))) && text.len() < 300, "{text}");
}

#[test]
fn lists_are_read_as_written_and_nothing_else_is() {
    let list = |names: &[&str]| Some(names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    assert_eq!(parse_list(""), list(&[]));
    assert_eq!(parse_list("  "), list(&[]));
    assert_eq!(parse_list(r#" "a" , "b","c" "#), list(&["a", "b", "c"]));
    assert_eq!(parse_list(r#""""""#), list(&["\""]));
    for text in [",", r#""a""#.trim_end_matches('"'), r#""a" "b""#, r#","a""#, r#""a",,"b""#, r#""a"x"#, r#""a""b"#] {
        assert_eq!(parse_list(text), None, "{text}");
    }
}
