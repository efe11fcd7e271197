//! The bytes of protocol version 1, as they stand in `tests/golden/wire_v1.hex` and are explained in `docs/protocol.md`.

use std::fmt::Write;

use meld_core::wire::codec::{decode, encode};
use meld_core::wire::{FrameReader, FrameWriter, Message};

use crate::samples::one_of_each;

const GOLDEN: &str = include_str!("../golden/wire_v1.hex");

const CHANGED: &str = "the encoding has changed: nodes of this version can't talk to those that are out there. Undo the \
     change, or raise the protocol version (wire::version) and put the new bytes into a golden file of that version";

/// A file of one version stands for good: lines may be added for new kinds of messages, none may change.
#[test]
fn the_encoding_is_the_one_of_its_version() {
    let mut actual = String::from("# Encodings of protocol version 1: name, then bytes. See docs/protocol.md.\n");
    for (name, message) in one_of_each() {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).unwrap();
        writeln!(actual, "{name} {}", hex(&bytes)).unwrap();
    }
    writeln!(actual, "frame {}", hex(&frame())).unwrap();
    assert!(actual == GOLDEN, "{CHANGED}\n--- golden\n{GOLDEN}--- now\n{actual}");
}

/// Also the other way round: a decoder that takes more than the encoder makes would still have to take these.
#[test]
fn golden_bytes_decode() {
    let golden = |wanted: &str| {
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(' '));
        unhex(line.unwrap_or_else(|| panic!("no {wanted} in the golden file")))
    };
    for (name, message) in one_of_each() {
        let bytes = golden(name);
        assert_eq!(decode(&bytes), Ok((message, bytes.len())), "{name}: {CHANGED}");
    }
    assert_eq!(FrameReader::new().read(&golden("frame")), Ok(transaction()), "{CHANGED}");
}

/// A transaction that inserts one row, as a provider sends it.
fn transaction() -> Vec<Message> {
    let sent = ["begin", "relation", "insert", "commit"];
    let of_name = |wanted| one_of_each().into_iter().find_map(|(name, message)| (name == wanted).then_some(message));
    sent.into_iter().filter_map(of_name).collect()
}

fn frame() -> Vec<u8> {
    let mut writer = FrameWriter::new(1);
    transaction().iter().for_each(|message| writer.append(message).unwrap());
    writer.finish().unwrap().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The example in the documentation, put together from the rows of its table, is the golden frame.
#[test]
fn the_documented_frame_is_the_golden_one() {
    let text = include_str!("../../../../docs/protocol.md");
    let (_, example) = text.split_once("## 7. An example").unwrap();
    let (example, _) = example.split_once("\n## ").unwrap();
    let mut documented = String::new();
    for line in example.lines() {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, at, bytes, ..] = columns[..] else { continue };
        let Ok(at) = at.parse::<usize>() else { continue };
        assert_eq!(at * 2, documented.len(), "offset in the line {line}");
        documented.push_str(&bytes.replace(['`', ' '], ""));
    }
    assert_eq!(documented, hex(&frame()));
}
