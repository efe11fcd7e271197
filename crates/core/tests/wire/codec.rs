//! Messages to bytes and back.

use meld_core::ids::RelId;
use meld_core::value::{Tuple, Value};
use meld_core::version::Replaced;
use meld_core::wire::codec::{decode, encode};
use meld_core::wire::*;
use proptest::prelude::*;

use crate::samples::{Owned, any_message, any_row, any_tuple, one_of_each};

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_kind_goes_both_ways() {
    for (name, message) in one_of_each() {
        let bytes = encoded(&message);
        assert_eq!(decode(&bytes), Ok((message, bytes.len())), "{name}");
    }
}

#[test]
fn each_fault_has_its_name() {
    let unknown = |what, found| Err(MessageFault::UnknownKind { what, found });
    assert_eq!(decode(&[]), Err(MessageFault::Truncated));
    assert_eq!(decode(&[12]), unknown("message", 12));
    assert_eq!(decode(&[8, 6]), unknown("logical message", 6));
    assert_eq!(decode(&[5, 1, 0, 2]), unknown("optional value", 2));
    assert_eq!(decode(&[9, 1, 0, 2, 1, 11]), unknown("conflict type", 11));
    assert_eq!(decode(&[5, 1, 3]), unknown("replaced version", 3));
    assert_eq!(decode(&[8, 1, 1, 3]), unknown("replacing change", 3));
    assert_eq!(decode(&[6, 1, 0, 1, 4, 0]), decode(&encoded(&delete_of(&[Value::Binary(&[0])]))));
    assert_eq!(decode(&[6, 1, 0, 1, 6, 0]), Err(MessageFault::Truncated), "two bytes claimed, one there");
    assert_eq!(decode(&[3, 1, 1, 0xff]), Err(MessageFault::NotUtf8));
    assert_eq!(decode(&[3, 1, 0, 0, 1, 0, 0, 0, 2]), Err(MessageFault::NotBoolean(2)));
    assert_eq!(decode(&[7, 252, 0, 0, 0, 1]), Err(MessageFault::TooLarge), "16M relations claimed in 6 bytes");
    assert_eq!(decode(&[4, 253, 0, 0, 0, 0, 1, 0, 0, 0]), Err(MessageFault::NumberTooLarge), "a 64-bit relation id");
}

fn delete_of(key: &[Value<'_>]) -> Message {
    Message::Delete(Delete { relation: RelId(1), replaced: Replaced::Own, key: key.iter().copied().collect() })
}

#[test]
fn tuples_give_their_values_again() {
    let values = [Value::Null, Value::Binary(&[]), Value::Unchanged, Value::Text(b"ab"), Value::Text(&[])];
    let tuple: Tuple = values.into_iter().collect();
    assert_eq!(tuple.values().collect::<Vec<_>>(), values);
    assert!(tuple.has_unchanged());
}

proptest! {
    #[test]
    fn any_message_goes_both_ways(message in any_message(), tail in proptest::collection::vec(any::<u8>(), 0..4)) {
        let bytes = encoded(&message);
        prop_assert_eq!(decode(&[bytes.as_slice(), &tail].concat()), Ok((message, bytes.len())));
    }

    #[test]
    fn a_message_cut_short_is_refused(message in any_message()) {
        let bytes = encoded(&message);
        for length in 0..bytes.len() {
            prop_assert!(decode(&bytes[..length]).is_err(), "{} of {} bytes", length, bytes.len());
        }
    }

    #[test]
    fn borrowed_rows_are_written_like_messages(
        relation: u32,
        key in any_row(),
        counters in any_tuple(),
        new in any_row(),
    ) {
        let relation = RelId(relation);
        let key: Vec<Value> = key.iter().map(Owned::borrow).collect();
        let new: Vec<Value> = new.iter().map(Owned::borrow).collect();
        let tuple = |values: &[Value]| values.iter().copied().collect::<Tuple>();

        let mut direct = FrameWriter::new(1);
        direct.append_insert(relation, &new).unwrap();
        direct.append_update(relation, Replaced::Own, Some(&counters), None, &new).unwrap();
        direct.append_update(relation, Replaced::Unknown, None, Some(&key), &new).unwrap();
        direct.append_delete(relation, Replaced::Own, &key).unwrap();

        let update = |replaced, old_counters, old_key| {
            Message::Update(Update { relation, replaced, old_counters, old_key, new: tuple(&new) })
        };
        let mut by_message = FrameWriter::new(1);
        for message in [
            Message::Insert(Insert { relation, new: tuple(&new) }),
            update(Replaced::Own, Some(counters), None),
            update(Replaced::Unknown, None, Some(tuple(&key))),
            Message::Delete(Delete { relation, replaced: Replaced::Own, key: tuple(&key) }),
        ] {
            by_message.append(&message).unwrap();
        }
        prop_assert_eq!(direct.finish(), by_message.finish());
    }

    #[test]
    fn any_bytes_are_a_message_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..13) {
        let _ = decode(&bytes);
        let _ = decode(&[&[kind], bytes.as_slice()].concat());
    }
}
