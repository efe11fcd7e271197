//! What was done to each row, by users and by apply, for the search after a run whose nodes differ.

use meld_cluster_tests::{Cluster, compare};

fn is_wanted() -> bool {
    std::env::var_os("MELD_DIARY").is_some()
}

/// Begins to write, if that is wanted.
#[track_caller]
pub fn keep(cluster: &Cluster) {
    if !is_wanted() {
        return;
    }
    cluster.batch(
        "CREATE SCHEMA harness;
         CREATE TABLE harness.diary (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), relname name,
             op text, old jsonb, new jsonb, who text, xid xid DEFAULT pg_current_xact_id()::xid);
         CREATE FUNCTION harness.write() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO harness.diary (relname, op, old, new, who) VALUES (TG_RELNAME, TG_OP,
                 CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
                 pg_catalog.current_setting('application_name'));
             RETURN NULL;
         END $$",
    );
    for table in compare::user_tables(cluster.node(1)).iter().filter(|table| !table.contains("harness")) {
        cluster.batch(&format!(
            "CREATE TRIGGER diary AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION harness.write();
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER diary"
        ));
    }
}

/// Prints the end of the story of each row that differs; keys are numbers called "id".
pub fn tell(cluster: &Cluster, differences: &str) {
    if !is_wanted() {
        return;
    }
    let mut table = String::new();
    let mut told = Vec::new();
    for line in differences.lines() {
        if let Some((name, _)) = line.split_once(": ").filter(|_| line.starts_with("public.")) {
            table = name.trim_start_matches("public.").to_owned();
        } else if let Some((_, rest)) = line.split_once("(id,") {
            let id = rest.split([',', ')']).next().unwrap_or_default().to_owned();
            if !told.contains(&(table.clone(), id.clone())) {
                told.push((table.clone(), id));
            }
        }
    }
    for (table, id) in told {
        for node in cluster.nodes() {
            eprintln!("-- {table} {id} on {}", node.name);
            let diary = format!(
                "SELECT line FROM (
                    (SELECT d.at, concat_ws(' ', d.at::time, op, old, '->', new, who, '| commit', s.timestamp::time, s.roident) AS line
                     FROM harness.diary d CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(d.xid) s
                     WHERE relname = '{table}' AND '{id}' IN (old->>'id', new->>'id') ORDER BY d.id DESC LIMIT 12)
                    UNION ALL
                    (SELECT log_time, concat_ws(' ', log_time::time, 'DECIDED', conflict_type, conflict_resolution, 'local',
                        local_origin, local_commit_ts::time, local_row, 'remote', remote_origin, remote_commit_ts::time, remote_row)
                     FROM meld.resolutions WHERE relname = '{table}' AND key->>'id' = '{id}' ORDER BY id DESC LIMIT 12)) q
                 ORDER BY at"
            );
            node.values::<String>(&diary).iter().for_each(|line| eprintln!("{line}"));
            let tombstones = format!(
                "SELECT concat_ws(' ', to_jsonb(t)) FROM meld.tombstone t WHERE relid = '{table}'::regclass LIMIT 20"
            );
            node.values::<String>(&tombstones).iter().for_each(|line| eprintln!("tombstone {line}"));
        }
    }
}
