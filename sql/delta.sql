-- Delta columns: counters to which every node adds.

-- By number, since columns can be renamed. The output plugin reads it as it was at each change.
CREATE TABLE meld.delta_column (
    relid  regclass NOT NULL,
    attnum int2 NOT NULL,
    PRIMARY KEY (relid, attnum)
) WITH (user_catalog_table = true);

-- Which residue of a deleted row's counters does not count any more: the void of the later stamp does.
CREATE TABLE meld.void (
    relid          oid NOT NULL,
    key            bytea NOT NULL,
    tombstone_ts   timestamptz NOT NULL,
    tombstone_node int NOT NULL,
    -- null: those of the transaction that wrote the row
    by_ts          timestamptz,
    by_node        int,
    residue        text[] NOT NULL,
    PRIMARY KEY (relid, key, tombstone_ts, tombstone_node)
);

CREATE VIEW meld.delta_columns AS
SELECT d.relid, n.nspname, c.relname, a.attname AS column_name
  FROM meld.delta_column d
  JOIN pg_catalog.pg_class c ON c.oid = d.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.relid AND a.attnum = d.attnum AND NOT a.attisdropped;

GRANT SELECT ON meld.delta_column, meld.delta_columns TO PUBLIC;

CREATE FUNCTION meld.delta_add_column(relation regclass, column_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'delta_add_column_wrapper';
COMMENT ON FUNCTION meld.delta_add_column(regclass, name) IS 'make a column a counter to which every node adds';
REVOKE ALL ON FUNCTION meld.delta_add_column(regclass, name) FROM PUBLIC;

CREATE FUNCTION meld.delta_remove_column(relation regclass, column_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'delta_remove_column_wrapper';
COMMENT ON FUNCTION meld.delta_remove_column(regclass, name) IS 'make a counter an ordinary column again';
REVOKE ALL ON FUNCTION meld.delta_remove_column(regclass, name) FROM PUBLIC;

-- What a counter is after a remote change of it: local + (new - old). Each goes through a wider type, so that only the
-- result can be out of range.
CREATE FUNCTION meld.delta_apply(old int2, new int2, local int2) RETURNS int2
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT (local::int8 + new::int8 - old::int8)::int2';
CREATE FUNCTION meld.delta_apply(old int4, new int4, local int4) RETURNS int4
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT (local::int8 + new::int8 - old::int8)::int4';
CREATE FUNCTION meld.delta_apply(old int8, new int8, local int8) RETURNS int8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT (local::numeric + new::numeric - old::numeric)::int8';
CREATE FUNCTION meld.delta_apply(old float4, new float4, local float4) RETURNS float4
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT (local::float8 + (new::float8 - old::float8))::float4';
CREATE FUNCTION meld.delta_apply(old float8, new float8, local float8) RETURNS float8
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT local + (new - old)';
CREATE FUNCTION meld.delta_apply(old numeric, new numeric, local numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT local + (new - old)';
CREATE FUNCTION meld.delta_apply(old money, new money, local money) RETURNS money
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog
AS 'SELECT (local::numeric + new::numeric - old::numeric)::money';
COMMENT ON FUNCTION meld.delta_apply(int2, int2, int2) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(int4, int4, int4) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(int8, int8, int8) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(float4, float4, float4) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(float8, float8, float8) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(numeric, numeric, numeric) IS 'local + (new - old), as a delta column is changed by a peer';
COMMENT ON FUNCTION meld.delta_apply(money, money, money) IS 'local + (new - old), as a delta column is changed by a peer';
