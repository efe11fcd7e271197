//! Tests of [`super::foreign_key`] together with [`crate::pg::foreign_keys`], inside a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use meld_core::ids::RelId;
    use meld_core::value::{Tuple, Value};
    use meld_core::wire::{Column, RelationDescription};
    use pgrx::prelude::*;

    use crate::catalog::foreign_key;
    use crate::log::Result;
    use crate::pg::executor::ChangeMemory;
    use crate::pg::target::Target;
    use crate::pg::xact::Xact;
    use crate::pg::{Oid, Snapshots};

    const TEXT: u32 = 25;

    fn run(sql: &str) {
        Spi::run(sql).expect("the statements run");
    }

    /// Rows, as "table(key, ...)", that refer to the row of a table in schema public whose key, the first column, is this.
    fn children_of(table: &str, key_column: &str, key: &str) -> Result<Vec<String>> {
        let description = RelationDescription {
            id: RelId(1),
            schema: "public".to_owned(),
            name: table.to_owned(),
            columns: vec![Column {
                name: key_column.to_owned(),
                type_oid: TEXT,
                type_modifier: -1,
                is_key: true,
                is_delta: false,
            }],
        };
        let xact = Xact::of_backend();
        let memory = ChangeMemory::new(&xact);
        let oid = Spi::get_one::<Oid>(&format!("SELECT 'public.{table}'::regclass::oid"));
        let keys = foreign_key::to_table(oid.expect("the query runs").expect("an oid"))?;
        let mut target = Target::open(&xact, &std::rc::Rc::new(description.clone()))?;
        target.begin_change(&memory);
        let tuple: Tuple = [Value::Text(key.as_bytes())].into_iter().collect();
        target.read(&tuple)?;
        assert!(target.find(true, Snapshots::Fresh)?.is_some(), "the parent is there");
        let children = target.children(&keys)?;
        target.end_change(&memory);
        target.close();
        let mut shown: Vec<String> = children
            .iter()
            .map(|child| {
                let values: Vec<&str> = child.key.iter().map(|(_, value)| value.as_str()).collect();
                format!("{}({})", child.table, values.join(", "))
            })
            .collect();
        shown.sort();
        Ok(shown)
    }

    fn children(table: &str, key_column: &str, key: &str) -> Vec<String> {
        children_of(table, key_column, key).expect("children")
    }

    #[pg_test]
    fn rows_of_all_foreign_keys_are_found_once() {
        run("CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE)");
        run("CREATE TABLE restricted (id int PRIMARY KEY, p int REFERENCES p)");
        run("CREATE TABLE cascaded (a int, b text, p bigint REFERENCES p ON DELETE CASCADE, PRIMARY KEY (b, a))");
        run("CREATE TABLE emptied (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL, \
             code text REFERENCES p (code) DEFERRABLE INITIALLY DEFERRED)");
        run("CREATE TABLE other (id int PRIMARY KEY, p int)");
        run("INSERT INTO p VALUES (1, 'one'), (2, 'two'), (3, NULL)");
        run("INSERT INTO restricted VALUES (10, 1), (11, 2), (12, NULL), (13, 1)");
        run("INSERT INTO cascaded VALUES (1, 'x', 1), (2, 'y', 2)");
        run("INSERT INTO emptied VALUES (20, 1, 'one'), (21, 2, 'one'), (22, NULL, 'two'), (23, NULL, NULL)");
        run("INSERT INTO other VALUES (1, 1)");
        let of_one = ["cascaded(x, 1)", "emptied(20)", "emptied(21)", "restricted(10)", "restricted(13)"];
        assert_eq!(children("p", "id", "1"), of_one);
        assert_eq!(children("p", "id", "2"), ["cascaded(y, 2)", "emptied(21)", "emptied(22)", "restricted(11)"]);
        assert_eq!(children("p", "id", "3"), [""; 0]);
        run("DELETE FROM restricted");
        assert_eq!(children("p", "id", "1"), ["cascaded(x, 1)", "emptied(20)", "emptied(21)"], "own changes count");
    }

    #[pg_test]
    fn composite_keys_match_as_they_should() {
        run("CREATE TABLE p (id int PRIMARY KEY, a int, b text, UNIQUE (b, a))");
        run("CREATE TABLE simple (id int PRIMARY KEY, a int, b text, FOREIGN KEY (a, b) REFERENCES p (a, b))");
        run("CREATE TABLE complete (id int PRIMARY KEY, a int, b text, \
             FOREIGN KEY (b, a) REFERENCES p (b, a) MATCH FULL)");
        run("INSERT INTO p VALUES (1, 1, 'x'), (2, 1, 'y'), (3, NULL, 'x')");
        run("INSERT INTO simple VALUES (10, 1, 'x'), (11, 1, NULL), (12, 1, 'y'), (13, NULL, 'x')");
        run("INSERT INTO complete VALUES (20, 1, 'x'), (21, NULL, NULL)");
        assert_eq!(children("p", "id", "1"), ["complete(20)", "simple(10)"]);
        assert_eq!(children("p", "id", "3"), [""; 0]);
    }

    #[pg_test]
    fn a_row_that_refers_to_itself_is_not_its_own_child() {
        run("CREATE TABLE p (id int PRIMARY KEY, p int REFERENCES p)");
        run("INSERT INTO p VALUES (1, 1), (2, 1), (3, 2)");
        assert_eq!(children("p", "id", "1"), ["p(2)"]);
        assert_eq!(children("p", "id", "2"), ["p(3)"]);
    }

    #[pg_test]
    fn partitions_on_both_sides_are_looked_into() {
        run("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)");
        run("CREATE TABLE p_low (gone int, id int NOT NULL)");
        run("ALTER TABLE p_low DROP COLUMN gone");
        run("ALTER TABLE p ATTACH PARTITION p_low FOR VALUES FROM (0) TO (100)");
        run("CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (100) TO (200)");
        run("CREATE TABLE c (id int, p int REFERENCES p, PRIMARY KEY (id)) PARTITION BY LIST (id)");
        run("CREATE TABLE c_1 PARTITION OF c FOR VALUES IN (1) PARTITION BY LIST (id)");
        run("CREATE TABLE c_1_1 PARTITION OF c_1 FOR VALUES IN (1)");
        run("CREATE TABLE c_2 (gone int, p int, id int NOT NULL)");
        run("ALTER TABLE c_2 DROP COLUMN gone");
        run("ALTER TABLE c ATTACH PARTITION c_2 FOR VALUES IN (2)");
        run("CREATE TABLE plain (id int PRIMARY KEY, p int REFERENCES p)");
        run("INSERT INTO p VALUES (5), (105)");
        run("INSERT INTO c VALUES (1, 5), (2, 5)");
        run("INSERT INTO plain VALUES (7, 105), (8, 5)");
        assert_eq!(children("p_low", "id", "5"), ["c_1_1(1)", "c_2(2)", "plain(8)"]);
        assert_eq!(children("p_high", "id", "105"), ["plain(7)"]);
    }

    #[pg_test]
    fn types_names_and_collations_are_no_hindrance() {
        run("CREATE DOMAIN code AS varchar(10); CREATE TYPE mood AS ENUM ('sad', 'ok')");
        run("CREATE TABLE p (id int PRIMARY KEY, code code UNIQUE COLLATE \"C\", mood mood UNIQUE, n int2 UNIQUE, \
             ch char(5) UNIQUE)");
        run("CREATE SCHEMA \"Other Schema\"");
        run("CREATE TABLE \"Other Schema\".\"The \"\"Child\" (\"Key\" boolean PRIMARY KEY, \
             \"a Code\" text COLLATE \"POSIX\" REFERENCES p (code), mood mood REFERENCES p (mood), \
             n numeric, big int8 REFERENCES p (n), ch char(5) REFERENCES p (ch))");
        run("INSERT INTO p VALUES (1, 'a', 'ok', 1, 'c'), (2, 'b', 'sad', 2, 'd')");
        let insert = "INSERT INTO \"Other Schema\".\"The \"\"Child\"";
        for values in [
            "'a', NULL, 1, NULL, NULL",
            "NULL, 'ok', 1, NULL, NULL",
            "NULL, NULL, 1, 1, NULL",
            "NULL, NULL, 1, NULL, 'c'",
        ] {
            run(&format!("{insert} VALUES (true, {values})"));
            assert_eq!(children("p", "id", "1"), ["The \"Child(t)"], "{values}");
            assert_eq!(children("p", "id", "2"), [""; 0], "{values}");
            run("DELETE FROM \"Other Schema\".\"The \"\"Child\"");
        }
    }

    #[pg_test]
    fn row_level_security_hides_no_child() {
        run("CREATE TABLE p (id int PRIMARY KEY)");
        run("CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)");
        run("INSERT INTO p VALUES (1)");
        run("INSERT INTO c VALUES (10, 1)");
        run("CREATE ROLE c_owner");
        run("ALTER TABLE c OWNER TO c_owner");
        run("ALTER TABLE c ENABLE ROW LEVEL SECURITY");
        run("ALTER TABLE c FORCE ROW LEVEL SECURITY");
        let before = Spi::get_one::<String>("SELECT current_user::text");
        assert_eq!(children("p", "id", "1"), ["c(10)"]);
        assert_eq!(Spi::get_one::<String>("SELECT current_user::text"), before);
    }

    #[pg_test]
    fn a_child_without_a_key_is_an_error() {
        run("CREATE TABLE p (id int PRIMARY KEY)");
        run("CREATE TABLE c (p int REFERENCES p)");
        run("INSERT INTO p VALUES (1), (2)");
        run("INSERT INTO c VALUES (1)");
        assert_eq!(children("p", "id", "2"), [""; 0]);
        let failure = children_of("p", "id", "1").expect_err("the child can't be told");
        assert_eq!(failure.code, PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION);
    }
}
