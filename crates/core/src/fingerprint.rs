//! A short stand-in for the key of a row, by which a version message finds the change that it was written for.
//!
//! The trigger makes it of the old row, the output plugin of the change, both from the bytes of the key's values on one
//! server. It lies in WAL across restarts and updates, so the function is fixed: 64-bit FNV-1a. Two keys that share one
//! would have to meet in two changes that follow each other, and the first be suppressed; all that is lost then is the
//! exact wording of a conflict.

/// Fingerprint of a key: its values, each as its bytes, in a fixed order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(u64);

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl Default for Fingerprint {
    /// Of a key without values.
    fn default() -> Fingerprint {
        Fingerprint(OFFSET_BASIS)
    }
}

impl Fingerprint {
    /// Adds the next value. Its length counts, too: where one value ends and the next begins makes a difference.
    pub fn add(&mut self, value: &[u8]) {
        let length = (value.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(value) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    pub fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&[u8]]) -> u64 {
        let mut fingerprint = Fingerprint::default();
        values.iter().for_each(|value| fingerprint.add(value));
        fingerprint.finish()
    }

    #[test]
    fn values_and_their_borders_count() {
        let keys: [&[&[u8]]; 6] = [&[], &[b""], &[b"ab"], &[b"a", b"b"], &[b"", b"ab"], &[b"b", b"a"]];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(of(a) == of(b), i == j, "{a:?} {b:?}");
            }
        }
    }

    /// Messages that are in WAL already must still be understood.
    #[test]
    fn the_function_is_fixed() {
        assert_eq!(of(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(of(&[&7_u64.to_le_bytes()]), 0xa320_78de_d8da_480a);
    }
}
