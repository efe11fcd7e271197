//! Seals on the messages in WAL: `pg_logical_emit_message` is open to every user, with every prefix.
//!
//! A message is 8 bytes of tag, little-endian, and then its body, a [`Message::Logical`]. The tag is SipHash-2-4 over the
//! transaction id (0 for one that belongs to none), also little-endian, and the body, under a secret that the node made for
//! itself. So nobody who can't read the secret can make a message, or repeat one in another transaction. What belongs to no
//! transaction can be repeated by whoever reads the WAL: those messages say things that stay true.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::codec;
use super::error::FrameTooLarge;
use super::logical::LogicalMessage;
use super::message::Message;
use crate::ids::Xid;

const TAG_BYTES: usize = size_of::<u64>();

/// What a node seals its messages with. Not to be shown, so it has no text form.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; Secret::BYTES]);

impl Secret {
    pub const BYTES: usize = 16;

    /// None if it is too short or too long.
    pub fn new(bytes: &[u8]) -> Option<Secret> {
        Some(Secret(bytes.try_into().ok()?))
    }

    /// The message as it goes into the WAL.
    pub fn seal(&self, transaction: Option<Xid>, message: LogicalMessage) -> Result<Vec<u8>, FrameTooLarge> {
        let mut sealed = vec![0; TAG_BYTES];
        codec::encode(&Message::Logical(message), &mut sealed)?;
        let (tag, body) = sealed.split_at_mut(TAG_BYTES);
        tag.copy_from_slice(&self.tag(transaction, body).to_le_bytes());
        Ok(sealed)
    }

    /// The message, if this node has sealed it for that transaction.
    pub fn open(&self, transaction: Option<Xid>, sealed: &[u8]) -> Option<LogicalMessage> {
        let (tag, body) = sealed.split_first_chunk()?;
        if u64::from_le_bytes(*tag) != self.tag(transaction, body) {
            return None;
        }
        match codec::decode(body) {
            Ok((Message::Logical(message), length)) if length == body.len() => Some(message),
            Ok(_) | Err(_) => None,
        }
    }

    fn tag(&self, transaction: Option<Xid>, body: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&transaction.map_or(0, |xid| xid.0).to_le_bytes());
        hasher.write(body);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    const MESSAGE: LogicalMessage = LogicalMessage::SyncEvent { lsn: Lsn(7) };

    fn secret(first: u8) -> Secret {
        let mut bytes = [7; Secret::BYTES];
        bytes[0] = first;
        Secret::new(&bytes).unwrap()
    }

    #[test]
    fn only_the_right_secret_and_transaction_open_it() {
        for transaction in [None, Some(Xid(1)), Some(Xid(u32::MAX))] {
            let sealed = secret(0).seal(transaction, MESSAGE).unwrap();
            assert_eq!(secret(0).open(transaction, &sealed), Some(MESSAGE));
            assert_eq!(secret(1).open(transaction, &sealed), None);
            for other in [None, Some(Xid(1)), Some(Xid(2)), Some(Xid(u32::MAX))] {
                assert_eq!(secret(0).open(other, &sealed).is_some(), other == transaction);
            }
        }
    }

    #[test]
    fn any_damage_spoils_it() {
        let sealed = secret(0).seal(None, MESSAGE).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(secret(0).open(None, &damaged), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(secret(0).open(None, &sealed[..length]), None, "cut at {length}");
        }
        assert_eq!(secret(0).open(None, &[sealed.as_slice(), &[0]].concat()), None);
    }

    /// Messages lie in WAL across restarts and updates.
    #[test]
    fn the_seal_is_fixed() {
        let sealed = secret(0).seal(Some(Xid(741)), MESSAGE).unwrap();
        assert_eq!(sealed, [128, 224, 230, 134, 197, 148, 109, 57, 8, 0, 7]);
    }

    /// The first two vectors of SipHash's own reference.
    #[test]
    fn the_function_is_siphash() {
        let mut key = [0; Secret::BYTES];
        (0..).zip(&mut key).for_each(|(number, byte)| *byte = number);
        assert_eq!(
            SipHasher24::new_with_key(&key).hash(&[]),
            u64::from_le_bytes([0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72])
        );
        assert_eq!(
            SipHasher24::new_with_key(&key).hash(&[0]),
            u64::from_le_bytes([0xfd, 0x67, 0xdc, 0x93, 0xc5, 0x39, 0xf8, 0x74])
        );
    }
}
