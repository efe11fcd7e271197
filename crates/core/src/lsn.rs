//! Positions in a node's write-ahead log.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

/// A byte position in the WAL of one node, written like PostgreSQL's `pg_lsn`: `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before every position; PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is not a position.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid WAL position \"{0}\"")]
pub struct InvalidLsn(pub String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Lsn, InvalidLsn> {
        let half = |part: &str| {
            let plain = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_goes_both_ways() {
        for lsn in [Lsn::ZERO, Lsn(1), Lsn(0x16_b374_d848), Lsn(u64::MAX)] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "g/0", "1/123456789", "+1/0", "0/0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
