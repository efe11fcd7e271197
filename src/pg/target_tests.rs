//! Tests of [`super::target`] and what it stands on, inside a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use meld_core::ids::RelId;
    use meld_core::value::{Tuple, Value};
    use meld_core::wire::{Column, RelationDescription};
    use pgrx::prelude::*;

    use crate::log::Result;
    use crate::pg::Snapshots;
    use crate::pg::executor::ChangeMemory;
    use crate::pg::origin::Writer;
    use crate::pg::target::{RowSide, Target};
    use crate::pg::xact::Xact;

    const INT4: u32 = 23;
    const TEXT: u32 = 25;

    fn described(columns: &[(&str, u32, bool)]) -> RelationDescription {
        RelationDescription {
            id: RelId(1),
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns: columns
                .iter()
                .map(|&(name, type_oid, is_key)| Column {
                    name: name.to_owned(),
                    type_oid,
                    type_modifier: -1,
                    is_key,
                    is_delta: false,
                })
                .collect(),
        }
    }

    fn id_and_v() -> RelationDescription {
        described(&[("id", INT4, true), ("v", TEXT, false)])
    }

    fn row<'a>(values: impl IntoIterator<Item = Value<'a>>) -> Tuple {
        values.into_iter().collect()
    }

    /// One change on table `t` as the apply worker makes it.
    fn change<T>(
        description: &RelationDescription,
        tuple: &Tuple,
        work: impl FnOnce(&mut Target) -> Result<T>,
    ) -> Result<T> {
        let xact = Xact::of_backend();
        let memory = ChangeMemory::new(&xact);
        let mut target = Target::open(&xact, &std::rc::Rc::new(description.clone()))?;
        target.begin_change(&memory);
        target.read(tuple)?;
        let result = work(&mut target)?;
        target.end_change(&memory);
        target.close();
        Ok(result)
    }

    fn create(sql: &str) {
        Spi::run(sql).expect("the table is made");
    }

    fn text_of(query: &str) -> Option<String> {
        Spi::get_one::<String>(query).expect("the query runs")
    }

    #[pg_test]
    fn a_row_goes_in_is_found_changes_and_goes() {
        create("CREATE TABLE t (id int PRIMARY KEY, v text, extra int DEFAULT 7)");
        let id = 5_i32.to_be_bytes();
        let first = row([Value::Binary(&id), Value::Text(b"one")]);
        let missing = change(&id_and_v(), &first, |t| t.find(false, Snapshots::FromActive)).expect("find");
        assert_eq!(missing, None);
        change(&id_and_v(), &first, |t| t.insert()).expect("insert");
        assert_eq!(text_of("SELECT t::text FROM t"), Some("(5,one,7)".to_owned()));
        create("UPDATE t SET extra = 8");
        let second = row([Value::Text(b"5"), Value::Binary(b"two")]);
        let writer = change(&id_and_v(), &second, |t| {
            let writer = t.find(false, Snapshots::FromActive)?;
            t.update();
            Ok(writer)
        });
        assert_eq!(writer.expect("update").map(|found| found.writer), Some(Writer::ThisTransaction));
        assert_eq!(text_of("SELECT t::text FROM t"), Some("(5,two,8)".to_owned()));
        change(&id_and_v(), &second, |t| {
            t.find(true, Snapshots::FromActive)?;
            t.delete();
            Ok(())
        })
        .expect("delete");
        assert_eq!(text_of("SELECT count(*)::text FROM t"), Some("0".to_owned()));
    }

    #[pg_test]
    fn values_of_other_types_are_converted() {
        create("CREATE TABLE t (id numeric PRIMARY KEY, v text)");
        let id = 5_i32.to_be_bytes();
        change(&id_and_v(), &row([Value::Binary(&id), Value::Null]), |t| t.insert()).expect("insert");
        assert_eq!(text_of("SELECT t::text FROM t"), Some("(5,)".to_owned()));
    }

    #[pg_test]
    fn a_left_out_value_is_kept_in_an_update_and_never_invented_in_an_insert() {
        create("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let id = 5_i32.to_be_bytes();
        let without = row([Value::Binary(&id), Value::Unchanged]);
        let failure = change(&id_and_v(), &without, |t| t.insert()).expect_err("nothing to take the value from");
        assert_eq!(failure.code, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR);
        create("INSERT INTO t VALUES (5, 'big')");
        change(&id_and_v(), &without, |t| {
            t.find(false, Snapshots::FromActive)?;
            assert!(!t.row_json(RowSide::Remote).contains("big"));
            t.update();
            Ok(())
        })
        .expect("update");
        assert_eq!(text_of("SELECT v FROM t"), Some("big".to_owned()));
    }

    #[pg_test]
    fn generated_columns_are_computed_and_dropped_ones_are_skipped() {
        create("CREATE TABLE t (gone int, id int PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (id * 2) STORED)");
        create("ALTER TABLE t DROP COLUMN gone");
        let id = 5_i32.to_be_bytes();
        change(&id_and_v(), &row([Value::Binary(&id), Value::Null]), |t| t.insert()).expect("insert");
        assert_eq!(text_of("SELECT t::text FROM t"), Some("(5,,10)".to_owned()));
    }

    #[pg_test]
    fn a_column_that_is_missing_here_is_named() {
        create("CREATE TABLE t (id int PRIMARY KEY)");
        let failure = change(&id_and_v(), &row([]), |_| Ok(())).expect_err("no column v");
        assert_eq!(failure.message, "table \"public.t\" has no column for \"v\"");
    }

    #[pg_test]
    fn a_table_that_is_missing_here_is_named() {
        let failure = change(&id_and_v(), &row([]), |_| Ok(())).expect_err("no table");
        assert_eq!(failure.code, PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE);
    }

    #[pg_test]
    fn a_row_of_the_wrong_width_is_a_protocol_error() {
        create("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let failure = change(&id_and_v(), &row([Value::Null]), |_| Ok(())).expect_err("one value for two columns");
        assert_eq!(failure.code, PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION);
    }

    #[pg_test(error = "invalid input syntax for type integer: \"five\"")]
    fn a_value_that_the_type_refuses_raises() {
        create("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let _ = change(&id_and_v(), &row([Value::Text(b"five"), Value::Null]), |_| Ok(()));
    }

    #[pg_test]
    fn a_table_without_a_key_takes_inserts_and_refuses_to_look() {
        create("CREATE TABLE t (id int, v text)");
        let id = 5_i32.to_be_bytes();
        let tuple = row([Value::Binary(&id), Value::Null]);
        change(&id_and_v(), &tuple, |t| t.insert()).expect("insert");
        let failure = change(&id_and_v(), &tuple, |t| t.find(false, Snapshots::FromActive)).expect_err("no key");
        assert_eq!(failure.code, PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE);
    }

    #[pg_test]
    fn triggers_of_the_table_run_as_its_owner() {
        create("CREATE ROLE t_owner");
        create("CREATE TABLE t (id int PRIMARY KEY, v text)");
        create("ALTER TABLE t OWNER TO t_owner");
        create(
            "CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN NEW.v := current_user; RETURN NEW; END$$",
        );
        create("CREATE TRIGGER who BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION who()");
        create("ALTER TABLE t ENABLE ALWAYS TRIGGER who");
        let id = 5_i32.to_be_bytes();
        change(&id_and_v(), &row([Value::Binary(&id), Value::Null]), |t| t.insert()).expect("insert");
        assert_eq!(text_of("SELECT v FROM t"), Some("t_owner".to_owned()));
        assert_ne!(text_of("SELECT current_user::text"), Some("t_owner".to_owned()));
    }

    #[pg_test]
    fn settings_that_a_trigger_changes_are_put_back() {
        create("CREATE TABLE t (id int PRIMARY KEY, v text)");
        create(
            "CREATE FUNCTION hijack() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('search_path', 'elsewhere', false); RETURN NULL; END$$",
        );
        create("CREATE TRIGGER hijack AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION hijack()");
        create("ALTER TABLE t ENABLE ALWAYS TRIGGER hijack");
        let before = text_of("SELECT current_setting('search_path')");
        let id = 5_i32.to_be_bytes();
        change(&id_and_v(), &row([Value::Binary(&id), Value::Null]), |t| t.insert()).expect("insert");
        assert_eq!(text_of("SELECT current_setting('search_path')"), before);
    }
}
