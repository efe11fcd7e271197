//! Names that both ends of a link use: the replication slot on the provider, the replication origin on the
//! subscriber, and the application name of their connection are one name.
//!
//! Two subscriptions never share a name, and a reader can tell whose it is. A slot name may hold only lower-case
//! letters, digits and underscores, 63 bytes of them; where that hides a difference between two subscriptions, a hash
//! of the exact names is put at the end.

/// Longest name of a slot, in bytes.
pub const SLOT_NAME_BYTES: usize = 63;

/// The subscription that a slot serves, by its exact names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkNames<'a> {
    /// Database and node of the subscriber.
    pub database: &'a str,
    pub subscriber: &'a str,
    /// Node that is subscribed to.
    pub provider: &'a str,
    pub subscription: &'a str,
}

impl LinkNames<'_> {
    /// `meld_<database>_<subscriber>_<provider>_<subscription>`, made fit for a slot.
    pub fn slot_name(&self) -> String {
        let parts = [self.database, self.subscriber, self.provider, self.subscription];
        let plain = format!("meld_{}", parts.map(fit).join("_"));
        let separable = parts[..3].iter().all(|part| !part.contains('_'));
        let unchanged = parts.iter().all(|part| !part.is_empty() && fit(part) == **part);
        if separable && unchanged && plain.len() <= SLOT_NAME_BYTES {
            return plain;
        }
        let tail = format!("_{:016x}", hash(&parts));
        // `fit` leaves ASCII only, so every byte is a character's end
        let head = &plain[..plain.len().min(SLOT_NAME_BYTES - tail.len())];
        format!("{head}{tail}")
    }
}

/// The name in small letters, with everything that a slot name can't hold turned into an underscore.
fn fit(part: &str) -> String {
    let fit_char = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' }
    };
    part.chars().map(fit_char).collect()
}

/// FNV-1a over the parts, each closed by a byte that no UTF-8 text has.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(database: &str, subscriber: &str, provider: &str, subscription: &str) -> String {
        LinkNames { database, subscriber, provider, subscription }.slot_name()
    }

    #[test]
    fn simple_names_are_readable_as_they_are() {
        assert_eq!(name("app", "n1", "n2", "n1_n2"), "meld_app_n1_n2_n1_n2");
    }

    #[test]
    fn every_name_is_fit_for_a_slot() {
        let long = "x".repeat(63);
        for parts in [["App", "Knoten Ä", "n-2", "s"], [&long, &long, &long, &long], ["", "", "", ""]] {
            let name = name(parts[0], parts[1], parts[2], parts[3]);
            assert!(name.len() <= SLOT_NAME_BYTES, "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        }
    }

    #[test]
    fn names_that_differ_stay_different() {
        let long = "x".repeat(60);
        let cases = [
            ["a_b", "c", "p", "s"],
            ["a", "b_c", "p", "s"],
            ["a", "b", "c_p", "s"],
            ["a", "b", "c", "p_s"],
            ["A", "b", "c", "p_s"],
            ["a", "b-", "c", "s"],
            ["a", "b+", "c", "s"],
            [&long, "b", "c", "s"],
            [&long, "b", "c", "t"],
            ["a", "b", "c", "ß"],
            ["a", "b", "c", "ä"],
        ];
        let names: HashSet<String> = cases.iter().map(|p| name(p[0], p[1], p[2], p[3])).collect();
        assert_eq!(names.len(), cases.len());
    }
}
