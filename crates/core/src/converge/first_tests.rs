//! Removals and returns of rows that refer to each other, on a store that only knows who refers to whom.

use std::collections::{BTreeMap, BTreeSet};

use super::port::{Fetched, First, Grave, Here, LinkedStore, Orphan, Outcome, Removal, RowStore, Values};
use super::{LocalStamp, carry_out};
use crate::conflict::{Conflict, ConflictType};
use crate::ids::NodeId;
use crate::time::{Stamp, Timestamp};

const WRITTEN: Stamp = Stamp { commit_ts: Timestamp(10), node: NodeId(1) };
const LED_BY: Stamp = Stamp { commit_ts: Timestamp(20), node: NodeId(2) };

/// Rows are numbers.
#[derive(Default)]
struct Links {
    children: BTreeMap<u32, Vec<u32>>,
    live: BTreeSet<u32>,
    announced: Vec<u32>,
    buried: Vec<u32>,
}

impl Links {
    /// Pairs of child and parent.
    fn of(pairs: impl IntoIterator<Item = (u32, u32)>) -> Links {
        let mut links = Links::default();
        for (child, parent) in pairs {
            links.children.entry(parent).or_default().push(child);
            links.live.extend([child, parent]);
        }
        links
    }

    fn remove(&mut self, row: u32) {
        let removal = Removal { row, version: WRITTEN, cause: ConflictType::InsertExists };
        assert_eq!(carry_out(&[First::Remove(removal)], LED_BY, self), Ok(Outcome::Applied));
    }
}

impl RowStore for Links {
    type Error = std::convert::Infallible;
    type Row = u32;

    fn find(&mut self, row: &u32) -> Result<Here, Self::Error> {
        Ok(if self.live.contains(row) { Here::Live(LocalStamp::Known(WRITTEN)) } else { Here::Nothing })
    }

    fn bury(&mut self, row: &u32, _grave: Grave) -> Result<(), Self::Error> {
        assert!(self.live.remove(row), "{row} goes twice");
        self.buried.push(*row);
        Ok(())
    }

    fn record(&mut self, _row: &u32, _conflict: Conflict, _here: Here) -> Result<(), Self::Error> {
        Ok(())
    }

    fn floor(&mut self, _row: &u32) -> Result<Option<Stamp>, Self::Error> {
        unreachable!("a removal asks for no floor")
    }

    fn put(&mut self, _row: &u32, _stamp: Stamp, _values: Values) -> Result<(), Self::Error> {
        unreachable!("a removal puts nothing")
    }

    fn count(&mut self, _row: &u32) -> Result<(), Self::Error> {
        unreachable!("a removal counts nothing")
    }

    fn voided(&mut self, _row: &u32, _tombstone: Stamp) -> Result<Option<Stamp>, Self::Error> {
        unreachable!("a removal voids nothing")
    }

    fn void(&mut self, _row: &u32, _tombstone: Stamp, _by: Stamp) -> Result<(), Self::Error> {
        unreachable!("a removal voids nothing")
    }

    fn fetch(&mut self, _row: &u32) -> Result<Fetched, Self::Error> {
        unreachable!("a removal fetches nothing")
    }

    fn clashes(&mut self, _row: &u32, _values: Values) -> Result<Vec<(u32, LocalStamp)>, Self::Error> {
        Ok(Vec::new())
    }
}

impl LinkedStore for Links {
    fn children(&mut self, row: &u32) -> Result<Vec<u32>, Self::Error> {
        Ok(self.children.get(row).cloned().unwrap_or_default())
    }

    fn announce(&mut self, removal: &Removal<u32>) -> Result<(), Self::Error> {
        self.announced.push(removal.row);
        Ok(())
    }

    fn missing_parents(&mut self, row: &u32, _values: Values) -> Result<Vec<u32>, Self::Error> {
        let refers = |(_, children): &(&u32, &Vec<u32>)| children.contains(row);
        let parents = self.children.iter().filter(refers).map(|(parent, _)| *parent);
        Ok(parents.filter(|parent| parent != row && !self.live.contains(parent)).collect())
    }

    fn orphans(&mut self) -> Result<Vec<Orphan<u32>>, Self::Error> {
        unreachable!("nothing here looks for them")
    }

    fn has_fetched(&mut self, _row: &u32) -> bool {
        true
    }

    fn rewrite(&mut self, row: &u32, values: Values) -> Result<(), Self::Error> {
        assert_eq!(values, if self.live.insert(*row) { Values::Fetched } else { Values::IncomingOverHere });
        Ok(())
    }
}

#[test]
fn children_go_before_their_parents_and_each_once() {
    let mut links = Links::of([(2, 1), (3, 1), (4, 2), (4, 3), (5, 4), (1, 9)]);
    links.remove(1);
    assert_eq!(links.buried, links.announced);
    assert_eq!(links.live, BTreeSet::from([9]), "the parent stays");
    let place = |row| links.buried.iter().position(|&buried| buried == row);
    for (child, parent) in [(2, 1), (3, 1), (4, 2), (4, 3), (5, 4)] {
        assert!(place(child) < place(parent), "{child} of {parent} in {:?}", links.buried);
    }
}

#[test]
fn rows_that_refer_to_each_other_in_a_circle_all_go() {
    let mut links = Links::of([(2, 1), (1, 2), (3, 2), (1, 1)]);
    links.remove(1);
    assert_eq!(links.live, BTreeSet::new());
    assert_eq!(links.announced, links.buried);
    assert_eq!(links.buried.last(), Some(&1));
}

#[test]
fn a_long_chain_is_no_deep_call() {
    let length = 200_000;
    let mut links = Links::of((1..length).map(|row| (row + 1, row)));
    links.remove(1);
    assert_eq!(links.buried.len(), length as usize);
    assert_eq!(links.buried.first(), Some(&length));
}

/// Keeps these parents, or else removes row 100.
fn keep(links: &mut Links, parents: &[u32]) {
    let or_else = Removal { row: 100, version: WRITTEN, cause: ConflictType::ForeignKey };
    let kept = |&parent: &u32| First::KeepParent { parent, or_else: or_else.clone() };
    let first: Vec<First<u32>> = parents.iter().map(kept).collect();
    assert_eq!(carry_out(&first, LED_BY, links), Ok(Outcome::Applied));
}

#[test]
fn rows_that_return_together_may_refer_to_each_other() {
    let mut links = Links { live: BTreeSet::from([100]), ..Links::of([(1, 2), (2, 1), (100, 1)]) };
    keep(&mut links, &[2, 1]);
    assert_eq!(links.live, BTreeSet::from([1, 2, 100]));
    assert_eq!(links.announced, [0; 0]);
    keep(&mut links, &[1]);
    assert_eq!(links.live, BTreeSet::from([1, 2, 100]), "what is here by now is written anew");
}

#[test]
fn a_row_whose_own_parent_is_gone_does_not_return() {
    let mut links = Links { live: BTreeSet::from([100]), ..Links::of([(1, 3), (100, 1)]) };
    keep(&mut links, &[1]);
    assert_eq!(links.live, BTreeSet::new());
    assert_eq!(links.announced, [100]);
}
