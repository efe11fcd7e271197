//! Frames from a peer: reading never panics, and what was read is written and read again as the same.
//!
//! The checksum is put right first, or almost no input would get past it. `docs/protocol.md` has the format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meld_core::value::Value;
use meld_core::wire::{FrameReader, FrameWriter, Message};

const CHECKSUM_AT: usize = 9;
const HEADER_BYTES: usize = 13;

fuzz_target!(|bytes: &[u8]| {
    let _ = FrameReader::new().read(bytes);
    let mut frame = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(bytes);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..CHECKSUM_AT]), bytes);
    frame[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let Ok(messages) = FrameReader::new().read(&frame) else { return };

    let (mut whole, mut by_row) = (FrameWriter::new(1), FrameWriter::new(1));
    for message in &messages {
        whole.append(message).expect("it came out of a frame");
        append_by_row(&mut by_row, message);
    }
    let written = whole.finish().expect("a frame that was read has messages");
    assert_eq!(Some(written), by_row.finish());
    assert_eq!(FrameReader::new().read(written).as_ref(), Ok(&messages));
});

/// Row changes the way the output plugin writes them.
fn append_by_row(writer: &mut FrameWriter, message: &Message) {
    let written = match message {
        Message::Insert(m) => writer.append_insert(m.relation, &m.new.values().collect::<Vec<Value>>()),
        Message::Update(m) => {
            let old_key = m.old_key.as_ref().map(|key| key.values().collect::<Vec<Value>>());
            let new = m.new.values().collect::<Vec<Value>>();
            writer.append_update(m.relation, m.replaced, m.old_counters.as_ref(), old_key.as_deref(), &new)
        }
        Message::Delete(m) => writer.append_delete(m.relation, m.replaced, &m.key.values().collect::<Vec<Value>>()),
        other => writer.append(other),
    };
    written.expect("it came out of a frame");
}
