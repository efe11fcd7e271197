-- How meld's functions look to SQL. The Rust side is in src/api; argument checks, errors and examples are described in
-- docs/sql-reference.md.
--
-- None is STRICT: NULL is refused by name. All look names up in pg_catalog only. What changes something, shows a
-- connection string or quotes rows may be executed by the extension's owner and superusers, until it is granted.

-- Nodes

CREATE FUNCTION meld.node_create(
    node_name name,
    dsn text,
    location text = NULL,
    country text = NULL,
    info jsonb = NULL,
    node_id int = NULL
) RETURNS int
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'node_create_wrapper';
COMMENT ON FUNCTION meld.node_create(name, text, text, text, jsonb, int) IS 'make this database a node; gives the node id';
REVOKE ALL ON FUNCTION meld.node_create(name, text, text, text, jsonb, int) FROM PUBLIC;

CREATE FUNCTION meld.node_drop(node_name name, ifexists boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'node_drop_wrapper';
COMMENT ON FUNCTION meld.node_drop(name, boolean) IS 'forget a node; the local one only without subscriptions';
REVOKE ALL ON FUNCTION meld.node_drop(name, boolean) FROM PUBLIC;

CREATE FUNCTION meld.node_add_interface(
    node_name name,
    interface_name name,
    dsn text
) RETURNS int
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'node_add_interface_wrapper';
COMMENT ON FUNCTION meld.node_add_interface(name, name, text) IS 'add another way to reach a node';
REVOKE ALL ON FUNCTION meld.node_add_interface(name, name, text) FROM PUBLIC;

CREATE FUNCTION meld.node_drop_interface(node_name name, interface_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'node_drop_interface_wrapper';
COMMENT ON FUNCTION meld.node_drop_interface(name, name) IS 'remove a way to reach a node';
REVOKE ALL ON FUNCTION meld.node_drop_interface(name, name) FROM PUBLIC;

CREATE FUNCTION meld.identity() RETURNS TABLE (node_id int, node_name name, system_identifier bigint, database name,
    snowflake_node int, server_version int, encoding text, meld_version text)
LANGUAGE c STABLE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'identity_wrapper';
COMMENT ON FUNCTION meld.identity() IS 'who this node is, as its peers ask';

CREATE FUNCTION meld.server_run() RETURNS bigint
LANGUAGE c STABLE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'server_run_wrapper';
COMMENT ON FUNCTION meld.server_run() IS 'a number that this server drew when it was started';

-- For subscribers, who may not read the connection strings that it uses; the function checks their right to a slot.
CREATE FUNCTION meld.admit(node_id int, node_name name, run bigint) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'admit_wrapper';
COMMENT ON FUNCTION meld.admit(int, name, bigint) IS 'internal: refuses a subscriber that is a copy of a known node';

-- For subscribers, with the right to a replication slot; the function checks that.
CREATE FUNCTION meld.fetch_row(nspname name, relname name, key_columns text[], key_values bytea[],
    behind_xid bigint = NULL)
RETURNS TABLE (column_name text, column_value bytea, commit_us bigint, node_id int, is_known boolean)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'fetch_row_wrapper';
COMMENT ON FUNCTION meld.fetch_row(name, name, text[], bytea[], bigint) IS 'the present row with a key, for a subscriber';

CREATE FUNCTION meld.fetch_parent(nspname name, relname name, ref_columns text[], ref_values bytea[],
    behind_xid bigint = NULL)
RETURNS TABLE (part_nspname text, part_relname text, column_name text, is_key boolean, is_delta boolean,
    column_value bytea, commit_us bigint, node_id int, is_known boolean)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'fetch_parent_wrapper';
COMMENT ON FUNCTION meld.fetch_parent(name, name, text[], bytea[], bigint) IS
    'the present row with values of unique columns, for a subscriber';

-- Replication sets

CREATE FUNCTION meld.repset_create(
    set_name name,
    replicate_insert boolean = true,
    replicate_update boolean = true,
    replicate_delete boolean = true,
    replicate_truncate boolean = true
) RETURNS int
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_create_wrapper';
COMMENT ON FUNCTION meld.repset_create(name, boolean, boolean, boolean, boolean) IS 'make a replication set; gives its id';
REVOKE ALL ON FUNCTION meld.repset_create(name, boolean, boolean, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_alter(
    set_name name,
    replicate_insert boolean = NULL,
    replicate_update boolean = NULL,
    replicate_delete boolean = NULL,
    replicate_truncate boolean = NULL
) RETURNS int
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_alter_wrapper';
COMMENT ON FUNCTION meld.repset_alter(name, boolean, boolean, boolean, boolean) IS 'change what a replication set replicates; NULL leaves as it is';
REVOKE ALL ON FUNCTION meld.repset_alter(name, boolean, boolean, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_drop(set_name name, ifexists boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_drop_wrapper';
COMMENT ON FUNCTION meld.repset_drop(name, boolean) IS 'drop a replication set';
REVOKE ALL ON FUNCTION meld.repset_drop(name, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_add_table(
    set_name name,
    relation regclass,
    synchronize_data boolean = false,
    columns text[] = NULL,
    row_filter text = NULL,
    include_partitions boolean = true
) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_add_table_wrapper';
COMMENT ON FUNCTION meld.repset_add_table(name, regclass, boolean, text[], text, boolean) IS 'add a table to a replication set';
REVOKE ALL ON FUNCTION meld.repset_add_table(name, regclass, boolean, text[], text, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_remove_table(
    set_name name,
    relation regclass,
    include_partitions boolean = true
) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_remove_table_wrapper';
COMMENT ON FUNCTION meld.repset_remove_table(name, regclass, boolean) IS 'remove a table from a replication set';
REVOKE ALL ON FUNCTION meld.repset_remove_table(name, regclass, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_add_all_tables(
    set_name name,
    schema_names text[],
    synchronize_data boolean = false
) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_add_all_tables_wrapper';
COMMENT ON FUNCTION meld.repset_add_all_tables(name, text[], boolean) IS 'add all tables of some schemas to a replication set';
REVOKE ALL ON FUNCTION meld.repset_add_all_tables(name, text[], boolean) FROM PUBLIC;

CREATE FUNCTION meld.adopt_partitions() RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'adopt_partitions_wrapper';
COMMENT ON FUNCTION meld.adopt_partitions() IS 'internal: adds new partitions to the sets of their parents';
REVOKE ALL ON FUNCTION meld.adopt_partitions() FROM PUBLIC;

-- Subscriptions

CREATE FUNCTION meld.sub_create(
    subscription_name name,
    provider_dsn text,
    replication_sets text[] = '{default,default_insert_only,ddl_sql}',
    synchronize_structure boolean = false,
    synchronize_data boolean = false,
    forward_origins text[] = '{}',
    apply_delay interval = '0',
    force_text_transfer boolean = false,
    enabled boolean = true,
    skip_schema text[] = '{}'
) RETURNS int
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_create_wrapper';
COMMENT ON FUNCTION meld.sub_create(name, text, text[], boolean, boolean, text[], interval, boolean, boolean, text[]) IS 'subscribe to a node; gives the id of the subscription';
REVOKE ALL ON FUNCTION meld.sub_create(name, text, text[], boolean, boolean, text[], interval, boolean, boolean, text[]) FROM PUBLIC;

CREATE FUNCTION meld.sub_drop(subscription_name name, ifexists boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_drop_wrapper';
COMMENT ON FUNCTION meld.sub_drop(name, boolean) IS 'drop a subscription, and its slot on the provider';
REVOKE ALL ON FUNCTION meld.sub_drop(name, boolean) FROM PUBLIC;

CREATE FUNCTION meld.sub_enable(subscription_name name, immediate boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_enable_wrapper';
COMMENT ON FUNCTION meld.sub_enable(name, boolean) IS 'let a subscription replicate';
REVOKE ALL ON FUNCTION meld.sub_enable(name, boolean) FROM PUBLIC;

CREATE FUNCTION meld.sub_disable(subscription_name name, immediate boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_disable_wrapper';
COMMENT ON FUNCTION meld.sub_disable(name, boolean) IS 'let a subscription pause';
REVOKE ALL ON FUNCTION meld.sub_disable(name, boolean) FROM PUBLIC;

CREATE FUNCTION meld.sub_alter_skiplsn(subscription_name name, lsn pg_lsn) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_alter_skiplsn_wrapper';
COMMENT ON FUNCTION meld.sub_alter_skiplsn(name, pg_lsn) IS 'pass over the remote transaction that ends there';
REVOKE ALL ON FUNCTION meld.sub_alter_skiplsn(name, pg_lsn) FROM PUBLIC;

CREATE FUNCTION meld.parked_replay(origin name = NULL)
RETURNS TABLE (replayed bigint, still_parked bigint, first_error text)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'parked_replay_wrapper';
COMMENT ON FUNCTION meld.parked_replay(name) IS 'apply parked transactions again';
REVOKE ALL ON FUNCTION meld.parked_replay(name) FROM PUBLIC;

CREATE FUNCTION meld.parked_discard(id bigint, force boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'parked_discard_wrapper';
COMMENT ON FUNCTION meld.parked_discard(bigint, boolean) IS 'give the changes of a parked transaction up';
REVOKE ALL ON FUNCTION meld.parked_discard(bigint, boolean) FROM PUBLIC;

CREATE FUNCTION meld.sub_alter_interface(subscription_name name, interface_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_alter_interface_wrapper';
COMMENT ON FUNCTION meld.sub_alter_interface(name, name) IS 'let a subscription reach its provider in another way';
REVOKE ALL ON FUNCTION meld.sub_alter_interface(name, name) FROM PUBLIC;

CREATE FUNCTION meld.sub_add_repset(subscription_name name, replication_set name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_add_repset_wrapper';
COMMENT ON FUNCTION meld.sub_add_repset(name, name) IS 'add a replication set to a subscription';
REVOKE ALL ON FUNCTION meld.sub_add_repset(name, name) FROM PUBLIC;

CREATE FUNCTION meld.sub_remove_repset(subscription_name name, replication_set name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_remove_repset_wrapper';
COMMENT ON FUNCTION meld.sub_remove_repset(name, name) IS 'remove a replication set from a subscription';
REVOKE ALL ON FUNCTION meld.sub_remove_repset(name, name) FROM PUBLIC;

CREATE FUNCTION meld.sub_show_status(subscription_name name = NULL) RETURNS TABLE (subscription_name name, status text, provider_node name,
    provider_dsn text, slot_name name, replication_sets text[], forward_origins text[], received_lsn pg_lsn,
    applied_lsn pg_lsn, worker_pid int, last_sqlstate text, last_error text, stands_at pg_lsn, way_out text)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_show_status_wrapper';
COMMENT ON FUNCTION meld.sub_show_status(name) IS 'state of one subscription, or of all';
REVOKE ALL ON FUNCTION meld.sub_show_status(name) FROM PUBLIC;

CREATE FUNCTION meld.sub_wait_for_sync(subscription_name name) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sub_wait_for_sync_wrapper';
COMMENT ON FUNCTION meld.sub_wait_for_sync(name) IS 'wait until a subscription replicates';
REVOKE ALL ON FUNCTION meld.sub_wait_for_sync(name) FROM PUBLIC;

-- Conflicts

-- Who may read the table may ask; the function checks that.
CREATE FUNCTION meld.row_stamp(relation regclass, key jsonb)
RETURNS TABLE (commit_ts timestamptz, node_id int, is_tombstone boolean)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'row_stamp_wrapper';
COMMENT ON FUNCTION meld.row_stamp(regclass, jsonb) IS 'when and where a row was last written, or deleted';

-- Behind the row trigger of replicated tables

CREATE FUNCTION meld.row_trigger() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'meld_row_trigger';
COMMENT ON FUNCTION meld.row_trigger() IS 'internal: notes which version of a row is replaced';
REVOKE ALL ON FUNCTION meld.row_trigger() FROM PUBLIC;

CREATE FUNCTION meld.counter_trigger() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'meld_counter_trigger';
COMMENT ON FUNCTION meld.counter_trigger() IS 'internal: tells what a new row is to the counters of its key';
REVOKE ALL ON FUNCTION meld.counter_trigger() FROM PUBLIC;

CREATE FUNCTION meld.arrival_trigger() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'meld_arrival_trigger';
COMMENT ON FUNCTION meld.arrival_trigger() IS 'internal: keeps the keys of a table with delta columns while rows come';
REVOKE ALL ON FUNCTION meld.arrival_trigger() FROM PUBLIC;

CREATE FUNCTION meld.truncate_trigger() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'meld_truncate_trigger';
COMMENT ON FUNCTION meld.truncate_trigger() IS 'internal: notes that older rows must not come back';
REVOKE ALL ON FUNCTION meld.truncate_trigger() FROM PUBLIC;

-- Waiting

CREATE FUNCTION meld.sync_event() RETURNS pg_lsn
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sync_event_wrapper';
COMMENT ON FUNCTION meld.sync_event() IS 'mark this point in the stream to the subscribers';
REVOKE ALL ON FUNCTION meld.sync_event() FROM PUBLIC;

-- Without a search path of its own: that would make it atomic, and it could not give up the snapshot while it waits.
CREATE PROCEDURE meld.wait_for_sync_event(
    origin name,
    lsn pg_lsn,
    timeout int = 0
)
LANGUAGE c AS 'MODULE_PATHNAME', 'wait_for_sync_event_wrapper';
COMMENT ON PROCEDURE meld.wait_for_sync_event(name, pg_lsn, int) IS 'wait until everything before a mark of another node is applied here';
REVOKE ALL ON PROCEDURE meld.wait_for_sync_event(name, pg_lsn, int) FROM PUBLIC;

CREATE FUNCTION meld.wait_slot_confirm_lsn(slot_name name, target pg_lsn) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'wait_slot_confirm_lsn_wrapper';
COMMENT ON FUNCTION meld.wait_slot_confirm_lsn(name, pg_lsn) IS 'wait until subscribers have confirmed a position';
REVOKE ALL ON FUNCTION meld.wait_slot_confirm_lsn(name, pg_lsn) FROM PUBLIC;

-- Rows behind the views; they hold no secret

CREATE FUNCTION meld.worker_progress() RETURNS TABLE (subscription_id int, is_replicating boolean, received_lsn pg_lsn,
    applied_lsn pg_lsn, flushed_lsn pg_lsn, last_commit_ts timestamptz, applying_commit_ts timestamptz,
    transactions bigint, inserts bigint, updates bigint, deletes bigint)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'worker_progress_wrapper';
COMMENT ON FUNCTION meld.worker_progress() IS 'counters of this database''s subscriptions';

CREATE FUNCTION meld.worker_clocks() RETURNS TABLE (subscription_id int, offset_us bigint, round_trip_us bigint)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'worker_clocks_wrapper';
COMMENT ON FUNCTION meld.worker_clocks() IS 'clocks of the providers of this database''s subscriptions';

CREATE FUNCTION meld.announcements() RETURNS TABLE (subscription_id int, heard_at timestamptz, promise timestamptz,
    horizon timestamptz)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'announcements_wrapper';
COMMENT ON FUNCTION meld.announcements() IS 'promises and horizons of this node and of its providers';

CREATE FUNCTION meld.worker_list() RETURNS TABLE (worker_kind text, pid int, database oid, subscription_id int, state text)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'worker_list_wrapper';
COMMENT ON FUNCTION meld.worker_list() IS 'workers of meld';

CREATE FUNCTION meld.ignored_messages() RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'ignored_messages_wrapper';
COMMENT ON FUNCTION meld.ignored_messages() IS 'messages with meld''s prefix in WAL that no node of this server has written';

CREATE FUNCTION meld.conflict_counts() RETURNS TABLE (subscription_id int, conflict_type text, conflicts bigint)
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'conflict_counts_wrapper';
COMMENT ON FUNCTION meld.conflict_counts() IS 'conflicts of this database''s subscriptions';
