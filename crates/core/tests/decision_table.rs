//! The decision table in docs/conflicts.md, written from the code: every input of `converge::decide` on a small grid of
//! stamps falls into one class of the table, and all inputs of a class have one answer.
//!
//! `MELD_WRITE_DOCS=1 cargo test -p meld-core --test decision_table` writes the table anew.

use std::collections::BTreeMap;
use std::path::Path;

use meld_core::conflict::ConflictType;
use meld_core::converge::{Change, Decision, Grave, Here, LocalStamp, Operation, Replaced, Verdict, decide};
use meld_core::ids::NodeId;
use meld_core::time::{Stamp, Timestamp};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/conflicts.md");
const BEGIN: &str = "<!-- decision table -->";
const END: &str = "<!-- end of decision table -->";

const INCOMING: Stamp = stamp(100, 5);
const OPERATIONS: [Operation; 3] = [Operation::Insert, Operation::Update, Operation::Delete];

const fn stamp(commit_ts: i64, node: u16) -> Stamp {
    Stamp { commit_ts: Timestamp(commit_ts), node: NodeId(node) }
}

/// What the change meets, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Met {
    Nothing,
    Replaced,
    SameTransaction,
    Older,
    Newer,
    NewerOfOrigin,
    ForgottenOlder,
    ForgottenUnclear,
    DeletedOlder,
    DeletedNewer,
    DeletedByItself,
    RemovedVersion,
}

impl Met {
    fn title(self) -> &'static str {
        match self {
            Met::Nothing => "nothing",
            Met::Replaced => "a row: the version that it replaced",
            Met::SameTransaction => "a row that its own transaction wrote",
            Met::Older => "a row, older",
            Met::Newer => "a row, newer",
            Met::NewerOfOrigin => "a row, newer, of its own origin (a fetch was faster)",
            Met::ForgottenOlder => "a row whose stamp is forgotten, surely older",
            Met::ForgottenUnclear => "a row whose stamp is forgotten, perhaps newer",
            Met::DeletedOlder => "a tombstone or truncate, older",
            Met::DeletedNewer => "a tombstone or truncate, newer",
            Met::DeletedByItself => "a tombstone or truncate of its own transaction",
            Met::RemovedVersion => "the tombstone of its removal by a unique index or foreign key",
        }
    }
}

/// All stamps near that of the change: timestamps and nodes below, equal and above.
fn stamps() -> impl Iterator<Item = Stamp> {
    (98..=102).flat_map(|ts| (4..=6).map(move |node| stamp(ts, node)))
}

fn changes(operation: Operation) -> Vec<Change> {
    let replaced = [Replaced::Own, Replaced::Unknown].into_iter().chain(stamps().map(Replaced::Version));
    let aside: Vec<Option<Stamp>> =
        [None].into_iter().chain(stamps().filter(|s| s.node == INCOMING.node && *s < INCOMING).map(Some)).collect();
    let with = |(replaced, set_aside, left_out, contributes)| Change {
        operation,
        stamp: INCOMING,
        replaced,
        set_aside,
        left_out,
        contributes,
        voids: None,
    };
    let flags = [(false, false), (true, false), (false, true), (true, true)];
    let all = replaced.flat_map(|replaced| aside.iter().map(move |set_aside| (replaced, *set_aside)));
    all.flat_map(|(r, s)| flags.map(|(left_out, contributes)| with((r, s, left_out, contributes)))).collect()
}

fn states() -> Vec<Here> {
    let mut states = vec![Here::Nothing, Here::Live(LocalStamp::ThisTransaction)];
    for stamp in stamps() {
        states.push(Here::Live(LocalStamp::Known(stamp)));
        states.push(Here::Live(LocalStamp::Before(stamp)));
        for removed in [None].into_iter().chain(ConflictType::ALL.map(Some)) {
            states.push(Here::Dead(Grave { stamp, removed }));
        }
    }
    states
}

