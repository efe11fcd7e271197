//! Many deleted keys in one row: the tombstones of a large transaction.
//!
//! A delete of a hundred thousand rows would write as many tombstones, each with an entry in an index, which costs several
//! times what the delete itself does. But they all have the stamp of their transaction, so the keys are packed: a *bundle*
//! holds all keys of the transaction that begin with the same bits, its *prefix*, and is found by that.
//!
//! The sorted keys are split at the first bit in which they differ until a part fits into a bundle: the parts are
//! subtrees of a binary trie, whatever the keys are like. Dense integers fill aligned bundles, random ones have bundles half
//! full. Whoever looks for a key need not know how they were split: for each length of prefix that a table has bundles of,
//! the key's own prefix of that length is the only one under which it can be. In the index bundles are ordered by that
//! length first, so the lengths in use are found by jumping from one to the next.
//!
//! A prefix is stored as its length in bits, two bytes, followed by its bits, filled with zeros. A bundle's content is
//! each key without the whole bytes of the prefix, behind its length in two bytes.

use thiserror::Error;

/// Keys in a bundle.
const MAX_KEYS: usize = 256;
/// Bytes of a bundle's content: with the rest of its row, this is stored as it is, neither compressed nor moved out.
const MAX_BYTES: usize = 1800;
/// Fewer keys than this are not worth a bundle.
const MIN_KEYS: usize = 8;

/// A part of the keys, as it is to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packed<'k> {
    Single(&'k [u8]),
    Bundle(Bundle),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Stored form.
    pub prefix: Vec<u8>,
    pub content: Vec<u8>,
    pub key_count: usize,
}

/// What is stored can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
#[error("bundle of keys is damaged")]
pub struct Damaged;

/// Packs keys, which are in order, without doubles and shorter than 8 kB. Shows the parts in the order of the keys.
pub fn pack<'k, E>(keys: &[&'k [u8]], mut show: impl FnMut(Packed<'k>) -> Result<(), E>) -> Result<(), E> {
    // the parts that are left, the first one on top
    let mut parts = vec![keys];
    while let Some(part) = parts.pop() {
        let (&[first, ..], &[.., last]) = (part, part) else { continue };
        let bits = common_bits(first, last);
        if part.len() < MIN_KEYS {
            part.iter().try_for_each(|&key| show(Packed::Single(key)))?;
        } else if fits(part, bits / 8) {
            show(Packed::Bundle(bundle(part, bits)))?;
        } else if first.len() * 8 == bits {
            // all others begin with it, so it takes no part in what comes next
            show(Packed::Single(first))?;
            parts.push(&part[1..]);
        } else {
            let (without, with) = part.split_at(part.partition_point(|key| !has_bit(key, bits)));
            parts.push(with);
            parts.push(without);
        }
    }
    Ok(())
}

fn fits(keys: &[&[u8]], common_bytes: usize) -> bool {
    keys.len() <= MAX_KEYS && content_bytes(keys, common_bytes) <= MAX_BYTES
}

fn content_bytes(keys: &[&[u8]], common_bytes: usize) -> usize {
    keys.iter().map(|key| key.len() - common_bytes + 2).sum()
}

fn bundle(keys: &[&[u8]], bits: usize) -> Bundle {
    let common_bytes = bits / 8;
    let mut content = Vec::with_capacity(content_bytes(keys, common_bytes));
    for key in keys {
        let rest = &key[common_bytes..];
        content.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        content.extend_from_slice(rest);
    }
    Bundle { prefix: prefix(keys[0], bits), content, key_count: keys.len() }
}

/// In how many bits two keys agree before they differ or one of them ends.
fn common_bits(one: &[u8], other: &[u8]) -> usize {
    let bytes = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    match (one.get(bytes), other.get(bytes)) {
        (Some(one), Some(other)) => bytes * 8 + (one ^ other).leading_zeros() as usize,
        _ => bytes * 8,
    }
}

/// A key that ends before the bit does not have it.
fn has_bit(key: &[u8], bit: usize) -> bool {
    key.get(bit / 8).is_some_and(|byte| byte & 0x80 >> (bit % 8) != 0)
}

/// Stored form of the key's first bits, which it has.
fn prefix(key: &[u8], bits: usize) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(2 + bits.div_ceil(8));
    prefix.extend_from_slice(&(bits as u16).to_be_bytes());
    prefix.extend_from_slice(&key[..bits / 8]);
    if !bits.is_multiple_of(8) {
        prefix.push(key[bits / 8] & !(0xFF >> (bits % 8)));
    }
    prefix
}

/// Where bundles that may hold a key are found.
#[derive(Clone, Debug)]
pub struct Search<'k> {
    key: &'k [u8],
    bits: usize,
}

