-- What could not be applied: remote transactions that were set aside whole, and the log of why. Written by the apply
-- workers and by the functions with which an operator puts things right. The rows belong to this node and are not
-- replicated, and not in a dump: a copy of the database is another node, to which nothing of this is addressed.

-- A remote transaction that is not applied here. It stays until a replay succeeds; one that was skipped or discarded
-- stays as a note, since later changes of its origin must not take for granted that it was applied.
CREATE TABLE meld.parked_transaction (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parked_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    subscription_name name NOT NULL,
    -- from where it came: the node whose stream it was in
    provider_node     int NOT NULL,
    -- where it was first committed
    remote_origin     int NOT NULL,
    remote_commit_ts  timestamptz NOT NULL,
    -- end of its commit record at the provider, which sub_alter_skiplsn takes
    remote_commit_lsn pg_lsn NOT NULL,
    remote_xid        xid NOT NULL,
    state             text NOT NULL CHECK (state IN ('parked', 'skipped', 'discarded')),
    -- the error of the last try
    sqlstate          text,
    error_message     text,
    changes           bigint NOT NULL,
    size_bytes        bigint NOT NULL,
    -- tries to apply it again, and the last of them
    replays           int NOT NULL DEFAULT 0,
    replayed_at       timestamptz
);
CREATE INDEX parked_transaction_origin ON meld.parked_transaction (remote_origin, remote_commit_ts);
-- the oldest one that may still be applied holds the node's horizon: asked for with every heartbeat
CREATE INDEX parked_transaction_waiting ON meld.parked_transaction (remote_commit_ts) WHERE state = 'parked';

-- Its messages, as they came: the body of a transaction is all of its chunks in order, each a frame of docs/protocol.md.
CREATE TABLE meld.parked_chunk (
    parked_id bigint NOT NULL REFERENCES meld.parked_transaction ON DELETE CASCADE,
    chunk     int NOT NULL,
    body      bytea NOT NULL,
    PRIMARY KEY (parked_id, chunk)
);
-- the body is compressed already where that pays; what is left of it is read whole
ALTER TABLE meld.parked_chunk ALTER body SET STORAGE EXTENDED;

-- Each operation of a transaction that could not be applied. The error stands with the operation that failed, and with
-- all of them if it was the commit.
CREATE TABLE meld.exception_log (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_time            timestamptz NOT NULL DEFAULT clock_timestamp(),
    subscription_name   name NOT NULL,
    remote_origin       int NOT NULL,
    remote_commit_ts    timestamptz NOT NULL,
    remote_commit_lsn   pg_lsn NOT NULL,
    remote_xid          xid NOT NULL,
    -- from 1, in the order of the transaction
    command_counter     bigint NOT NULL,
    nspname             name,
    relname             name,
    operation           text NOT NULL,
    old_row             jsonb,
    new_row             jsonb,
    -- null: this operation did not fail itself
    sqlstate            text,
    error_message       text,
    exception_behaviour text NOT NULL,
    parked_id           bigint
);
CREATE INDEX exception_log_time ON meld.exception_log (log_time);

-- The remote transaction at which a subscription stands: it is too large to be kept in memory and comes again, or the
-- subscription was disabled because of it. A row at most for each.
CREATE TABLE meld.apply_failure (
    sub_id            int PRIMARY KEY REFERENCES meld.subscription ON DELETE CASCADE,
    failed_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    remote_commit_lsn pg_lsn NOT NULL,
    remote_xid        xid NOT NULL,
    tries             int NOT NULL,
    -- which of its operations failed; null: the commit
    command_counter   bigint,
    sqlstate          text NOT NULL,
    error_message     text NOT NULL,
    -- the end of a transaction that an operator wants skipped
    skip_lsn          pg_lsn
);
