//! Tests of [`super::clash`], inside a server. What another session does at the same time is done by `psql`, which the
//! server starts; such a test makes its table there, where it is committed, and drops it there.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::time::{Duration, Instant};

    use meld_core::ids::RelId;
    use meld_core::value::{Tuple, Value};
    use meld_core::wire::{Column, RelationDescription};
    use pgrx::prelude::*;

    use crate::log::Result;
    use crate::pg::Snapshots;
    use crate::pg::clash::Clash;
    use crate::pg::executor::ChangeMemory;
    use crate::pg::origin::Writer;
    use crate::pg::target::Target;
    use crate::pg::xact::Xact;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn run(sql: &str) {
        Spi::run(sql).expect("the statement runs");
    }

    fn text_of(query: &str) -> Option<String> {
        Spi::get_one::<String>(query).expect("the query runs")
    }

    /// A table of the schema public with text columns, of which the first is the key.
    fn described(table: &str, columns: &[&str]) -> RelationDescription {
        let column = |(i, name): (usize, &&str)| Column {
            name: (*name).to_owned(),
            type_oid: pg_sys::TEXTOID.to_u32(),
            type_modifier: -1,
            is_key: i == 0,
            is_delta: false,
        };
        RelationDescription {
            id: RelId(1),
            schema: "public".to_owned(),
            name: table.to_owned(),
            columns: columns.iter().enumerate().map(column).collect(),
        }
    }

    fn row(values: &[&str]) -> Tuple {
        values.iter().map(|text| if *text == "null" { Value::Null } else { Value::Text(text.as_bytes()) }).collect()
    }

    fn change<T>(description: &RelationDescription, tuple: &Tuple, work: impl FnOnce(&mut Target) -> Result<T>) -> T {
        let xact = Xact::of_backend();
        let memory = ChangeMemory::new(&xact);
        let mut target = Target::open(&xact, &std::rc::Rc::new(description.clone())).expect("the table is there");
        target.begin_change(&memory);
        target.read(tuple).expect("the row is read");
        let result = work(&mut target).expect("the work is done");
        target.end_change(&memory);
        target.close();
        result
    }

    fn clashes_of(description: &RelationDescription, values: &[&str]) -> Vec<Clash> {
        change(description, &row(values), |target| {
            target.find(false, Snapshots::FromActive)?;
            target.clashes()
        })
    }

    /// Keys, with a single column, of the rows that a row of table t would clash with.
    fn keys(columns: &[&str], values: &[&str]) -> Vec<String> {
        let clashes = clashes_of(&described("t", columns), values);
        clashes.iter().map(|clash| first_value(&clash.key)).collect()
    }

    fn first_value(tuple: &Tuple) -> String {
        String::from_utf8_lossy(tuple.values().next().expect("a column").bytes()).into_owned()
    }

    #[pg_test]
    fn a_table_with_one_index_has_no_clashes() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int)");
        run("CREATE INDEX ON t (a)");
        run("INSERT INTO t VALUES (1, 10)");
        assert!(keys(&["id", "a"], &["1", "10"]).is_empty());
        assert!(keys(&["id", "a"], &["2", "10"]).is_empty());
    }

    #[pg_test]
    fn each_row_in_the_way_is_told_once() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE, b text UNIQUE, c int, UNIQUE (b, c))");
        run("INSERT INTO t VALUES (1, 10, 'x', 1), (2, 20, 'y', 2), (3, 30, 'z', 3)");
        let columns = ["id", "a", "b", "c"];
        assert_eq!(keys(&columns, &["4", "40", "w", "1"]), [""; 0]);
        assert_eq!(keys(&columns, &["4", "10", "w", "1"]), ["1"]);
        assert_eq!(keys(&columns, &["4", "10", "x", "1"]), ["1"], "one row in three indexes");
        assert_eq!(keys(&columns, &["4", "30", "y", "2"]), ["3", "2"], "two rows");
        assert_eq!(keys(&columns, &["4", "null", "null", "null"]), [""; 0], "null is equal to nothing");
        let clash = clashes_of(&described("t", &columns), &["4", "10", "w", "1"]).remove(0);
        assert_eq!(clash.writer, Writer::ThisTransaction);
        assert_eq!(Some(clash.xmin.0.to_string()), text_of("SELECT xmin::text FROM t WHERE id = 1"));
        assert_eq!(clash.key, row(&["1", "null", "null", "null"]));
        assert_eq!(clash.index, "t_a_key");
        let indexes = |values| {
            let clashes = clashes_of(&described("t", &columns), values);
            clashes.into_iter().map(|clash| clash.index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&["4", "10", "x", "1"]), ["t_a_key"], "the first of three");
        assert_eq!(indexes(&["4", "30", "y", "2"]), ["t_a_key", "t_b_key"]);
    }

    #[pg_test]
    fn a_row_is_not_in_its_own_way() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE, b text)");
        run("INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y')");
        let columns = ["id", "a", "b"];
        assert_eq!(keys(&columns, &["1", "10", "new"]), [""; 0]);
        assert_eq!(keys(&columns, &["1", "20", "new"]), ["2"]);
        assert_eq!(keys(&columns, &["1", "30", "new"]), [""; 0]);
        // an earlier version of this transaction, and a row that it has deleted
        run("UPDATE t SET a = 30 WHERE id = 1");
        assert_eq!(keys(&columns, &["1", "10", "new"]), [""; 0]);
        assert_eq!(keys(&columns, &["3", "30", "new"]), ["1"]);
        run("DELETE FROM t WHERE id = 2");
        assert_eq!(keys(&columns, &["3", "20", "new"]), [""; 0]);
    }

    #[pg_test]
    fn values_that_the_stream_left_out_come_from_the_row_found() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int UNIQUE)");
        run("INSERT INTO t VALUES (1, 'one', 10), (2, 'two', 20)");
        let left_out: Tuple = [Value::Text(b"1"), Value::Unchanged, Value::Text(b"20")].into_iter().collect();
        let clashes = change(&described("t", &["id", "a", "b"]), &left_out, |target| {
            target.find(false, Snapshots::FromActive)?;
            target.clashes()
        });
        assert_eq!(clashes.iter().map(|clash| first_value(&clash.key)).collect::<Vec<_>>(), ["2"]);
    }

    #[pg_test]
    fn partial_indexes_count_for_their_rows_only() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int, gone boolean)");
        run("CREATE UNIQUE INDEX ON t (a) WHERE NOT gone");
        run("INSERT INTO t VALUES (1, 10, false), (2, 10, true), (3, 30, true), (4, 40, null)");
        let columns = ["id", "a", "gone"];
        assert_eq!(keys(&columns, &["5", "10", "f"]), ["1"]);
        assert_eq!(keys(&columns, &["5", "10", "t"]), [""; 0]);
        assert_eq!(keys(&columns, &["5", "10", "null"]), [""; 0]);
        assert_eq!(keys(&columns, &["5", "30", "f"]), [""; 0]);
        assert_eq!(keys(&columns, &["5", "40", "f"]), [""; 0]);
        // the value stays, but the row comes under the predicate now
        assert_eq!(keys(&columns, &["2", "10", "f"]), ["1"]);
        assert_eq!(keys(&columns, &["1", "10", "f"]), [""; 0]);
    }

    #[pg_test]
    fn expressions_and_generated_columns_are_computed() {
        run("CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text GENERATED ALWAYS AS (b || '!') STORED UNIQUE)");
        run("CREATE UNIQUE INDEX ON t (lower(a), (length(b)))");
        run("INSERT INTO t VALUES (1, 'One', 'x'), (2, 'Two', 'yy')");
        let columns = ["id", "a", "b"];
        assert_eq!(keys(&columns, &["3", "ONE", "z"]), ["1"]);
        assert_eq!(keys(&columns, &["3", "ONE", "zzz"]), [""; 0]);
        assert_eq!(keys(&columns, &["3", "three", "yy"]), ["2"]);
        assert_eq!(keys(&columns, &["1", "two", "yy"]), ["2"], "in two indexes");
        assert_eq!(keys(&columns, &["1", "ONE", "x"]), [""; 0], "equal, but not the same");
        change(&described("t", &columns), &row(&["3", "three", "z"]), |target| {
            assert!(target.clashes()?.is_empty());
            target.insert()
        });
        assert_eq!(text_of("SELECT c FROM t WHERE id = 3"), Some("z!".to_owned()));
    }

    #[pg_test]
    fn nulls_that_are_not_distinct_clash() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b))");
        run("INSERT INTO t VALUES (1, 10, null), (2, null, null)");
        let columns = ["id", "a", "b"];
        assert_eq!(keys(&columns, &["3", "10", "null"]), ["1"]);
        assert_eq!(keys(&columns, &["3", "null", "null"]), ["2"]);
        assert_eq!(keys(&columns, &["3", "null", "10"]), [""; 0]);
    }

    #[pg_test]
    fn defaults_count_and_are_computed_once() {
        run("CREATE SEQUENCE s");
        run("CREATE TABLE t (id int PRIMARY KEY, a int, n int DEFAULT nextval('s') UNIQUE)");
        run("INSERT INTO t VALUES (1, 10, 2)");
        run("SELECT nextval('s')");
        change(&described("t", &["id", "a"]), &row(&["2", "20"]), |target| {
            assert_eq!(target.clashes()?.len(), 1);
            Ok(())
        });
        change(&described("t", &["id", "a"]), &row(&["2", "20"]), |target| {
            assert!(target.clashes()?.is_empty());
            target.insert()
        });
        assert_eq!(text_of("SELECT n::text FROM t WHERE id = 2"), Some("3".to_owned()));
    }

    #[pg_test]
    fn the_primary_key_counts_where_another_index_finds_the_rows() {
        run("CREATE TABLE t (id int PRIMARY KEY, k text NOT NULL UNIQUE)");
        run("ALTER TABLE t REPLICA IDENTITY USING INDEX t_k_key");
        run("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
        assert_eq!(keys(&["k", "id"], &["c", "1"]), ["a"]);
        assert_eq!(keys(&["k", "id"], &["a", "2"]), ["b"]);
        assert_eq!(keys(&["k", "id"], &["a", "3"]), [""; 0]);
    }

    #[pg_test]
    fn lenient_constraints_are_looked_into_as_well() {
        run("CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE DEFERRABLE INITIALLY DEFERRED, r int4range,
             EXCLUDE USING gist (r WITH &&))");
        run("INSERT INTO t VALUES (1, 10, '[1,5)'), (2, 20, '[5,9)')");
        assert_eq!(keys(&["id", "a", "r"], &["3", "10", "[20,30)"]), ["1"]);
        assert_eq!(keys(&["id", "a", "r"], &["3", "30", "[4,6)"]), ["1", "2"]);
        assert_eq!(keys(&["id", "a", "r"], &["1", "10", "[1,6)"]), ["2"]);
    }

    #[pg_test]
    fn expressions_run_as_the_owner() {
        run("CREATE ROLE t_owner");
        run("CREATE FUNCTION spy(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('meld_test.who', current_user, true); RETURN a; END$$");
        run("CREATE TABLE t (id int PRIMARY KEY, a int)");
        run("CREATE UNIQUE INDEX ON t (spy(a))");
        run("ALTER TABLE t OWNER TO t_owner");
        run("CREATE FUNCTION guard(a int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
             $$BEGIN RETURN current_user = 't_owner'; END$$");
        run("CREATE UNIQUE INDEX ON t (id) WHERE guard(a)");
        run("INSERT INTO t VALUES (1, 10)");
        run("SELECT set_config('meld_test.who', '', true)");
        let before = text_of("SELECT current_user::text");
        let values = ["2", "10"];
        assert_eq!(keys(&["id", "a"], &values), ["1"]);
        assert_eq!(text_of("SELECT current_user::text"), before);
        assert_eq!(text_of("SELECT nullif(current_setting('meld_test.who', true), '')"), None, "settings are put back");
    }

    /// Runs statements in a session of its own; the shell's redirections and what follows say whether to wait.
    fn psql(sql: &str, then: &str) {
        let setting = |name: &str| text_of(&format!("SELECT current_setting('{name}')")).expect("a setting");
        let binaries = text_of("SELECT setting FROM pg_config WHERE name = 'BINDIR'").expect("the server's binaries");
        let database = text_of("SELECT current_database()::text").expect("a database");
        let user = text_of("SELECT current_user::text").expect("a user");
        let sockets = setting("unix_socket_directories");
        let socket = sockets.split(',').next().unwrap_or_default().trim().to_owned();
        // COPY's one empty line has to be taken
        let program = format!(
            "cat >/dev/null; {binaries}/psql -X -q -v ON_ERROR_STOP=1 -h {socket} -p {} -U {user} -d {database} <<'END' >/dev/null {then}\n\
             {sql}\nEND\n",
            setting("port")
        );
        run(&format!("COPY (SELECT) TO PROGRAM {}", pgrx::spi::quote_literal(program)));
    }

    fn elsewhere(sql: &str) {
        psql(sql, "");
    }

    /// Goes on at once.
    fn meanwhile(sql: &str) {
        psql(sql, "2>&1 &");
    }

    fn until(what: &str) {
        let end = Instant::now() + DEADLINE;
        while text_of(&format!("SELECT ({what})::text")) != Some("true".to_owned()) {
            assert!(Instant::now() < end, "never came true: {what}");
        }
    }

    /// Statements that go on when some transaction waits for this one.
    const UNTIL_SOMEBODY_WAITS: &str = "DO $$BEGIN FOR i IN 1..100000 LOOP
        IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted
            AND transactionid = pg_current_xact_id()::xid) THEN RETURN; END IF;
        PERFORM pg_sleep(0.01); EXIT WHEN i > 3000; END LOOP; RAISE 'nobody waits'; END$$;";

    /// What a transaction that another session has open at first, and ends once it is waited for, leaves in the way.
    fn against(table: &str, change: &str, end: &str) -> Vec<String> {
        elsewhere(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, a int UNIQUE, b text);
             INSERT INTO {table} VALUES (1, 10, 'x'), (2, 20, 'y');"
        ));
        meanwhile(&format!(
            "BEGIN; {change}; SELECT pg_advisory_xact_lock(4711, '{table}'::regclass::oid::int);
             {UNTIL_SOMEBODY_WAITS} {end};"
        ));
        until(&format!(
            "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 4711
             AND objid = '{table}'::regclass::oid)"
        ));
        let clashes = clashes_of(&described(table, &["id", "a", "b"]), &["3", "30", "new"]);
        let found = clashes.iter().map(|clash| first_value(&clash.key)).collect();
        assert!(clashes.iter().all(|clash| matches!(clash.writer, Writer::Committed(_))), "{clashes:?}");
        found
    }

    /// Drops the table once this transaction has given it back.
    fn drop_later(table: &str) {
        meanwhile(&format!("DROP TABLE {table};"));
    }

    #[pg_test]
    fn an_insert_in_progress_is_waited_for() {
        let insert = "INSERT INTO clash_insert VALUES (9, 30, 'z')";
        assert_eq!(against("clash_insert", insert, "COMMIT"), ["9"]);
        drop_later("clash_insert");
    }

    #[pg_test]
    fn an_insert_that_is_taken_back_is_no_clash() {
        let insert = "INSERT INTO clash_undone VALUES (9, 30, 'z')";
        assert_eq!(against("clash_undone", insert, "ROLLBACK"), [""; 0]);
        drop_later("clash_undone");
    }

    #[pg_test]
    fn an_update_in_progress_is_waited_for() {
        let update = "UPDATE clash_update SET a = 30 WHERE id = 2";
        assert_eq!(against("clash_update", update, "COMMIT"), ["2"]);
        drop_later("clash_update");
    }

    #[pg_test]
    fn a_row_that_leaves_the_index_while_it_is_waited_for_is_no_clash() {
        let change =
            "UPDATE clash_leave SET a = 30 WHERE id = 2; SAVEPOINT s; UPDATE clash_leave SET b = 'w' WHERE id = 2";
        assert_eq!(against("clash_leave", change, "UPDATE clash_leave SET a = 31 WHERE id = 2; COMMIT"), [""; 0]);
        drop_later("clash_leave");
    }

    #[pg_test]
    fn a_delete_in_progress_is_waited_for() {
        for (end, left) in [("COMMIT", vec![]), ("ROLLBACK", vec!["9".to_owned()])] {
            let table = format!("clash_delete_{}", end.to_lowercase());
            // the row is committed after the table was made, and before the delete
            let change =
                format!("INSERT INTO {table} VALUES (9, 30, 'z'); COMMIT; BEGIN; DELETE FROM {table} WHERE id = 9");
            assert_eq!(against(&table, &change, end), left, "{end}");
            drop_later(&table);
        }
    }

    #[pg_test]
    fn a_row_that_was_found_stays_as_it_is() {
        elsewhere(
            "CREATE TABLE clash_locked (id int PRIMARY KEY, a int UNIQUE); INSERT INTO clash_locked VALUES (1, 10);",
        );
        assert_eq!(clashes_of(&described("clash_locked", &["id", "a"]), &["2", "10"]).len(), 1);
        meanwhile("SET lock_timeout = '30s'; UPDATE clash_locked SET a = 11;");
        until("EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid)");
        assert_eq!(text_of("SELECT a::text FROM clash_locked"), Some("10".to_owned()));
        drop_later("clash_locked");
    }
}