impl<'k> Search<'k> {
    pub fn of(key: &'k [u8]) -> Search<'k> {
        Search { key, bits: 0 }
    }

    /// The least stored prefix that may be next: of the table's prefixes, the first one that is not less is wanted.
    pub fn from(&self) -> [u8; 2] {
        (self.bits as u16).to_be_bytes()
    }

    /// Given that, the prefix under which the key is if it is in a bundle of that length; none if there can't be any more.
    pub fn next(&mut self, found: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let &[high, low, ..] = found else { return Err(Damaged) };
        let bits = usize::from(u16::from_be_bytes([high, low]));
        if bits < self.bits {
            return Err(Damaged);
        }
        self.bits = bits + 1;
        Ok((bits <= self.key.len() * 8).then(|| prefix(self.key, bits)))
    }
}

/// Whether the key is in a bundle that has the key's own prefix.
pub fn contains(prefix: &[u8], content: &[u8], key: &[u8]) -> Result<bool, Damaged> {
    let &[high, low, ..] = prefix else { return Err(Damaged) };
    let wanted = key.get(usize::from(u16::from_be_bytes([high, low])) / 8..).ok_or(Damaged)?;
    let mut left = content;
    while let [high, low, behind @ ..] = left {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (rest, next) = behind.split_at_checked(length).ok_or(Damaged)?;
        if rest == wanted {
            return Ok(true);
        }
        left = next;
    }
    if left.is_empty() { Ok(false) } else { Err(Damaged) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound::{Included, Unbounded};

    use proptest::prelude::*;

    use super::*;

    /// What a table would hold of keys.
    #[derive(Default)]
    struct Stored {
        singles: Vec<Vec<u8>>,
        bundles: BTreeMap<Vec<u8>, Vec<Bundle>>,
    }

    impl Stored {
        fn of(keys: &[Vec<u8>]) -> Stored {
            let mut stored = Stored::default();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            pack(&keys, |packed| {
                match packed {
                    Packed::Single(key) => stored.singles.push(key.to_vec()),
                    Packed::Bundle(bundle) => stored.bundles.entry(bundle.prefix.clone()).or_default().push(bundle),
                }
                Ok::<(), ()>(())
            })
            .expect("no failure");
            stored
        }

        fn has(&self, key: &[u8]) -> bool {
            self.singles.iter().any(|single| single == key) || self.is_bundled(key)
        }

        fn is_bundled(&self, key: &[u8]) -> bool {
            let mut search = Search::of(key);
            loop {
                let from = search.from().to_vec();
                let Some((found, _)) = self.bundles.range((Included(from), Unbounded)).next() else { return false };
                let Some(prefix) = search.next(found).expect("sound") else { return false };
                let bundles = self.bundles.get(&prefix).into_iter().flatten();
                if bundles.into_iter().any(|bundle| contains(&prefix, &bundle.content, key).expect("sound")) {
                    return true;
                }
            }
        }
    }

    fn integers(numbers: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
        numbers.map(|number| number.to_be_bytes().to_vec()).collect()
    }

    #[test]
    fn dense_keys_fill_their_bundles() {
        let stored = Stored::of(&integers(1..=100_000));
        assert!(stored.bundles.len() <= 100_000_usize.div_ceil(MAX_KEYS) + 16, "{}", stored.bundles.len());
        assert!(stored.singles.len() < MIN_KEYS);
    }

    #[test]
    fn few_keys_stay_single() {
        let stored = Stored::of(&integers(1..MIN_KEYS as u32));
        assert!(stored.bundles.is_empty());
        assert_eq!(stored.singles.len(), MIN_KEYS - 1);
    }

    #[test]
    fn keys_that_others_begin_with_are_kept() {
        let keys: Vec<Vec<u8>> = (0..2000).map(|length| vec![7; length + 1]).collect();
        let stored = Stored::of(&keys);
        assert!(keys.iter().all(|key| stored.has(key)));
        assert!(!stored.has(&[7; 2001]) && !stored.has(&[6]));
    }

    #[test]
    fn damage_is_noticed() {
        assert_eq!(contains(&[0], &[], b"k"), Err(Damaged));
        assert_eq!(contains(&[0, 0], &[0, 9, 1], b"k"), Err(Damaged));
        assert_eq!(contains(&[0, 0], &[0], b"k"), Err(Damaged));
        assert_eq!(contains(&[0, 16, 1, 1], &[], b"k"), Err(Damaged));
        assert_eq!(Search::of(b"k").next(&[1]), Err(Damaged));
    }

    proptest! {
        #[test]
        fn just_the_keys_are_found(
            keys in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![0, 1, 2, 0x80, 0xFF]), 1..7), 0..1500),
            others in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..7), 0..50),
        ) {
            let sorted: Vec<Vec<u8>> = keys.iter().cloned().collect();
            let stored = Stored::of(&sorted);
            for key in &sorted {
                prop_assert!(stored.has(key));
            }
            for other in others {
                prop_assert_eq!(stored.has(&other), keys.contains(&other));
            }
            let bundled: usize = stored.bundles.values().flatten().map(|bundle| bundle.key_count).sum();
            prop_assert_eq!(bundled + stored.singles.len(), sorted.len());
            for bundle in stored.bundles.values().flatten() {
                prop_assert!(bundle.key_count <= MAX_KEYS && bundle.content.len() <= MAX_BYTES);
            }
        }
    }
}
