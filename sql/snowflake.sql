-- Ids that no two nodes give. The layout of an id stands in docs/operations/snowflake.md and in crates/core/src/snowflake.rs.

CREATE SCHEMA snowflake;
GRANT USAGE ON SCHEMA snowflake TO PUBLIC;

-- A sequence that gives snowflake ids is stepped by the largest number there is: the server's own nextval finds no next
-- value in it, instead of one that another node may give, too.
CREATE SEQUENCE snowflake.id_seq AS bigint INCREMENT BY 9223372036854775807;
GRANT USAGE ON SEQUENCE snowflake.id_seq TO PUBLIC;
SELECT pg_catalog.setval('snowflake.id_seq', 1, true);
-- its place goes into dumps: what it gives after a restore comes behind what it gave before
SELECT pg_catalog.pg_extension_config_dump('snowflake.id_seq', '');

CREATE FUNCTION snowflake.nextval(sequence regclass = 'snowflake.id_seq') RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'snowflake_nextval';
COMMENT ON FUNCTION snowflake.nextval(regclass) IS 'draw an id that no other node draws';

CREATE FUNCTION snowflake.currval(sequence regclass = 'snowflake.id_seq') RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'snowflake_currval_wrapper';
COMMENT ON FUNCTION snowflake.currval(regclass) IS 'the id that this session has drawn last';

CREATE FUNCTION snowflake.get_epoch(snowflake bigint) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS 'SELECT pg_catalog.round(((snowflake OPERATOR(pg_catalog.>>) 22) OPERATOR(pg_catalog.+) 1672531200000)::pg_catalog.numeric OPERATOR(pg_catalog./) 1000, 3)';
COMMENT ON FUNCTION snowflake.get_epoch(bigint) IS 'when an id was drawn, in seconds since 1970';

CREATE FUNCTION snowflake.get_count(snowflake bigint) RETURNS int
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS 'SELECT ((snowflake OPERATOR(pg_catalog.>>) 10) OPERATOR(pg_catalog.&) 4095)::pg_catalog.int4';
COMMENT ON FUNCTION snowflake.get_count(bigint) IS 'the counter in an id';

CREATE FUNCTION snowflake.get_node(snowflake bigint) RETURNS int
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS 'SELECT (snowflake OPERATOR(pg_catalog.&) 1023)::pg_catalog.int4';
COMMENT ON FUNCTION snowflake.get_node(bigint) IS 'the number of the node that drew an id';

CREATE FUNCTION snowflake.format(snowflake bigint) RETURNS jsonb
LANGUAGE sql STABLE STRICT PARALLEL SAFE
AS 'SELECT pg_catalog.jsonb_build_object(''node'', snowflake.get_node(snowflake),
    ''ts'', pg_catalog.to_timestamp(snowflake.get_epoch(snowflake)::pg_catalog.float8)::pg_catalog.text,
    ''count'', snowflake.get_count(snowflake))';
COMMENT ON FUNCTION snowflake.format(bigint) IS 'the parts of an id';

-- What converted sequences were before.
CREATE TABLE meld.snowflake_sequence (
    seqid      regclass PRIMARY KEY,
    type_name  text NOT NULL,
    increment  bigint NOT NULL,
    min        bigint NOT NULL,
    max        bigint NOT NULL,
    is_cycled  boolean NOT NULL,
    last_value bigint NOT NULL,
    is_called  boolean NOT NULL,
    -- of an identity column: GENERATED ALWAYS, or BY DEFAULT
    is_always  boolean
);

CREATE FUNCTION snowflake.convert_sequence_to_snowflake(sequence regclass) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'convert_sequence_to_snowflake_wrapper';
COMMENT ON FUNCTION snowflake.convert_sequence_to_snowflake(regclass) IS 'let a sequence, and the columns that it feeds, give snowflake ids';
REVOKE ALL ON FUNCTION snowflake.convert_sequence_to_snowflake(regclass) FROM PUBLIC;

CREATE FUNCTION snowflake.convert_column_to_snowflake(relation regclass, column_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'convert_column_to_snowflake_wrapper';
COMMENT ON FUNCTION snowflake.convert_column_to_snowflake(regclass, name) IS 'let a serial or identity column get snowflake ids';
REVOKE ALL ON FUNCTION snowflake.convert_column_to_snowflake(regclass, name) FROM PUBLIC;

CREATE FUNCTION snowflake.revert_sequence(sequence regclass) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'revert_sequence_wrapper';
COMMENT ON FUNCTION snowflake.revert_sequence(regclass) IS 'undo the conversion of a sequence';
REVOKE ALL ON FUNCTION snowflake.revert_sequence(regclass) FROM PUBLIC;

CREATE FUNCTION snowflake.revert_column(relation regclass, column_name name) RETURNS boolean
LANGUAGE c VOLATILE SET search_path = pg_catalog AS 'MODULE_PATHNAME', 'revert_column_wrapper';
COMMENT ON FUNCTION snowflake.revert_column(regclass, name) IS 'undo the conversion of a column';
REVOKE ALL ON FUNCTION snowflake.revert_column(regclass, name) FROM PUBLIC;
