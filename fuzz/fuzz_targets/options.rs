//! Start options from a peer: parsing never panics, and options that were taken come out of their own pairs again.
//!
//! Each line of the input is `name=value`; it goes over options that are right, so that single values are reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meld_core::wire::StartOptions;

const RIGHT: [(&str, &str); 14] = [
    ("protocol_min", "1"),
    ("protocol_max", "1"),
    ("meld_version", "0.1.0"),
    ("node_id", "1"),
    ("node_name", "n1"),
    ("system_identifier", "7300000000000000001"),
    ("database", "app"),
    ("snowflake_node", "1"),
    ("replication_sets", "\"default\",\"a \"\"b\"\"\""),
    ("forward_origins", ""),
    ("server_version", "150020"),
    ("encoding", "UTF8"),
    ("big_endian", "false"),
    ("capabilities", ""),
];

fuzz_target!(|text: &str| {
    let given: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    check(given.clone());
    let kept = RIGHT.iter().copied().filter(|(name, _)| given.iter().all(|(other, _)| other != name));
    check(kept.chain(given.iter().copied()).collect());
});

fn check(pairs: Vec<(&str, &str)>) {
    match StartOptions::parse(pairs) {
        Ok(options) => {
            let again = options.to_pairs();
            assert_eq!(StartOptions::parse(again.iter().map(|(name, value)| (*name, value.as_str()))), Ok(options));
        }
        Err(error) => assert!(error.to_string().len() < 1000, "an error must not repeat all that a peer sends"),
    }
}
