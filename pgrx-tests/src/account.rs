//! Accounting: every write that was committed is in the final rows' past, or is a loser in some node's history.
//!
//! Stricter and wider than `audit`, for tables made for it: their key is `id int`, and they have two columns `tag text`
//! and `over text` for the triggers. A trigger gives each version that a user writes a tag of its own, unique in the
//! cluster; another notes, in the same transaction, which version it replaced, or over which tombstone it came. In
//! apply neither fires, so a replicated row keeps its tag. Afterwards, for each key:
//!
//! - the version with the largest stamp of all is the one that every node holds; if it is a delete, or was removed for
//!   a unique index, no node has the row
//! - every other version leads to that one, by what was replaced by whom, or is listed as a loser somewhere; where rows
//!   are fetched, which may overtake the stream, it is enough that a version which replaced it is
//! - what was acknowledged to a client is among the notes
//! - the sum of all that was added to `n`, where there is such a column, is what the row has ([`counters_are_exact`])

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::cluster::Cluster;
use crate::node::{Node, literal};
use crate::resolutions::{Stamp, TIME_FORMAT};

/// One key of one table.
type Key = (String, i32);

/// A version as its writer noted it.
#[derive(Clone, Debug)]
struct Version {
    key: Key,
    is_delete: bool,
    stamp: Stamp,
    /// Place among the notes of its node.
    note: i64,
    replaced: Option<String>,
    /// Stamp of the tombstone that an insert came over.
    over: Option<String>,
    /// Another version of this key follows in the same transaction.
    is_passing: bool,
}

/// Figures of one account.
#[derive(Clone, Copy, Default, Debug)]
pub struct Account {
    pub versions: usize,
    pub live: usize,
    /// Versions that are not in the past of the final ones.
    pub lost: usize,
    /// Keys whose latest version was removed for a unique index.
    pub removed: usize,
    pub acknowledged: usize,
}

/// What the triggers need on each node.
const NOTES: &str = r#"
    CREATE SCHEMA harness;
    CREATE SEQUENCE harness.tag;
    CREATE TABLE harness.note (id bigserial PRIMARY KEY, relname name, key int, is_delete bool, replaced text, tag text,
                               over text, added numeric, made xid DEFAULT pg_current_xact_id()::xid);
    CREATE TABLE harness.done (marker text PRIMARY KEY);
    CREATE FUNCTION harness.new_tag() RETURNS text LANGUAGE sql AS
    $$ SELECT concat((SELECT node_id FROM meld.local_node), '-', nextval('harness.tag')) $$;
    CREATE FUNCTION harness.tag() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.tag := harness.new_tag();
        IF TG_OP = 'INSERT' OR OLD.id <> NEW.id THEN
            NEW.over := harness.tombstone(TG_RELID, NEW.id);
        END IF;
        RETURN NEW;
    END $$;
    CREATE FUNCTION harness.note() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE before numeric; after numeric;
    BEGIN
        IF TG_OP <> 'INSERT' THEN before := (to_jsonb(OLD) ->> 'n')::numeric; END IF;
        IF TG_OP <> 'DELETE' THEN after := (to_jsonb(NEW) ->> 'n')::numeric; END IF;
        IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
            INSERT INTO harness.note (relname, key, is_delete, replaced, tag)
            VALUES (TG_RELNAME, OLD.id, true, OLD.tag, harness.new_tag());
        END IF;
        IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
            INSERT INTO harness.note (relname, key, is_delete, tag, over, added)
            VALUES (TG_RELNAME, NEW.id, false, NEW.tag, NEW.over, after);
        ELSIF TG_OP = 'UPDATE' THEN
            INSERT INTO harness.note (relname, key, is_delete, replaced, tag, added)
            VALUES (TG_RELNAME, NEW.id, false, OLD.tag, NEW.tag, after - before);
        END IF;
        RETURN NULL;
    END $$"#;

/// Begins to watch some tables. What is in them already is not noted: they should be empty.
#[track_caller]
pub fn watch(cluster: &Cluster, tables: &[&str]) {
    cluster.batch(NOTES);
    let is_known: bool = cluster.node(1).value("SELECT to_regprocedure('meld.row_stamp(regclass, jsonb)') IS NOT NULL");
    let tombstone = if is_known {
        format!(
            "SELECT concat(to_char(commit_ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), ' ', node_id)
             FROM meld.row_stamp($1, jsonb_build_object('id', $2)) WHERE is_tombstone AND commit_ts IS NOT NULL"
        )
    } else {
        "SELECT NULL::text".to_owned()
    };
    cluster.batch(&format!(
        "CREATE FUNCTION harness.tombstone(regclass, int) RETURNS text LANGUAGE sql AS $$ {tombstone} $$"
    ));
    for table in tables {
        cluster.batch(&format!(
            "CREATE TRIGGER tag BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION harness.tag();
             CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION harness.note()"
        ));
    }
}

