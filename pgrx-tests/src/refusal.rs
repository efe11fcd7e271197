//! Refusals: what a bad call answers, and that it left nothing behind.

use crate::node::{Node, SqlError};

/// All of meld's state on a node, as text: what a refused call must not change.
#[track_caller]
pub fn state(node: &Node) -> String {
    node.value(
        "SELECT jsonb_pretty(jsonb_build_object(
            'node', (SELECT jsonb_agg(n ORDER BY node_id) FROM meld.node n),
            'interface', (SELECT jsonb_agg(i ORDER BY if_id) FROM meld.node_interface i),
            'local', (SELECT jsonb_agg(l) FROM meld.local_node l),
            'set', (SELECT jsonb_agg(r ORDER BY set_id) FROM meld.replication_set r),
            'table', (SELECT jsonb_agg(t ORDER BY set_reloid, set_id) FROM meld.replication_set_table t),
            'subscription', (SELECT jsonb_agg(to_jsonb(s) - 'sub_ready' ORDER BY sub_id) FROM meld.subscription s),
            'origin', (SELECT jsonb_agg(roname ORDER BY roname) FROM pg_replication_origin),
            'slot', (SELECT jsonb_agg(slot_name ORDER BY slot_name) FROM pg_replication_slots)))",
    )
}

/// Runs what must be refused with one of these SQLSTATEs, in words that hold all the texts, and without a trace.
#[track_caller]
pub fn refused(node: &Node, sql: &str, sqlstates: &[&str], texts: &[&str]) -> SqlError {
    let before = state(node);
    let error = node.error(sql);
    judge(&error, sql, sqlstates, texts);
    let after = state(node);
    assert_eq!(after, before, "{sql} left something behind");
    error
}

/// The error's code is one of these, and its words are in PostgreSQL's style and hold the texts.
#[track_caller]
pub fn judge(error: &SqlError, sql: &str, sqlstates: &[&str], texts: &[&str]) {
    assert!(sqlstates.contains(&error.sqlstate.as_str()), "{sql}\nexpected {sqlstates:?}, got {error:#?}");
    for text in texts {
        assert!(error.text().contains(text), "{sql}\nexpected \"{text}\" in {error:#?}");
    }
    let first = error.message.chars().next().unwrap_or_default();
    let style = !first.is_uppercase() && !error.message.ends_with('.') && !error.message.contains('\n');
    assert!(style, "{sql}\nnot in the style of the server: {}", error.message);
    for sentence in [&error.detail, &error.hint].into_iter().filter(|sentence| !sentence.is_empty()) {
        assert!(sentence.ends_with('.') || sentence.contains('\n'), "{sql}\nnot a sentence: {sentence}");
    }
    assert!(!error.text().contains(crate::node::SECRET), "{sql}\nthe password shows: {error:#?}");
}
