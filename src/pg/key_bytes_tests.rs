//! Tests of [`super::key_bytes`] against real types and their indexes, inside a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::ptr::null_mut;

    use pgrx::prelude::*;

    use crate::pg::key_bytes::{KeyColumns, RowKey, column_without_bytes};

    fn text_of(query: &str) -> String {
        Spi::get_one::<String>(query).expect("the query runs").expect("a value")
    }

    fn is_true(query: &str) -> bool {
        Spi::get_one::<bool>(query).expect("the query runs").expect("a value")
    }

    /// Key of the only row of table `k`.
    fn key() -> RowKey {
        let table = Spi::get_one::<pg_sys::Oid>("SELECT 'k'::regclass::oid").expect("the query runs").expect("a table");
        // SAFETY: inside a transaction; all that is opened is closed before the function returns
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            let columns = KeyColumns::of(relation).expect("it has a key").expect("of usable columns");
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, null_mut());
            let row = pg_sys::systable_getnext(scan);
            assert!(!row.is_null());
            let key = columns.of_tuple(row, (*relation).rd_att);
            pg_sys::systable_endscan(scan);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            key.expect("no null")
        }
    }

    /// Keys are equal just if the server takes the values for equal; ordered as it orders them, if that is asked for.
    fn compare(columns: &str, values: &[&str], is_ordered: bool) {
        Spi::run(&format!("DROP TABLE IF EXISTS k; CREATE TABLE k ({columns})")).expect("the table is made");
        let names = text_of(
            "SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a \
             WHERE a.attrelid = 'k'::regclass AND a.attnum > 0",
        );
        let types = text_of(
            "SELECT string_agg(format('x.%I::%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) \
             FROM pg_attribute a WHERE a.attrelid = 'k'::regclass AND a.attnum > 0",
        );
        let keys: Vec<RowKey> = values
            .iter()
            .map(|value| {
                Spi::run(&format!("DELETE FROM k; INSERT INTO k VALUES ({value})")).expect("the row goes in");
                key()
            })
            .collect();
        for (one, one_key) in values.iter().zip(&keys) {
            for (other, other_key) in values.iter().zip(&keys) {
                let row = |value: &str| format!("(SELECT ROW({types}) FROM (VALUES ({value})) x ({names}))");
                let pair = format!("{columns}: {one} and {other}");
                let equal = is_true(&format!("SELECT {} = {}", row(one), row(other)));
                assert_eq!(one_key == other_key, equal, "{pair}");
                if is_ordered {
                    let less = is_true(&format!("SELECT {} < {}", row(one), row(other)));
                    assert_eq!(one_key < other_key, less, "{pair}");
                }
            }
        }
    }

    #[pg_test]
    fn whole_numbers_times_and_uuids_keep_their_order() {
        compare("a int2 PRIMARY KEY", &["-32768", "-1", "0", "1", "32767"], true);
        compare("a int4 PRIMARY KEY", &["-2147483648", "-1", "0", "256", "2147483647"], true);
        compare("a int8 PRIMARY KEY", &["-9223372036854775808", "-1", "0", "9223372036854775807"], true);
        compare("a oid PRIMARY KEY", &["0", "1", "4294967295"], true);
        compare("a bool PRIMARY KEY", &["false", "true"], true);
        compare("a date PRIMARY KEY", &["'-infinity'", "'1999-12-31'", "'2000-01-01'", "'infinity'"], true);
        compare("a timestamptz PRIMARY KEY", &["'1999-12-31'", "'2000-01-01 00:00+02'", "'2000-01-01 00:00+01'"], true);
        let uuids = ["'00000000-0000-0000-0000-000000000001'", "'ffffffff-0000-0000-0000-000000000000'"];
        compare("a uuid PRIMARY KEY", &uuids, true);
    }

    #[pg_test]
    fn numbers_that_are_equal_have_equal_bytes() {
        compare(
            "a numeric PRIMARY KEY",
            &["1.0", "1.00", "1", "-1", "0.0", "-0.000", "1e20", "100000000000000000000", "'NaN'"],
            false,
        );
        compare("a float8 PRIMARY KEY", &["0.0", "'-0'", "1", "'NaN'", "'Infinity'", "-1.5"], true);
        compare("a float4 PRIMARY KEY", &["0.0", "'-0'", "0.1", "'NaN'", "-1.5"], true);
    }

    #[pg_test]
    fn texts_are_equal_by_their_bytes_and_padded_ones_without_their_blanks() {
        compare("a text PRIMARY KEY", &["''", "'a'", "'A'", "'a '", "'ä'", "'ab'", "repeat('x', 2000)"], false);
        compare("a varchar(5) PRIMARY KEY", &["'a'", "'a '", "'b'"], false);
        compare("a char(5) PRIMARY KEY", &["'a'", "'a  '", "'b'", "''", "' a'"], false);
        compare("a bytea PRIMARY KEY", &["'\\x'", "'\\x00'", "'\\x0000'", "'\\x61'"], false);
        compare("a name PRIMARY KEY", &["'a'", "'b'", "''"], false);
    }

    #[pg_test]
    fn keys_of_several_columns_do_not_run_together() {
        compare("a text, b text, PRIMARY KEY (a, b)", &["'a', 'bc'", "'ab', 'c'", "'', 'abc'", "'abc', ''"], false);
        compare(
            "a int, b char(3), c numeric, PRIMARY KEY (c, a, b)",
            &["1, 'x', 1.0", "1, 'x ', 1.00", "1, 'y', 1", "2, 'x', 1"],
            false,
        );
        compare(
            "a bytea, b int, PRIMARY KEY (a, b)",
            &["'\\x00', 0", "'\\x', 0", "'\\x0000', 0", "'\\x00ff', 0"],
            false,
        );
    }

    #[pg_test]
    fn columns_whose_equal_values_differ_in_bytes_are_named() {
        for (columns, expected) in [
            ("a int PRIMARY KEY", None),
            ("a int, v interval", None),
            ("a int, v interval, PRIMARY KEY (a, v)", Some("v")),
            ("a int[] PRIMARY KEY", Some("a")),
            ("a jsonb PRIMARY KEY", Some("a")),
        ] {
            Spi::run(&format!("DROP TABLE IF EXISTS k; CREATE TABLE k ({columns})")).expect("the table is made");
            let table =
                Spi::get_one::<pg_sys::Oid>("SELECT 'k'::regclass::oid").expect("the query runs").expect("a table");
            assert_eq!(column_without_bytes(table).as_deref(), expected, "{columns}");
        }
    }
}