/// Statement by which a client marks its transaction, to find it again among those that were committed.
pub fn mark(marker: &str) -> String {
    format!("INSERT INTO harness.done VALUES ({})", literal(marker))
}

/// Checks all that the module promises but counters. In the `fetched` ones of the tables the stream leaves large values
/// out. `acknowledged` are the markers of each node, by its place.
#[track_caller]
pub fn check(
    cluster: &Cluster,
    tables: &[&str],
    fetched: &[&str],
    acknowledged: &BTreeMap<usize, Vec<String>>,
) -> Account {
    let mut account = Account::default();
    for node in cluster.nodes() {
        let done: HashSet<String> = node.values("SELECT marker FROM harness.done").into_iter().collect();
        let markers = acknowledged.get(&node.place).map(Vec::as_slice).unwrap_or_default();
        let lost: Vec<&String> = markers.iter().filter(|marker| !done.contains(*marker)).collect();
        assert!(lost.is_empty(), "{} has forgotten acknowledged transactions: {lost:?}", node.name);
        account.acknowledged += markers.len();
    }
    let versions: HashMap<String, Version> = cluster.nodes().iter().flat_map(notes).collect();
    let losers: Vec<Losers> = cluster.nodes().iter().map(losers).collect();
    let is_listed = |tag: &String, version: &Version| {
        let named = (version.key.clone(), version.stamp.clone());
        losers.iter().any(|losers| losers.tags.contains(tag) || losers.stamps.contains(&named))
    };
    let mut of_key: BTreeMap<&Key, Vec<(&String, &Version)>> = BTreeMap::new();
    versions.iter().for_each(|(tag, version)| of_key.entry(&version.key).or_default().push((tag, version)));
    let rows: HashMap<Key, String> = tables.iter().flat_map(|table| rows(cluster.node(1), table)).collect();
    let mut wrong: Vec<String> = rows
        .iter()
        .filter(|(_, tag)| !versions.contains_key(*tag))
        .map(|(key, tag)| format!("{key:?}: nobody wrote {tag}"))
        .collect();
    for (key, mut all) in of_key {
        all.sort_by(|(_, a), (_, b)| (&a.stamp, a.note).cmp(&(&b.stamp, b.note)));
        let Some((last_tag, last)) = all.last() else { continue };
        let is_removed = !last.is_delete && losers.iter().any(|losers| losers.removed.contains(*last_tag));
        account.versions += all.len();
        account.removed += usize::from(is_removed);
        account.live += usize::from(rows.contains_key(key));
        let wanted = if last.is_delete || is_removed { None } else { Some(*last_tag) };
        if rows.get(key) != wanted {
            wrong.push(format!("{key:?}: {:?} is here instead of {wanted:?}: {}", rows.get(key), show(&all)));
        }
        let past = past(last_tag, &versions, &all);
        let mut accounted: HashSet<&String> = past.clone();
        // the later ones first, so that a version is known to be accounted for before the one that it replaced
        for (place, (tag, version)) in all.iter().enumerate().rev() {
            // a delete that another one followed has had its way
            let is_repeated = version.is_delete && all[place + 1..].iter().any(|(_, later)| later.is_delete);
            let is_overtaken = fetched.contains(&key.0.as_str())
                && all[place + 1..]
                    .iter()
                    .any(|(t, later)| later.replaced.as_ref() == Some(tag) && accounted.contains(*t));
            account.lost += usize::from(!past.contains(*tag) && !version.is_passing);
            if past.contains(*tag) || is_listed(tag, version) || is_repeated || is_overtaken {
                accounted.insert(tag);
            } else if !version.is_passing {
                wrong.push(format!("{key:?}: {tag} is lost and in no history: {}", show(&all)));
            }
        }
    }
    let total = wrong.len();
    wrong.truncate(8);
    assert!(wrong.is_empty(), "{total} of {} versions are not accounted for:\n{}", versions.len(), wrong.join("\n"));
    account
}

fn show(all: &[(&String, &Version)]) -> String {
    let lines = all.iter().map(|(tag, version)| {
        let kind = if version.is_delete { "delete" } else { "row" };
        let before = version.replaced.as_ref().or(version.over.as_ref());
        format!("\n    {tag} {kind} {} node {} after {before:?}", version.stamp.commit_ts, version.stamp.node_id)
    });
    lines.collect()
}

/// The last version of a key, and all that led to it.
fn past<'v>(
    last: &'v String,
    versions: &'v HashMap<String, Version>,
    all: &[(&'v String, &'v Version)],
) -> HashSet<&'v String> {
    let mut past = HashSet::new();
    let mut next = Some(last);
    while let Some(tag) = next.take() {
        let Some(version) = versions.get(tag) else { break };
        if !past.insert(tag) {
            break;
        }
        next = match &version.replaced {
            Some(replaced) => Some(replaced),
            None => before_insert(tag, version, all),
        };
    }
    past
}

