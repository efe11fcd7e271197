-- meld's own tables. The extension's functions are the only writers; everybody may read what holds no secret.
--
-- Tables that the output plugin reads while it decodes are marked user_catalog_table: it sees them as they were when
-- the change that it decodes was made. A dump leaves all of their rows out on purpose: they belong to a node, not to
-- a copy of its database.

-- made here and not by the control file, so that it is a member of the extension and goes with it
CREATE SCHEMA meld;
GRANT USAGE ON SCHEMA meld TO PUBLIC;

-- What this node seals its messages in WAL with: whoever knows it can write messages that all nodes believe. Row security
-- keeps it from roles that may read all tables, too.
CREATE TABLE meld.message_secret (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    secret   bytea NOT NULL CHECK (length(secret) = 16)
) WITH (user_catalog_table = true);
ALTER TABLE meld.message_secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE meld.message_secret ALTER secret SET STORAGE PLAIN;
INSERT INTO meld.message_secret (secret)
SELECT substr(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 1, 16);

-- Every node that this one knows of, itself included.
CREATE TABLE meld.node (
    node_id           int PRIMARY KEY CHECK (node_id BETWEEN 1 AND 1023),
    node_name         name NOT NULL UNIQUE CHECK (node_name <> ''),
    location          text,
    country           text,
    info              jsonb,
    system_identifier bigint NOT NULL,
    database          name NOT NULL,
    snowflake_node    int NOT NULL,
    UNIQUE (system_identifier, database)
) WITH (user_catalog_table = true);

-- Ways to reach a node. The connection string may hold a password.
CREATE TABLE meld.node_interface (
    if_id     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    if_name   name NOT NULL CHECK (if_name <> ''),
    if_nodeid int NOT NULL REFERENCES meld.node ON DELETE CASCADE,
    if_dsn    text NOT NULL,
    UNIQUE (if_nodeid, if_name)
);

-- Which of the nodes this database is: one row, or none.
CREATE TABLE meld.local_node (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    node_id       int NOT NULL REFERENCES meld.node,
    node_local_if int NOT NULL REFERENCES meld.node_interface,
    -- rows without a commit timestamp are older than this
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (user_catalog_table = true);

-- Which node a replication origin of this server stands for. Rows outlive their subscription: the stamps of the rows
-- that it brought are read through them.
CREATE TABLE meld.origin (
    roident     oid PRIMARY KEY,
    node_id     int NOT NULL,
    origin_name text NOT NULL UNIQUE
) WITH (user_catalog_table = true);

CREATE TABLE meld.replication_set (
    set_id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_name           name NOT NULL UNIQUE CHECK (set_name <> ''),
    replicate_insert   boolean NOT NULL DEFAULT true,
    replicate_update   boolean NOT NULL DEFAULT true,
    replicate_delete   boolean NOT NULL DEFAULT true,
    replicate_truncate boolean NOT NULL DEFAULT true
) WITH (user_catalog_table = true);

CREATE TABLE meld.replication_set_table (
    set_id     int NOT NULL REFERENCES meld.replication_set ON DELETE CASCADE,
    set_reloid regclass NOT NULL,
    PRIMARY KEY (set_reloid, set_id)
) WITH (user_catalog_table = true);

-- Partitioned tables whose partitions join a set, those that come later, too; and partitions that do not.
CREATE TABLE meld.replication_set_tree (
    set_id     int NOT NULL REFERENCES meld.replication_set ON DELETE CASCADE,
    set_reloid regclass NOT NULL,
    joins      boolean NOT NULL,
    PRIMARY KEY (set_reloid, set_id)
);

CREATE TABLE meld.subscription (
    sub_id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sub_name             name NOT NULL UNIQUE CHECK (sub_name <> ''),
    sub_provider         int NOT NULL REFERENCES meld.node,
    sub_interface        int NOT NULL REFERENCES meld.node_interface,
    sub_enabled          boolean NOT NULL DEFAULT true,
    sub_slot_name        name NOT NULL,
    sub_origin_name      text NOT NULL,
    sub_replication_sets text[] NOT NULL,
    sub_forward_origins  text[] NOT NULL DEFAULT '{}',
    sub_apply_delay      interval NOT NULL DEFAULT '0',
    sub_force_text       boolean NOT NULL DEFAULT false,
    -- the slot on the provider and the origin here exist
    sub_ready            boolean NOT NULL DEFAULT false
);

-- Conflicts, a row each, written by the transaction in which they were decided.
CREATE TABLE meld.resolutions (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_time            timestamptz NOT NULL DEFAULT clock_timestamp(),
    nspname             name NOT NULL,
    relname             name NOT NULL,
    index_name          name,
    conflict_type       text NOT NULL,
    conflict_resolution text NOT NULL,
    key                 jsonb,
    local_origin        int,
    local_commit_ts     timestamptz,
    local_row           jsonb,
    remote_origin       int NOT NULL,
    remote_commit_ts    timestamptz NOT NULL,
    remote_row          jsonb,
    remote_commit_lsn   pg_lsn NOT NULL,
    remote_xid          xid NOT NULL
);
CREATE INDEX resolutions_log_time ON meld.resolutions (log_time);

-- Not readable by everybody: connection strings, and rows of tables that the reader may have no right to.
GRANT SELECT ON meld.node, meld.local_node, meld.origin, meld.replication_set, meld.replication_set_table,
    meld.replication_set_tree TO PUBLIC;

INSERT INTO meld.replication_set (set_name, replicate_insert, replicate_update, replicate_delete, replicate_truncate)
VALUES ('default', true, true, true, true),
       ('default_insert_only', true, false, false, true),
       ('ddl_sql', true, false, false, false);
