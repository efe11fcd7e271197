//! Versions of the protocol, and how two nodes agree on one.
//!
//! A subscriber offers a range in its start options; the provider takes the highest version that both know and says so
//! in `Startup` and in every frame.

use std::fmt;

/// The versions that a node speaks, ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolRange {
    pub min: u8,
    pub max: u8,
}

/// What this build speaks.
pub const SUPPORTED: ProtocolRange = ProtocolRange { min: 1, max: 1 };

impl ProtocolRange {
    pub fn contains(self, version: u8) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// Two nodes have no protocol version in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no protocol version in common: this node speaks {ours}, its peer {theirs}")]
pub struct NoCommonProtocol {
    pub ours: ProtocolRange,
    pub theirs: ProtocolRange,
}

/// The highest version that both speak.
pub fn negotiate(ours: ProtocolRange, theirs: ProtocolRange) -> Result<u8, NoCommonProtocol> {
    let highest = ours.max.min(theirs.max);
    if ours.contains(highest) && theirs.contains(highest) {
        Ok(highest)
    } else {
        Err(NoCommonProtocol { ours, theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u8, max: u8) -> ProtocolRange {
        ProtocolRange { min, max }
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(negotiate(range(1, 1), range(1, 1)), Ok(1));
        assert_eq!(negotiate(range(1, 4), range(2, 3)), Ok(3));
        assert_eq!(negotiate(range(3, 5), range(1, 3)), Ok(3));
    }

    #[test]
    fn ranges_that_do_not_meet_are_both_named() {
        let error = negotiate(range(1, 2), range(3, 3)).unwrap_err();
        assert_eq!(error.to_string(), "no protocol version in common: this node speaks 1 to 2, its peer 3");
        assert!(negotiate(range(3, 3), range(1, 2)).is_err());
        assert!(negotiate(range(1, 9), range(5, 4)).is_err(), "an empty range has nothing in common with any");
    }
}
