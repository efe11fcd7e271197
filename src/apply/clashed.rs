//! What the history is to tell of a row that has to go because of a unique index or exclusion constraint: the index, and
//! the row that it gave way to.
//!
//! A clash is found in one local transaction, and told of in others: the removal of the row that was here, committed
//! first, or the transaction that is applied again and finds its own row removed. So it is kept over the abort in
//! between, until the transaction in hand has been applied. Each clash that is noted leads to a round of removals, whose
//! number is bounded. Runs in the apply worker.

use std::collections::BTreeMap;

use super::row::Row;

#[derive(Default)]
pub struct Clashed {
    /// Rows of the transaction in hand that have clashed, and in which index.
    incoming: BTreeMap<Row, String>,
    /// The same of the rows that were in the way of the last of them.
    in_the_way: BTreeMap<Row, String>,
    /// That last one, whole, as JSON text.
    last: String,
}

impl Clashed {
    /// The row would clash with these, each in this index first.
    pub fn note(&mut self, row: &Row, json: String, in_the_way: Vec<(Row, String)>, first_index: String) {
        self.incoming.insert(row.clone(), first_index);
        self.in_the_way = in_the_way.into_iter().collect();
        self.last = json;
    }

    /// The index in which a row of the transaction in hand has clashed.
    pub fn incoming(&self, row: &Row) -> Option<&str> {
        self.incoming.get(row).map(String::as_str)
    }

    /// The index in which a row of this node was in the way, and the row that it was in the way of.
    pub fn in_the_way(&self, row: &Row) -> Option<(&str, &str)> {
        self.in_the_way.get(row).map(|index| (index.as_str(), self.last.as_str()))
    }
}
