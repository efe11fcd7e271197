//! What has come of the transaction in hand, so that it can be applied again.
//!
//! A removal, or another worker that was faster, makes a transaction start again from its first change. Up to a bound its
//! changes are kept for that; a transaction that is larger is received again instead.

use meld_core::wire::Message;

use super::parked::is_change;

#[derive(Default)]
pub struct Kept {
    messages: Vec<Message>,
    size_bytes: usize,
    /// Changes that have come, those that are gone among them.
    changes: u64,
    is_cut: bool,
}

impl Kept {
    /// Takes the next message and gives the place where work goes on.
    pub fn push(&mut self, message: Message, limit_bytes: usize) -> usize {
        self.size_bytes += message.size_bytes();
        if self.size_bytes > limit_bytes {
            self.is_cut = true;
            self.messages.clear();
        }
        self.changes += u64::from(is_change(&message));
        self.messages.push(message);
        self.messages.len() - 1
    }

    pub fn from(&self, place: usize) -> &[Message] {
        self.messages.get(place..).unwrap_or_default()
    }

    /// How many changes came before the message at a place.
    pub fn changes_before(&self, place: usize) -> u64 {
        let behind = self.from(place).iter().filter(|message| is_change(message)).count();
        self.changes.saturating_sub(behind as u64)
    }

    /// Whether the first messages are gone.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

#[cfg(test)]
mod tests {
    use meld_core::ids::RelId;
    use meld_core::value::{Tuple, Value};
    use meld_core::wire::Insert;

    use super::*;

    fn insert(bytes: usize) -> Message {
        let new: Tuple = [Value::Text(&vec![b'x'; bytes])].into_iter().collect();
        Message::Insert(Insert { relation: RelId(1), new })
    }

    #[test]
    fn a_transaction_that_is_too_large_is_applied_but_not_kept() {
        let mut kept = Kept::default();
        assert_eq!(kept.push(insert(10), 100_000), 0);
        assert_eq!(kept.push(insert(10), 100_000), 1);
        assert!(!kept.is_cut());
        let place = kept.push(insert(200_000), 100_000);
        assert_eq!(kept.from(place).len(), 1, "the message in hand is there");
        assert!(kept.is_cut());
    }
}
