//! Rows read from the provider for the transaction in hand, kept over an abort until it has been applied.

use std::collections::BTreeMap;
use std::rc::Rc;

use meld_core::converge::Fetched as Answer;
use meld_core::ids::Xid;
use meld_core::time::Stamp;
use meld_core::value::Tuple;
use meld_core::wire::RelationDescription;

use super::fetch::{FetchedRow, FetchedStamp, Fetcher};
use super::row::{Row, RowName};
use crate::log::Result;

#[derive(Default)]
pub struct Fetched {
    rows: BTreeMap<Row, FetchedRow>,
    /// The largest stamp that a row was written with, beside the transaction's own.
    latest: Option<Stamp>,
}

impl Fetched {
    /// The present row at the provider, asked for once.
    pub fn fetch(
        &mut self,
        fetcher: &mut Fetcher,
        row: &Row,
        relation: &Rc<RelationDescription>,
        key: &Tuple,
        behind: Xid,
    ) -> Result<Answer> {
        if !self.rows.contains_key(row) {
            let Some(there) = fetcher.fetch(relation, key, behind)? else { return Ok(Answer::Gone) };
            self.rows.insert(row.clone(), there);
        }
        Ok(self.answer(row))
    }

    /// The present row at the provider that another row refers to, asked for once.
    pub fn fetch_parent(&mut self, fetcher: &mut Fetcher, row: &Row, name: &RowName, behind: Xid) -> Result<Answer> {
        if !self.rows.contains_key(row) {
            let there = fetcher.fetch_parent(&name.schema, &name.table, &name.key, behind)?;
            let Some(there) = there else { return Ok(Answer::Gone) };
            self.rows.insert(row.clone(), there);
        }
        Ok(self.answer(row))
    }

    fn answer(&self, row: &Row) -> Answer {
        match self.rows.get(row).map(|there| &there.stamp) {
            None => Answer::Gone,
            Some(FetchedStamp::Known(stamp)) => Answer::Row(*stamp),
            Some(FetchedStamp::Forgotten(bound)) => Answer::Forgotten(*bound),
        }
    }

    /// The row, if it was there.
    pub fn row(&self, row: &Row) -> Option<&FetchedRow> {
        self.rows.get(row)
    }

    /// The row's stamp there, or one that is not smaller.
    pub fn stamp(&self, row: &Row) -> Option<Stamp> {
        self.rows.get(row).map(|there| match there.stamp {
            FetchedStamp::Known(stamp) | FetchedStamp::Forgotten(stamp) => stamp,
        })
    }

    pub fn note_used(&mut self, stamp: Stamp) {
        self.latest = self.latest.max(Some(stamp));
    }

    /// What the clock has to pass before the commit, beside the transaction's own stamp.
    pub fn latest(&self) -> Option<Stamp> {
        self.latest
    }
}
