-- Views for operators. Everybody may read them: they show names, positions and counters, no connection strings, no rows
-- and no error texts.

-- Every table that could be replicated, with the replication sets that it is in, a row each, or null.
CREATE VIEW meld.tables AS
SELECT c.oid::regclass AS relid, n.nspname, c.relname, s.set_name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN (meld.replication_set_table t JOIN meld.replication_set s USING (set_id)) ON t.set_reloid = c.oid
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'meld', 'snowflake', 'pg_toast');

CREATE FUNCTION meld.node_info() RETURNS TABLE (
    node_id int, node_name name, system_identifier bigint, database name, snowflake_node int, location text,
    country text, info jsonb, created_at timestamptz, replication_sets name[])
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT i.node_id, i.node_name, i.system_identifier, i.database, i.snowflake_node, n.location, n.country, n.info,
           l.created_at, (SELECT array_agg(s.set_name ORDER BY s.set_id) FROM meld.replication_set s)
      FROM meld.identity() i, meld.local_node l JOIN meld.node n ON n.node_id = l.node_id
$$;
COMMENT ON FUNCTION meld.node_info() IS 'this node in one row';

-- How far each subscription of this node has come since the server started, and how far the provider's clock is ahead
-- of this server's, give or take half of the round trip.
CREATE VIEW meld.progress AS
SELECT s.sub_name AS subscription_name, n.node_name AS provider_node, n.node_id AS provider_node_id,
       coalesce(p.is_replicating, false) AS is_replicating, p.received_lsn, p.applied_lsn, p.flushed_lsn,
       p.last_commit_ts, p.transactions, p.inserts, p.updates, p.deletes,
       c.offset_us * interval '1 microsecond' AS clock_offset,
       c.round_trip_us * interval '1 microsecond' AS clock_round_trip
  FROM meld.subscription s
  JOIN meld.node n ON n.node_id = s.sub_provider
  LEFT JOIN meld.worker_progress() p ON p.subscription_id = s.sub_id
  LEFT JOIN meld.worker_clocks() c ON c.subscription_id = s.sub_id;

-- Both directions of each link of this node. Bytes of write-ahead log, and time, by which the subscriber is behind;
-- both grow while apply stands still and are 0 when there is nothing to do. The time of an outgoing link is null while
-- its subscriber has not answered yet.
CREATE VIEW meld.lag_tracker AS
SELECT 'in' AS direction, s.sub_slot_name AS link_name, s.sub_name AS subscription_name,
       n.node_name AS provider_node, coalesce(p.is_replicating, false) AS is_active,
       greatest(p.received_lsn - p.applied_lsn, 0)::bigint AS lag_bytes,
       CASE WHEN p.applying_commit_ts IS NULL AND p.is_replicating AND p.applied_lsn >= p.received_lsn
            THEN interval '0'
            ELSE greatest(clock_timestamp() - coalesce(p.applying_commit_ts, p.last_commit_ts), interval '0')
       END AS lag_time
  FROM meld.subscription s
  JOIN meld.node n ON n.node_id = s.sub_provider
  LEFT JOIN meld.worker_progress() p ON p.subscription_id = s.sub_id
UNION ALL
SELECT 'out', r.slot_name, NULL, (SELECT node_name FROM meld.local_node JOIN meld.node USING (node_id)), r.active,
       lag.bytes, CASE WHEN lag.bytes = 0 THEN interval '0' ELSE a.replay_lag END
  FROM pg_catalog.pg_replication_slots r
  LEFT JOIN pg_catalog.pg_stat_replication a ON a.pid = r.active_pid,
  LATERAL (SELECT greatest(pg_current_wal_flush_lsn() - coalesce(a.replay_lsn, r.confirmed_flush_lsn), 0)::bigint
               AS bytes) lag
 WHERE r.plugin = 'meld' AND r.database = current_database();

-- The supervisor, the managers of all databases, and the apply workers of this one.
CREATE VIEW meld.worker_status AS
SELECT w.worker_kind, w.pid, d.datname AS database, s.sub_name AS subscription_name, w.state
  FROM meld.worker_list() w
  LEFT JOIN pg_catalog.pg_database d ON d.oid = w.database
  LEFT JOIN meld.subscription s ON s.sub_id = w.subscription_id;

-- Conflicts since the server started; meld.resolutions has each of them.
CREATE VIEW meld.conflict_stats AS
SELECT s.sub_name AS subscription_name, c.conflict_type, c.conflicts
  FROM meld.conflict_counts() c
  JOIN meld.subscription s ON s.sub_id = c.subscription_id;

-- What waits for an operator, and the call that deals with it: transactions that could not be applied, and subscriptions
-- that stand at one. Error texts quote rows, so only those may read it who may read the tables behind it.
CREATE VIEW meld.exceptions AS
SELECT p.subscription_name, p.state, p.parked_at AS since, p.id AS parked_id, p.remote_origin, p.remote_commit_ts,
       p.remote_commit_lsn, p.remote_xid, p.changes, p.size_bytes, p.replays, p.sqlstate, p.error_message,
       (SELECT string_agg(DISTINCT e.nspname || '.' || e.relname, ', ') FROM meld.exception_log e
         WHERE e.parked_id = p.id AND e.sqlstate IS NOT NULL) AS failed_tables,
       CASE p.state
            WHEN 'parked' THEN 'SELECT * FROM meld.parked_replay()'
            WHEN 'skipped' THEN format('SELECT meld.parked_discard(%s)', p.id)
       END AS what_to_do
  FROM meld.parked_transaction p
