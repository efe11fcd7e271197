//! A table with a column of every common type, and rows for it.

/// Types that the columns need.
pub const TYPES: &str =
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE TYPE band AS RANGE (subtype = numeric);
    CREATE TYPE point3 AS (x int, y numeric, label text); CREATE DOMAIN positive AS int CHECK (VALUE > 0)";

/// Columns, as in CREATE TABLE.
pub const COLUMNS: &str = "
    c_bool bool, c_int2 int2, c_int8 int8, c_float4 float4, c_float8 float8, c_numeric numeric, c_fixed numeric(12, 3),
    c_money money, c_text text, c_varchar varchar(20), c_bpchar char(8), c_char \"char\", c_name name, c_bytea bytea,
    c_date date, c_time time, c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval,
    c_uuid uuid, c_json json, c_jsonb jsonb, c_xml xml, c_inet inet, c_cidr cidr, c_macaddr macaddr, c_bit bit(5),
    c_varbit varbit, c_point point, c_line line, c_box box, c_path path, c_polygon polygon, c_circle circle,
    c_tsvector tsvector, c_tsquery tsquery, c_int4range int4range, c_numrange numrange, c_tstzrange tstzrange,
    c_multirange int4multirange, c_ints int[], c_texts text[], c_matrix numeric[][], c_mood mood, c_moods mood[],
    c_point3 point3, c_point3s point3[], c_positive positive, c_positives positive[], c_band band, c_regclass regclass,
    c_oid oid, c_lsn pg_lsn, c_jsonpath jsonpath";

/// Values of the columns that are like those of an application.
pub const ORDINARY: &str = "
    true, 7, 9000000000, 1.5, 0.1, 12345678901234567890.000000001, 3.142,
    '12.34', E'quote '' back\\\\slash\\ttab \u{2603}', 'short', 'pad', 'x', 'a_name', '\\x00ff10',
    '2024-02-29', '13:14:15.123456', '13:14:15+02', '2024-01-01 00:00:00.000001', '2024-01-01 12:00+05', '1 mon 2 days 3.5 s',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"b\":1,  \"a\":[1,2]}', '{\"b\":1,\"a\":[1,null,\"x\"]}', '<a b=\"c\">d</a>',
    '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'10110',
    B'1', '(1,2)', '{1,2,3}', '(3,4),(1,2)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(1,2),3>',
    'fat:1 cat:2', 'fat & !rat', '[1,10)', '(0.5,]', '[2024-01-01 00:00+00,2024-02-01 00:00+00)',
    '{[1,3),[5,7)}', '{1,NULL,3}', '{\"a b\",\"\",NULL,\"null\"}', '{{1.5,2},{3,4}}', 'happy', '{sad,ok}',
    '(1,2.50,\"a,b\")', ARRAY[ROW(1, 2, 'x')::point3, NULL], 5, '{1,2}', '[1.5,2.5]', 'pg_class',
    4294967295, '16/B374D848', '$.a[*] ? (@ > 1)'";

/// Values at the edges.
pub const EXTREME: &str = "
    false, -32768, -9223372036854775808, 'NaN', '-Infinity', 'NaN', 0,
    '-92233720368547758.08', '', '', '', '', '', '',
    'infinity', '24:00:00', '00:00+15:59', '-infinity', '4713-01-01 00:00+00 BC', '-178000000 years',
    '00000000-0000-0000-0000-000000000000', 'null', 'null', '', '::/0', '::1/128', 'ff:ff:ff:ff:ff:ff', B'00000',
    B'', '(-0,1e300)', '{1,0,-5}', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>',
    '', '', 'empty', '(,)', '(,)',
    '{}', '{}', '[2:3]={a,b}', '{}', 'sad', '{}',
    '(,,)', '{}', NULL, '{}', '(,)', NULL, 0, '0/0', '$'";
