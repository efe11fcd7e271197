//! Frames: what is written is read in order, and any damage is noticed.

use meld_core::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::samples::{any_message, one_of_each};

/// The frames of a stream, one for each list of messages.
fn frames(contents: &[Vec<Message>]) -> Vec<Vec<u8>> {
    let mut writer = FrameWriter::new(1);
    let mut frame = |messages: &Vec<Message>| {
        messages.iter().for_each(|message| writer.append(message).unwrap());
        writer.finish().unwrap().to_vec()
    };
    contents.iter().map(&mut frame).collect()
}

fn three_frames() -> Vec<Vec<u8>> {
    let messages: Vec<Message> = one_of_each().into_iter().map(|(_, message)| message).collect();
    frames(&[messages[..1].to_vec(), messages[1..5].to_vec(), messages[5..].to_vec()])
}

/// Gives a frame's body a right sum again, as an attacker would.
fn resealed(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..9]), &frame[13..]);
    frame[9..13].copy_from_slice(&sum.to_le_bytes());
    frame
}

#[test]
fn a_writer_counts_what_waits() {
    let mut writer = FrameWriter::new(1);
    assert_eq!((writer.is_empty(), writer.len(), writer.finish()), (true, 0, None));
    writer.append(&one_of_each()[1].1).unwrap();
    let waiting = writer.len();
    assert!(!writer.is_empty());
    assert_eq!(writer.finish().map(<[u8]>::len), Some(waiting));
    assert_eq!((writer.is_empty(), writer.len(), writer.finish()), (true, 0, None), "a frame is handed out once");
}

#[test]
fn repeats_and_gaps_are_refused_and_the_right_frame_is_still_taken() {
    let frames = three_frames();
    let mut reader = FrameReader::new();
    assert_eq!(reader.read(&frames[1]), Err(ProtocolError::Sequence { expected: 1, found: 2 }));
    reader.read(&frames[0]).unwrap();
    assert_eq!(reader.protocol(), Some(1));
    assert_eq!(reader.read(&frames[0]), Err(ProtocolError::Sequence { expected: 2, found: 1 }));
    assert_eq!(reader.read(&frames[2]), Err(ProtocolError::Sequence { expected: 2, found: 3 }));
    reader.read(&frames[1]).unwrap();
    reader.read(&frames[2]).unwrap();
}

#[test]
fn other_versions_are_refused() {
    let frames = three_frames();
    let of_version = |version: u8, frame: &[u8]| resealed([&[version], &frame[1..]].concat());
    let mut reader = FrameReader::new();
    assert_eq!(reader.read(&of_version(0, &frames[0])), Err(ProtocolError::UnknownVersion { found: 0 }));
    assert_eq!(reader.read(&of_version(2, &frames[0])), Err(ProtocolError::UnknownVersion { found: 2 }));
    reader.read(&frames[0]).unwrap();
    assert_eq!(reader.read(&of_version(2, &frames[1])), Err(ProtocolError::VersionChanged { expected: 1, found: 2 }));
}

#[test]
fn frames_without_messages_or_header_are_refused() {
    let mut reader = FrameReader::new();
    assert_eq!(reader.read(&[]), Err(ProtocolError::Short { length_bytes: 0 }));
    let empty = resealed(three_frames()[0][..13].to_vec());
    assert_eq!(reader.read(&empty), Err(ProtocolError::Empty { sequence: 1 }));
}

#[test]
fn a_message_that_does_not_decode_spoils_its_frame() {
    let mut frame = three_frames()[0].clone();
    let offset_bytes = frame.len();
    frame.push(99);
    let fault = MessageFault::UnknownKind { what: "message", found: 99 };
    let mut reader = FrameReader::new();
    let error = reader.read(&resealed(frame)).unwrap_err();
    assert_eq!(error, ProtocolError::Message { sequence: 1, offset_bytes, fault });
    assert_eq!(
        error.to_string(),
        format!("message at byte {offset_bytes} of frame number 1 is malformed: 99 is no kind of message")
    );
    reader.read(&three_frames()[0]).unwrap();
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    for (at, frame) in three_frames().iter().enumerate() {
        let reader = || {
            let mut reader = FrameReader::new();
            three_frames()[..at].iter().for_each(|frame| drop(reader.read(frame).unwrap()));
            reader
        };
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(reader().read(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(reader().read(&frame[..length]).is_err(), "cut at {length}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(contents in vec(vec(any_message(), 1..5), 1..5)) {
        let mut reader = FrameReader::new();
        for (frame, messages) in frames(&contents).iter().zip(contents) {
            prop_assert_eq!(reader.read(frame), Ok(messages));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..300)) {
        let _ = FrameReader::new().read(&bytes);
        let header = [&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], bytes.as_slice()].concat();
        let _ = FrameReader::new().read(&resealed(header));
    }

    #[test]
    fn damage_under_a_right_sum_never_panics(
        messages in vec(any_message(), 1..4),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in any::<Index>(),
    ) {
        let mut frame = frames(&[messages]).remove(0);
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(13 + cut.index(frame.len() - 12));
        let _ = FrameReader::new().read(&resealed(frame));
    }
}
