//! Rows without their parents: none may ever be seen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use meld_cluster_tests::{Cluster, Node};

/// One foreign key of the scenario's tables, to be looked at.
#[derive(Clone, Copy)]
pub struct Reference {
    pub child: &'static str,
    pub columns: &'static str,
    pub parent: &'static str,
    pub referred: &'static str,
}

impl Reference {
    /// How many rows are without their parent.
    fn count(&self) -> String {
        let Reference { child, columns, parent, referred } = self;
        let nulls: Vec<String> = columns.split(", ").map(|column| format!("{column} IS NOT NULL")).collect();
        format!(
            "(SELECT count(*) FROM {child} WHERE {} AND ({columns}) NOT IN (SELECT {referred} FROM {parent}))",
            nulls.join(" AND ")
        )
    }
}

pub fn count(references: &[Reference]) -> String {
    let counts: Vec<String> = references.iter().map(Reference::count).collect();
    format!("SELECT {}", counts.join(" + "))
}

#[track_caller]
pub fn assert_none(cluster: &Cluster, references: &[Reference]) {
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>(&count(references)), 0, "rows without a parent on {}", node.name);
    }
}

/// Looks all the time, in a session of its own with one snapshot for each look, until told to stop; how often it looked.
pub fn watch<'s>(
    scope: &'s thread::Scope<'s, '_>,
    node: &'s Node,
    references: &'s [Reference],
    stop: &'s AtomicBool,
) -> ScopedJoinHandle<'s, u64> {
    scope.spawn(move || {
        let mut client = node.client();
        let sql = count(references);
        let mut looks = 0;
        while !stop.load(Ordering::SeqCst) {
            let mut look = client
                .build_transaction()
                .isolation_level(postgres::IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .expect("a transaction");
            let orphans: i64 = look.query_one(&sql, &[]).expect("the query runs").get(0);
            assert_eq!(orphans, 0, "rows without a parent on {}", node.name);
            look.commit().expect("commit");
            looks += 1;
        }
        looks
    })
}