/// What an insert came after: the delete before it in its own transaction, or the version whose tombstone its writer saw.
/// A tombstone that is gone was confirmed by all nodes, so nothing before it is in doubt.
fn before_insert<'v>(tag: &String, version: &Version, all: &[(&'v String, &'v Version)]) -> Option<&'v String> {
    let place = all.iter().position(|(other, _)| *other == tag)?;
    let earlier = &all[..place];
    let own = earlier.last().filter(|(_, before)| before.stamp == version.stamp);
    let seen = || {
        let over = version.over.as_ref()?;
        earlier.iter().rev().find(|(_, before)| format!("{} {}", before.stamp.commit_ts, before.stamp.node_id) == *over)
    };
    let gone = || earlier.last().filter(|_| version.over.is_none());
    own.or_else(seen).or_else(gone).map(|(tag, _)| *tag)
}

/// All versions that this node's users wrote, by tag.
fn notes(node: &Node) -> Vec<(String, Version)> {
    let sql = format!(
        "SELECT tag, relname::text, key, is_delete, replaced, over, id,
                to_char(pg_xact_commit_timestamp(made) AT TIME ZONE 'UTC', '{TIME_FORMAT}'),
                lead(id) OVER (PARTITION BY relname, key, made::text ORDER BY id) IS NOT NULL
         FROM harness.note"
    );
    let version = |row: &postgres::Row| Version {
        key: (row.get(1), row.get(2)),
        is_delete: row.get(3),
        replaced: row.get(4),
        over: row.get(5),
        note: row.get(6),
        stamp: Stamp { commit_ts: row.get(7), node_id: node.id() },
        is_passing: row.get(8),
    };
    node.rows(&sql, &[]).iter().map(|row| (row.get(0), version(row))).collect()
}

/// Versions that a node's history calls beaten.
#[derive(Default)]
struct Losers {
    tags: HashSet<String>,
    stamps: HashSet<(Key, Stamp)>,
    /// Those of conflicts that unique indexes have, too.
    removed: HashSet<String>,
}

fn losers(node: &Node) -> Losers {
    let sql = format!(
        "SELECT relname::text, (key ->> 'id')::int, conflict_type, row ->> 'tag',
                to_char(ts AT TIME ZONE 'UTC', '{TIME_FORMAT}'), origin
         FROM meld.resolutions r, LATERAL (SELECT CASE WHEN conflict_resolution <> 'merge' THEN
                conflict_resolution = 'apply_remote' ELSE (local_commit_ts, local_origin) < (remote_commit_ts, remote_origin)
                END AS local_lost) l,
              LATERAL (SELECT CASE WHEN local_lost THEN local_row ELSE remote_row END AS row,
                              CASE WHEN local_lost THEN local_commit_ts ELSE remote_commit_ts END AS ts,
                              CASE WHEN local_lost THEN local_origin ELSE remote_origin END AS origin) q"
    );
    let mut losers = Losers::default();
    for row in node.rows(&sql, &[]) {
        let key: Key = (row.get(0), row.get(1));
        let conflict: String = row.get(2);
        if let Some(tag) = row.get::<_, Option<String>>(3) {
            if ["insert_exists", "update_exists", "multiple_unique_conflicts"].contains(&conflict.as_str()) {
                losers.removed.insert(tag.clone());
            }
            losers.tags.insert(tag);
        }
        if let (Some(commit_ts), Some(node_id)) = (row.get(4), row.get(5)) {
            losers.stamps.insert((key, Stamp { commit_ts, node_id }));
        }
    }
    losers
}

/// Tags of the rows of a table.
fn rows(node: &Node, table: &str) -> Vec<(Key, String)> {
    let rows = node.rows(&format!("SELECT id, tag FROM {table}"), &[]);
    rows.iter().map(|row| ((table.to_owned(), row.get(0)), row.get(1))).collect()
}

/// For each key of a table with a delta column `n` that was never deleted, `n` is the sum of all that was added to it.
#[track_caller]
pub fn counters_are_exact(cluster: &Cluster, table: &str) -> usize {
    let sql = format!(
        "SELECT key, sum(added)::text, count(*) FILTER (WHERE is_delete) FROM harness.note WHERE relname = {} GROUP BY key",
        literal(table)
    );
    let mut deleted: BTreeSet<i32> = BTreeSet::new();
    let mut sums: BTreeMap<i32, i64> = BTreeMap::new();
    for node in cluster.nodes() {
        for row in node.rows(&sql, &[]) {
            let (key, added): (i32, Option<String>) = (row.get(0), row.get(1));
            *sums.entry(key).or_default() += added.and_then(|sum| sum.parse::<i64>().ok()).unwrap_or(0);
            if row.get::<_, i64>(2) > 0 {
                deleted.insert(key);
            }
        }
    }
    sums.retain(|key, _| !deleted.contains(key));
    for node in cluster.nodes() {
        let here: BTreeMap<i32, i64> = node
            .rows(&format!("SELECT id, n::bigint FROM {table}"), &[])
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        for (key, sum) in &sums {
            assert_eq!(here.get(key), Some(sum), "{}: counter {key} of {table}", node.name);
        }
    }
    sums.len()
}
