//! Tests of [`super::foreign_key`] together with [`crate::pg::parents`], inside a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use meld_core::ids::RelId;
    use meld_core::value::{Tuple, Value};
    use meld_core::wire::{Column, RelationDescription};
    use pgrx::prelude::*;

    use crate::catalog::foreign_key;
    use crate::pg::executor::ChangeMemory;
    use crate::pg::target::{RowSide, Target};
    use crate::pg::xact::Xact;
    use crate::pg::{Oid, Snapshots};

    const TEXT: u32 = 25;

    fn run(sql: &str) {
        Spi::run(sql).expect("the statements run");
    }

    /// What a row of a table in schema public, whose first column is the key, would refer to and is not here, each as
    /// "table(column=value, ...)". "null" is null.
    fn missing(table: &str, row: &[(&str, &str)]) -> Vec<String> {
        let columns = row.iter().enumerate().map(|(i, (name, _))| Column {
            name: (*name).to_owned(),
            type_oid: TEXT,
            type_modifier: -1,
            is_key: i == 0,
            is_delta: false,
        });
        let description = RelationDescription {
            id: RelId(1),
            schema: "public".to_owned(),
            name: table.to_owned(),
            columns: columns.collect(),
        };
        let tuple: Tuple = row
            .iter()
            .map(|(_, text)| if *text == "null" { Value::Null } else { Value::Text(text.as_bytes()) })
            .collect();
        let xact = Xact::of_backend();
        let memory = ChangeMemory::new(&xact);
        let oid = Spi::get_one::<Oid>(&format!("SELECT 'public.{table}'::regclass::oid"));
        let keys = foreign_key::of_table(oid.expect("the query runs").expect("an oid")).expect("foreign keys");
        let mut target = Target::open(&xact, &std::rc::Rc::new(description.clone())).expect("open");
        target.begin_change(&memory);
        target.read(&tuple).expect("read");
        let found = target.find(false, Snapshots::Fresh).expect("find").is_some();
        target.clashes().expect("clashes");
        let parents = target.missing_parents(RowSide::Remote, &keys).expect("parents");
        if found {
            assert_eq!(target.missing_parents(RowSide::Local, &keys).expect("parents"), [], "rows that are here");
        }
        target.end_change(&memory);
        target.close();
        let shown = |parent: &crate::pg::parents::ParentRow| {
            let columns: Vec<String> = parent.columns.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{}({})", parent.name, columns.join(", "))
        };
        parents.iter().map(shown).collect()
    }

    #[pg_test]
    fn parents_that_are_not_here_are_told() {
        run("CREATE TABLE p (id int PRIMARY KEY, code varchar(10) UNIQUE, a int, b text, UNIQUE (b, a))");
        run(
            "CREATE TABLE c (id int PRIMARY KEY, p bigint REFERENCES p, code text REFERENCES p (code), a int, b text, \
             FOREIGN KEY (a, b) REFERENCES p (a, b) MATCH FULL)",
        );
        run("INSERT INTO p VALUES (1, 'one', 1, 'x'), (2, 'two', 2, NULL)");
        run("INSERT INTO c VALUES (10, 1, 'one', 1, 'x')");
        let row = |p, code, a, b| missing("c", &[("id", "10"), ("p", p), ("code", code), ("a", a), ("b", b)]);
        assert_eq!(row("1", "two", "1", "x"), [""; 0]);
        assert_eq!(row("null", "null", "null", "null"), [""; 0]);
        assert_eq!(row("3", "one", "null", "null"), ["p(id=3)"]);
        assert_eq!(row("1", "three", "2", "x"), ["p(a=2, b=x)", "p(code=three)"]);
        run("DELETE FROM c; DELETE FROM p WHERE id = 1");
        assert_eq!(row("1", "two", "null", "null"), ["p(id=1)"], "own changes count");
    }

    #[pg_test]
    fn a_row_may_be_its_own_parent() {
        run("CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t)");
        assert_eq!(missing("t", &[("id", "1"), ("up", "1")]), [""; 0]);
        assert_eq!(missing("t", &[("id", "1"), ("up", "2")]), ["t(id=2)"]);
        run("CREATE TABLE parted (id int PRIMARY KEY, up int REFERENCES parted) PARTITION BY LIST (id)");
        run("CREATE TABLE parted_1 (gone int, up int, id int NOT NULL)");
        run("ALTER TABLE parted_1 DROP COLUMN gone");
        run("ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1)");
        run("CREATE TABLE parted_2 PARTITION OF parted DEFAULT");
        assert_eq!(missing("parted_1", &[("id", "1"), ("up", "1")]), [""; 0]);
        assert_eq!(missing("parted_1", &[("id", "1"), ("up", "2")]), ["parted(id=2)"]);
        run("INSERT INTO parted VALUES (2, NULL)");
        assert_eq!(missing("parted_1", &[("id", "1"), ("up", "2")]), [""; 0]);
    }

    #[pg_test]
    fn a_parent_that_is_here_stays() {
        run("CREATE TABLE p (id int PRIMARY KEY)");
        run("CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)");
        run("INSERT INTO p VALUES (1)");
        run("CREATE ROLE p_owner");
        run("ALTER TABLE p OWNER TO p_owner");
        run("ALTER TABLE p ENABLE ROW LEVEL SECURITY");
        run("ALTER TABLE p FORCE ROW LEVEL SECURITY");
        assert_eq!(missing("c", &[("id", "10"), ("p", "1")]), [""; 0], "row-level security hides nothing");
        assert_eq!(missing("c", &[("id", "10"), ("p", "2")]), ["p(id=2)"]);
        let locked = Spi::get_one::<String>("SELECT (xmax <> 0)::text FROM p");
        assert_eq!(locked, Ok(Some("true".to_owned())), "against a delete");
    }
}
