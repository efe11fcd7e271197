//! What a frame claims is not believed: reading one takes at most a constant times its size.
//!
//! A test binary of its own, with one test, because the allocator counts for the whole process.

use meld_core::wire::codec::FRAME_LIMIT_BYTES;
use meld_core::wire::{FrameReader, FrameWriter, Message, ProtocolError, Truncate};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// `codec` promises at most 256 times its input, or 64 kB.
const MOST_PER_BYTE: usize = 256;
const MOST_FOR_SMALL_BYTES: usize = 64 << 10;

/// Beginnings of messages, up to where a length goes.
const BEFORE_A_LENGTH: [&[u8]; 14] = [
    &[0, 1, 1],                   // Startup: name of the node
    &[0, 1, 1, 0, 0],             // Startup: database
    &[0, 1, 1, 0, 0, 0, 1, 0],    // Startup: encoding
    &[3, 1],                      // Relation: schema
    &[3, 1, 0],                   // Relation: name
    &[3, 1, 0, 0],                // Relation: columns
    &[3, 1, 0, 0, 1],             // Relation: name of a column
    &[4, 1],                      // Insert: columns
    &[4, 1, 1],                   // Insert: length of a value, as its cell
    &[5, 1, 0, 1],                // Update: columns of the old counters
    &[5, 1, 0, 0, 1],             // Update: columns of the old key
    &[6, 1, 0, 2, 251, 255, 255], // Delete: a second cell after a long one
    &[7],                         // Truncate: relations
    &[11, 1, 0],                  // Contribution: columns of the amounts
];

/// A frame with a right header, a claim and filler.
fn frame(before: &[u8], claim: u64, filler_bytes: usize) -> Vec<u8> {
    let mut frame = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(before);
    frame.push(253);
    frame.extend_from_slice(&claim.to_le_bytes());
    frame.resize(frame.len() + filler_bytes, 0);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..9]), &frame[13..]);
    frame[9..13].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// The most that reading the frame takes beside the frame itself.
fn peak_of_reading(frame: &[u8]) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    drop(FrameReader::new().read(frame));
    MEMORY.peak_usage().saturating_sub(before)
}

#[test]
fn a_frame_takes_no_more_memory_than_its_size_allows() {
    let claims = (8..64).map(|bit| 1_u64 << bit).chain([u64::MAX, u64::MAX / 2, u64::MAX / 8, 1 << 60 | 1]);
    for claim in claims {
        for before in BEFORE_A_LENGTH {
            for filler_bytes in [0, 100, 5_000, 70_000] {
                let frame = frame(before, claim, filler_bytes);
                let most = (frame.len() * MOST_PER_BYTE).max(MOST_FOR_SMALL_BYTES) + 1024;
                let peak = peak_of_reading(&frame);
                assert!(peak <= most, "{peak} bytes for {} that claim {claim} after {before:?}", frame.len());
            }
        }
    }
    // the smallest messages, honest ones, are what grows most
    let mut writer = FrameWriter::new(1);
    let smallest = Message::Truncate(Truncate { relations: vec![] });
    (0..100_000).for_each(|_| writer.append(&smallest).unwrap());
    let frame = writer.finish().unwrap();
    let peak = peak_of_reading(frame);
    assert!(peak <= frame.len() * MOST_PER_BYTE, "{peak} bytes for {}", frame.len());

    let large = vec![0; FRAME_LIMIT_BYTES + 1];
    assert_eq!(peak_of_reading(&large), 0);
    assert_eq!(FrameReader::new().read(&large), Err(ProtocolError::Long { length_bytes: large.len() }));
}
