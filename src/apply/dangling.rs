//! Rows that may be without one of their parents when the transaction ends.
//!
//! Noted while the transaction is applied: a row that was put and whose parent was not here then, and the rows that
//! referred to a row which was taken away, or whose values changed. Most of them are all right at the end, since the parent
//! comes behind its child, or the children of a deleted row are deleted, too. Each is looked at then; what was all right
//! when it was put needs no second look, because its parent is locked.

use std::collections::BTreeMap;

use super::row::{KeyValue, Row, RowName};

#[derive(Default)]
pub struct Dangling {
    tables: BTreeMap<(String, String), Noted>,
    /// Tables that were truncated: of the rows that refer to them, all that are left.
    pub emptied: Vec<crate::pg::Oid>,
}

#[derive(Default)]
struct Noted {
    /// Of the key.
    columns: Vec<String>,
    /// Values of the key, and whether the row was put by this transaction.
    rows: BTreeMap<Vec<String>, bool>,
}

impl Dangling {
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.emptied.is_empty()
    }

    /// Notes a row; `key` in the order of the key's columns.
    pub fn note(&mut self, schema: &str, table: &str, key: Vec<(String, String)>, written: bool) {
        let noted = self.tables.entry((schema.to_owned(), table.to_owned())).or_default();
        let (columns, values): (Vec<String>, Vec<String>) = key.into_iter().unzip();
        noted.columns = columns;
        *noted.rows.entry(values).or_default() |= written;
    }

    /// All of them, to be looked at.
    pub fn take(&mut self) -> impl Iterator<Item = (Row, bool)> + use<> {
        std::mem::take(&mut self.tables).into_iter().flat_map(|((schema, table), Noted { columns, rows })| {
            rows.into_iter().map(move |(values, written)| {
                let key = columns.iter().cloned().zip(values).map(|(column, text)| KeyValue { column, text }).collect();
                let (schema, table) = (schema.clone(), table.clone());
                (Row::named(RowName { schema, table, key, is_reference: false }), written)
            })
        })
    }

    /// Puts one back, for another look.
    pub fn keep(&mut self, row: &Row, written: bool) {
        if let Some(name) = row.name() {
            let key = name.key.iter().map(|part| (part.column.clone(), part.text.clone())).collect();
            self.note(&name.schema, &name.table, key, written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_noted_once() {
        let key = |id: &str| vec![("id".to_owned(), id.to_owned())];
        let mut dangling = Dangling::default();
        assert!(dangling.is_empty());
        dangling.note("public", "c", key("1"), false);
        dangling.note("public", "c", key("1"), true);
        dangling.note("public", "c", key("1"), false);
        dangling.note("public", "d", key("1"), false);
        let taken: Vec<(Row, bool)> = dangling.take().collect();
        let told: Vec<(&str, bool)> =
            taken.iter().map(|(row, written)| (row.name().map_or("", |name| &name.table), *written)).collect();
        assert_eq!(told, [("c", true), ("d", false)]);
        assert!(dangling.is_empty());
        dangling.keep(&taken[0].0, true);
        assert!(!dangling.is_empty());
    }
}
