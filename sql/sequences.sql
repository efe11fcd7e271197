-- Ordinary sequences in replication sets: subscribers keep theirs ahead of the provider's by a safety distance.

CREATE TABLE meld.replication_set_sequence (
    set_id int NOT NULL REFERENCES meld.replication_set ON DELETE CASCADE,
    seqid  regclass NOT NULL,
    PRIMARY KEY (seqid, set_id)
);

-- Where a sequence was set to keep ahead of another node's: what is there was drawn by nobody on this node.
CREATE TABLE meld.sequence_sync (
    seqid     regclass PRIMARY KEY,
    set_to    bigint NOT NULL,
    synced_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT ON meld.replication_set_sequence, meld.sequence_sync TO PUBLIC;

-- For subscribers with the right to a replication slot: how far this node has drawn from the sequences of some sets; null
-- if it has drawn nothing since it was set.
CREATE FUNCTION meld.sequence_positions(replication_sets text[])
RETURNS TABLE (nspname name, relname name, increment bigint, drawn bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT n.nspname, c.relname, q.seqincrement,
           CASE WHEN v.last_value IS DISTINCT FROM y.set_to THEN v.last_value END
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_sequence q ON q.seqrelid = c.oid
      LEFT JOIN meld.sequence_sync y ON y.seqid = c.oid
      CROSS JOIN LATERAL (SELECT pg_sequence_last_value(c.oid) AS last_value) v
     WHERE c.oid IN (SELECT m.seqid FROM meld.replication_set_sequence m JOIN meld.replication_set s USING (set_id)
                      WHERE s.set_name = ANY (replication_sets::name[]))
       AND q.seqincrement <> 9223372036854775807
       AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = session_user AND (r.rolsuper OR r.rolreplication))
     ORDER BY 1, 2
$$;
COMMENT ON FUNCTION meld.sequence_positions(text[]) IS 'how far this node has drawn from sequences, for a subscriber';

CREATE FUNCTION meld.repset_add_seq(set_name name, relation regclass, synchronize_data boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_add_seq_wrapper';
COMMENT ON FUNCTION meld.repset_add_seq(name, regclass, boolean) IS 'add a sequence to a replication set';
REVOKE ALL ON FUNCTION meld.repset_add_seq(name, regclass, boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_add_all_seqs(set_name name, schema_names text[], synchronize_data boolean = false) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_add_all_seqs_wrapper';
COMMENT ON FUNCTION meld.repset_add_all_seqs(name, text[], boolean) IS 'add all sequences of some schemas to a replication set';
REVOKE ALL ON FUNCTION meld.repset_add_all_seqs(name, text[], boolean) FROM PUBLIC;

CREATE FUNCTION meld.repset_remove_seq(set_name name, relation regclass) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'repset_remove_seq_wrapper';
COMMENT ON FUNCTION meld.repset_remove_seq(name, regclass) IS 'remove a sequence from a replication set';
REVOKE ALL ON FUNCTION meld.repset_remove_seq(name, regclass) FROM PUBLIC;

CREATE FUNCTION meld.sync_seq(relation regclass) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'sync_seq_wrapper';
COMMENT ON FUNCTION meld.sync_seq(regclass) IS 'bring a sequence here ahead of all providers that have it in a set';
REVOKE ALL ON FUNCTION meld.sync_seq(regclass) FROM PUBLIC;
