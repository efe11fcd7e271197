-- What convergence keeps of keys beside their rows. Written by the extension alone. `key` are the canonical bytes of a
-- row's key; a stamp that is null is that of the transaction that wrote the row.

-- Members that were away for longer than meld.tombstone_retention while deleted rows were forgotten. They are refused.
CREATE TABLE meld.left_behind (
    node_id   int PRIMARY KEY REFERENCES meld.node ON DELETE CASCADE,
    -- what it had announced last
    promise   timestamptz NOT NULL,
    horizon   timestamptz NOT NULL,
    -- rows deleted up to this are forgotten
    forgotten timestamptz NOT NULL
) WITH (user_catalog_table = true);
GRANT SELECT ON meld.left_behind TO PUBLIC;

-- Deleted rows. Several for one key are possible: the one with the largest stamp counts, and none while the row lives.
CREATE TABLE meld.tombstone (
    relid      oid NOT NULL,
    -- empty: the table's last truncate
    key        bytea NOT NULL,
    -- of the delete, or of the version that was removed; -infinity: counters that wait for their row
    stamp_ts   timestamptz,
    stamp_node int,
    -- of a removal: the type of the conflict
    cause      text,
    -- the transaction that made it
    since_ts   timestamptz,
    since_node int,
    -- of tables with delta columns: key and counters, as text
    key_values text[],
    residue    text[]
);
CREATE INDEX tombstone_key ON meld.tombstone (relid, key);

-- Deleted rows of large local transactions: all keys of one that begin with the same bits.
CREATE TABLE meld.tombstone_bundle (
    relid      oid NOT NULL,
    -- how many bits, and the bits
    prefix     bytea NOT NULL,
    keys       bytea NOT NULL,
    key_count  int NOT NULL,
    -- as those of a tombstone
    stamp_ts   timestamptz,
    stamp_node int,
    since_ts   timestamptz,
    since_node int
);
CREATE INDEX tombstone_bundle_prefix ON meld.tombstone_bundle (relid, prefix);
ALTER TABLE meld.tombstone_bundle ALTER keys SET STORAGE EXTERNAL;

-- Stamps of rows whose last writer's commit does not carry the right one. They hold while the row has the same xmin.
CREATE TABLE meld.row_stamp_override (
    relid      oid,
    key        bytea,
    stamp_ts   timestamptz NOT NULL,
    stamp_node int NOT NULL,
    PRIMARY KEY (relid, key)
);