/// The row of the table that an input belongs to, told from the text of the document and not from the code.
fn met(change: Change, here: Here, floor: Option<Stamp>) -> Met {
    let replaces = |local: Stamp| match change.replaced {
        _ if change.operation == Operation::Insert => false,
        Replaced::Unknown => false,
        Replaced::Version(version) => version == local,
        // what was set aside may have been replaced instead
        Replaced::Own => local.node == change.stamp.node && change.set_aside.is_none_or(|aside| aside <= local),
    };
    match here {
        Here::Live(LocalStamp::ThisTransaction) => Met::SameTransaction,
        Here::Live(LocalStamp::Before(bound)) if bound <= change.stamp => Met::ForgottenOlder,
        Here::Live(LocalStamp::Before(_)) => Met::ForgottenUnclear,
        Here::Live(LocalStamp::Known(local)) if local == change.stamp => Met::SameTransaction,
        Here::Live(LocalStamp::Known(local)) if local > change.stamp && local.node == change.stamp.node => {
            Met::NewerOfOrigin
        }
        Here::Live(LocalStamp::Known(local)) if local > change.stamp => Met::Newer,
        Here::Live(LocalStamp::Known(local)) if replaces(local) => Met::Replaced,
        Here::Live(LocalStamp::Known(_)) => Met::Older,
        Here::Dead(_) | Here::Nothing => {
            let grave = if let Here::Dead(grave) = here { Some(grave) } else { None };
            // a delete leaves a tombstone, whatever a truncate says
            let floor = floor.filter(|_| change.operation != Operation::Delete);
            let latest = grave.map(|grave| grave.stamp).max(floor);
            let removed = grave.is_some_and(|grave| grave.removed.is_some() && Some(grave.stamp) == latest);
            match latest {
                None => Met::Nothing,
                Some(latest) if latest < change.stamp => Met::DeletedOlder,
                Some(latest) if latest > change.stamp => Met::DeletedNewer,
                Some(_) if removed => Met::RemovedVersion,
                Some(_) => Met::DeletedByItself,
            }
        }
    }
}

/// What a user reads in a cell.
fn words(operation: Operation, met: Met, decision: Decision) -> String {
    let has_row = met < Met::DeletedOlder && met != Met::Nothing;
    let action = match (decision.verdict, operation) {
        (Verdict::Undecided, _) => "error, never a guess",
        (Verdict::Wins, Operation::Insert | Operation::Update) if has_row => "write the whole row",
        (Verdict::Wins, Operation::Insert | Operation::Update) => "insert the row",
        (Verdict::Wins, Operation::Delete) if has_row => "delete, leave a tombstone",
        (Verdict::Wins, Operation::Delete) if met == Met::Nothing => "leave a tombstone",
        (Verdict::Wins, Operation::Delete) => "raise the tombstone",
        (Verdict::Loses, _) if has_row => "keep the row",
        (Verdict::Loses, _) => "keep the tombstone",
    };
    match decision.conflict {
        None => action.to_owned(),
        Some(conflict) => {
            // a removal hands its cause on to what it strikes
            let name =
                if met == Met::RemovedVersion { "the removal's cause".into() } else { format!("`{}`", conflict.kind) };
            format!("{action}; {name}, `{}`", conflict.resolution)
        }
    }
}

fn table() -> String {
    let mut cells: BTreeMap<(Met, usize), String> = BTreeMap::new();
    for (column, operation) in OPERATIONS.into_iter().enumerate() {
        for change in changes(operation) {
            for here in states() {
                for floor in [None].into_iter().chain(stamps().map(Some)) {
                    let met = met(change, here, floor);
                    let says = words(operation, met, decide(change, here, floor));
                    let cell = cells.entry((met, column)).or_insert_with(|| says.clone());
                    assert_eq!(*cell, says, "{operation:?} on {met:?}: {change:?} {here:?} {floor:?}");
                }
            }
        }
    }
    let mut lines = vec!["| The change meets | INSERT | UPDATE | DELETE |".to_owned(), "|---|---|---|---|".to_owned()];
    let mut rows: Vec<Met> = cells.keys().map(|(met, _)| *met).collect();
    rows.dedup();
    for met in rows {
        let cell = |column| cells.get(&(met, column)).map_or("–", String::as_str);
        lines.push(format!("| {} | {} | {} | {} |", met.title(), cell(0), cell(1), cell(2)));
    }
    lines.join("\n")
}

#[test]
fn the_document_has_the_table_of_the_code() {
    let path = Path::new(DOCUMENT);
    let text = std::fs::read_to_string(path).expect("docs/conflicts.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (present, after) = rest.split_once(END).expect("the mark behind the table");
    let wanted = format!("\n\n{}\n\n", table());
    if present == wanted {
        return;
    }
    if std::env::var_os("MELD_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("write the document");
        return;
    }
    panic!("the table in docs/conflicts.md is not the code's; it should be\n{wanted}\nwrite it with MELD_WRITE_DOCS=1");
}