UNION ALL
SELECT s.sub_name, CASE WHEN s.sub_enabled THEN 'retrying' ELSE 'disabled' END, f.failed_at, NULL, s.sub_provider, NULL,
       f.remote_commit_lsn, f.remote_xid, NULL, NULL, NULL, f.sqlstate, f.error_message, NULL,
       CASE WHEN f.skip_lsn = f.remote_commit_lsn THEN format('SELECT meld.sub_enable(%L)', s.sub_name)
            ELSE format('SELECT meld.sub_enable(%L) or SELECT meld.sub_alter_skiplsn(%L, %L)', s.sub_name, s.sub_name,
                        f.remote_commit_lsn)
       END
  FROM meld.apply_failure f JOIN meld.subscription s USING (sub_id);

-- Every node that this one knows of. What a node has announced counts when all that it sent before is durable here.
CREATE VIEW meld.cluster_status AS
WITH announced AS (
    SELECT s.sub_provider AS node_id, min(a.heard_at) AS last_heartbeat,
           CASE WHEN bool_and(a.promise IS NOT NULL) THEN min(a.promise) END AS promise,
           CASE WHEN bool_and(a.horizon IS NOT NULL) THEN min(a.horizon) END AS horizon,
           min(CASE WHEN NOT s.sub_enabled THEN 'disabled' ELSE coalesce(w.state, 'down') END) AS link_state
      FROM meld.subscription s
      LEFT JOIN meld.announcements() a ON a.subscription_id = s.sub_id
      LEFT JOIN meld.worker_list() w ON w.subscription_id = s.sub_id AND w.worker_kind = 'apply'
     GROUP BY s.sub_provider
), least_of AS (
    SELECT min(least(coalesce(a.promise, '-infinity'), coalesce(a.horizon, '-infinity'))) AS confirmed
      FROM announced a
     WHERE a.node_id NOT IN (SELECT b.node_id FROM meld.left_behind b)
)
SELECT n.node_id, n.node_name, l.node_id IS NOT NULL AS is_local,
       CASE WHEN l.node_id IS NULL THEN coalesce(a.link_state, 'none') END AS link_state, a.last_heartbeat,
       CASE WHEN l.node_id IS NULL THEN a.promise ELSE o.promise END AS promise,
       CASE WHEN l.node_id IS NULL THEN a.horizon ELSE o.horizon END AS horizon,
       a.node_id IS NOT NULL AND b.node_id IS NULL
           AND least(coalesce(a.promise, '-infinity'), coalesce(a.horizon, '-infinity')) <= least_of.confirmed
           AS holds_back,
       b.node_id IS NOT NULL AS is_left_behind,
       CASE WHEN l.node_id IS NOT NULL THEN pg_stat_get_live_tuples('meld.tombstone'::regclass)
           + (SELECT coalesce(sum(u.key_count), 0)::int8 FROM meld.tombstone_bundle u) END AS tombstones
  FROM meld.node n
  LEFT JOIN meld.local_node l USING (node_id)
  LEFT JOIN announced a USING (node_id)
  LEFT JOIN meld.left_behind b USING (node_id)
  CROSS JOIN least_of
  LEFT JOIN meld.announcements() o ON o.subscription_id IS NULL;

GRANT SELECT ON meld.tables, meld.progress, meld.lag_tracker, meld.worker_status, meld.conflict_stats,
    meld.cluster_status TO PUBLIC;

-- What meld keeps of a table or column goes when that is dropped; its owner has no rights on meld's tables.
CREATE FUNCTION meld.forget_dropped_tables() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    DELETE FROM meld.replication_set_table t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.set_reloid = d.objid;
    DELETE FROM meld.replication_set_tree t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.set_reloid = d.objid;
    DELETE FROM meld.tombstone t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
    DELETE FROM meld.tombstone_bundle t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
    DELETE FROM meld.row_stamp_override t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
    DELETE FROM meld.delta_column t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid IN (0, t.attnum) AND t.relid = d.objid;
    DELETE FROM meld.replication_set_sequence t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.seqid = d.objid;
    DELETE FROM meld.sequence_sync t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.seqid = d.objid;
    DELETE FROM meld.snowflake_sequence t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.seqid = d.objid;
    DELETE FROM meld.void t
     USING pg_event_trigger_dropped_objects() d
     WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND t.relid = d.objid;
END
$$;
COMMENT ON FUNCTION meld.forget_dropped_tables() IS 'forgets dropped tables and columns';
REVOKE ALL ON FUNCTION meld.forget_dropped_tables() FROM PUBLIC;
CREATE EVENT TRIGGER meld_forget_dropped_tables ON sql_drop EXECUTE FUNCTION meld.forget_dropped_tables();
-- also in sessions that replay, for which event triggers don't fire otherwise
ALTER EVENT TRIGGER meld_forget_dropped_tables ENABLE ALWAYS;

-- Who makes or attaches a partition has no rights on meld's tables.
CREATE FUNCTION meld.adopt_new_partitions() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (SELECT FROM meld.replication_set_tree WHERE joins) THEN
        PERFORM meld.adopt_partitions();
    END IF;
END
$$;
COMMENT ON FUNCTION meld.adopt_new_partitions() IS 'internal: looks for new partitions';
REVOKE ALL ON FUNCTION meld.adopt_new_partitions() FROM PUBLIC;
CREATE EVENT TRIGGER meld_adopt_new_partitions ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
EXECUTE FUNCTION meld.adopt_new_partitions();
ALTER EVENT TRIGGER meld_adopt_new_partitions ENABLE ALWAYS;
