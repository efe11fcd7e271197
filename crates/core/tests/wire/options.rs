//! Start options from outside: whatever they hold, the other side reads it or says why not.

use meld_core::ids::{NodeId, NodeIdentity};
use meld_core::time::Timestamp;
use meld_core::wire::{SUPPORTED, StartOptions};
use proptest::collection::vec;
use proptest::prelude::*;

prop_compose! {
    fn any_options()(
        (id, snowflake_node) in (1_u16..=1023, 1_u16..=1023),
        (name, database, encoding, meld_version) in (".{1,20}", ".{1,20}", ".{1,20}", ".{1,20}"),
        system_identifier: u64,
        (replication_sets, forward_origins, capabilities) in
            (vec(".{1,20}", 0..4), vec("[\", a]{1,8}", 0..4), vec(".{1,20}", 0..4)),
        server_version: u32,
        big_endian: bool,
        horizon: i64,
    ) -> StartOptions {
        StartOptions {
            protocol: SUPPORTED,
            meld_version,
            node: NodeIdentity { id: NodeId(id), name, system_identifier, database, snowflake_node },
            replication_sets,
            forward_origins,
            server_version,
            encoding,
            big_endian,
            horizon: Timestamp(horizon),
            capabilities,
        }
    }
}

/// Takes a START_REPLICATION clause apart as the server's scanner does: quotes are doubled, nothing else is special.
fn scan(clause: &str) -> Vec<(String, String)> {
    let mut rest = clause.strip_prefix('(').unwrap();
    let mut pairs = Vec::new();
    while rest != ")" {
        rest = rest.strip_prefix(", ").unwrap_or(rest);
        let (name, tail) = scan_quoted(rest, '"');
        let (value, tail) = scan_quoted(tail.strip_prefix(' ').unwrap(), '\'');
        pairs.push((name, value));
        rest = tail;
    }
    pairs
}

fn scan_quoted(text: &str, quote: char) -> (String, &str) {
    let mut rest = text.strip_prefix(quote).unwrap();
    let mut out = String::new();
    loop {
        let (part, tail) = rest.split_once(quote).unwrap();
        out.push_str(part);
        match tail.strip_prefix(quote) {
            Some(doubled) => rest = doubled,
            None => return (out, tail),
        }
        out.push(quote);
    }
}

proptest! {
    #[test]
    fn options_survive_the_command(options in any_options()) {
        let scanned = scan(&options.to_clause());
        let pairs = || scanned.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let own: Vec<_> = options.to_pairs().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        prop_assert_eq!(&scanned, &own);
        prop_assert_eq!(StartOptions::parse(pairs()), Ok(options));
    }

    #[test]
    fn any_pairs_are_refused_or_read(options in any_options(), name in 0_usize..15, value in ".{0,200}", more in vec((".{0,9}", ".{0,9}"), 0..2)) {
        let mut pairs: Vec<(String, String)> = options.to_pairs().into_iter().map(|(name, value)| (name.into(), value)).collect();
        pairs[name].1 = value;
        pairs.extend(more);
        match StartOptions::parse(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
            Ok(options) => {
                let again = options.to_pairs();
                prop_assert_eq!(StartOptions::parse(again.iter().map(|(name, value)| (*name, value.as_str()))), Ok(options));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
