//! Names of rows, which outlive the transaction in which the rows were met.
//!
//! The rule of `core::converge` compares rows and hands them on over an abort, so a name holds no reference into the
//! server's memory. The row of the change in hand gets its name only when one is asked for, since most changes never do.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::rc::Rc;

/// Table and key. Names are ordered alike on every node, in no order that means anything.
#[derive(Debug)]
pub struct RowName {
    pub schema: String,
    pub table: String,
    pub key: Vec<KeyValue>,
    /// The key is not the one by which rows of the table are found, but what another row refers to; the table may be
    /// partitioned.
    pub is_reference: bool,
}

/// One column of a key: its name and its value as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyValue {
    pub column: String,
    pub text: String,
}

/// A row, by its name. Cheap to copy.
#[derive(Clone, Debug)]
pub struct Row(Rc<OnceCell<RowName>>);

impl Row {
    /// The row of the change in hand, until somebody asks for its name.
    pub fn unnamed() -> Row {
        Row(Rc::new(OnceCell::new()))
    }

    pub fn named(name: RowName) -> Row {
        Row(Rc::new(OnceCell::from(name)))
    }

    pub fn name(&self) -> Option<&RowName> {
        self.0.get()
    }

    /// Gives the row its name, unless it has one.
    pub fn call(&self, name: RowName) {
        // a second name would be the same
        let _ = self.0.set(name);
    }

    /// Whether both are one row in memory: the one in hand.
    pub fn is(&self, other: &Row) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    fn parts(&self) -> Option<(&str, &str, &[KeyValue], bool)> {
        self.name().map(|name| (name.schema.as_str(), name.table.as_str(), name.key.as_slice(), name.is_reference))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Row) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Row) -> Ordering {
        if self.is(other) { Ordering::Equal } else { self.parts().cmp(&other.parts()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: &str, key: u8) -> Row {
        Row::named(RowName {
            schema: "public".to_owned(),
            table: table.to_owned(),
            key: vec![KeyValue { column: "id".to_owned(), text: key.to_string() }],
            is_reference: false,
        })
    }

    #[test]
    fn rows_are_compared_by_table_and_key() {
        assert_eq!(row("a", 1), row("a", 1));
        assert!(row("a", 2) > row("a", 1));
        assert!(row("b", 1) > row("a", 2));
    }

    #[test]
    fn the_row_in_hand_is_itself_before_it_has_a_name() {
        let in_hand = Row::unnamed();
        assert_eq!(in_hand, in_hand.clone());
        assert_ne!(in_hand, row("a", 1));
        in_hand.clone().call(RowName {
            schema: "public".to_owned(),
            table: "a".to_owned(),
            key: vec![KeyValue { column: "id".to_owned(), text: "1".to_owned() }],
            is_reference: false,
        });
        assert_eq!(in_hand, row("a", 1));
    }
}
