//! Changes that do not fit what is on the subscriber: each is parked with its SQLSTATE, whatever the reason, and all other
//! transactions go on.

use meld_cluster_tests::{Cluster, Plan, compare, mesh, settle};

/// What n2 has that n1 has not, the change at n1 that meets it, the SQLSTATE, and what makes it fit.
struct Misfit {
    table: &'static str,
    /// On both nodes.
    made: &'static str,
    on_n2: &'static str,
    change: &'static str,
    sqlstate: &'static str,
    repair: &'static str,
}

const MISFITS: [Misfit; 11] = [
    Misfit {
        table: "a_check",
        made: "CREATE TABLE a_check (id int PRIMARY KEY, v int)",
        on_n2: "ALTER TABLE a_check ADD CHECK (v < 10)",
        change: "INSERT INTO a_check VALUES (1, 10)",
        sqlstate: "23514",
        repair: "ALTER TABLE a_check DROP CONSTRAINT a_check_v_check",
    },
    Misfit {
        table: "a_not_null",
        made: "CREATE TABLE a_not_null (id int PRIMARY KEY, v int)",
        on_n2: "ALTER TABLE a_not_null ALTER v SET NOT NULL",
        change: "INSERT INTO a_not_null VALUES (1, NULL)",
        sqlstate: "23502",
        repair: "ALTER TABLE a_not_null ALTER v DROP NOT NULL",
    },
    Misfit {
        table: "a_domain",
        made: "CREATE DOMAIN small AS int; CREATE TABLE a_domain (id int PRIMARY KEY, v small)",
        on_n2: "ALTER DOMAIN small ADD CONSTRAINT is_small CHECK (VALUE < 10)",
        change: "INSERT INTO a_domain VALUES (1, 10)",
        sqlstate: "23514",
        repair: "ALTER DOMAIN small DROP CONSTRAINT is_small",
    },
    Misfit {
        table: "a_generated",
        made: "CREATE TABLE a_generated (id int PRIMARY KEY, v int)",
        on_n2: "ALTER TABLE a_generated ADD g int GENERATED ALWAYS AS (100 / v) STORED",
        change: "INSERT INTO a_generated VALUES (1, 0)",
        sqlstate: "22012",
        repair: "ALTER TABLE a_generated DROP g",
    },
    Misfit {
        table: "a_missing_table",
        made: "CREATE TABLE a_missing_table (id int PRIMARY KEY, v int)",
        on_n2: "ALTER TABLE a_missing_table RENAME TO hidden",
        change: "INSERT INTO a_missing_table VALUES (1, 0)",
        sqlstate: "42P01",
        repair: "ALTER TABLE hidden RENAME TO a_missing_table",
    },
    Misfit {
        table: "a_missing_column",
        made: "CREATE TABLE a_missing_column (id int PRIMARY KEY, v int)",
        on_n2: "ALTER TABLE a_missing_column RENAME v TO w",
        change: "INSERT INTO a_missing_column VALUES (1, 0)",
        sqlstate: "55000",
        repair: "ALTER TABLE a_missing_column RENAME w TO v",
    },
    Misfit {
        table: "another_type",
        made: "CREATE TABLE another_type (id int PRIMARY KEY, v text)",
        on_n2: "ALTER TABLE another_type ALTER v TYPE int USING 0",
        change: "INSERT INTO another_type VALUES (1, 'no number')",
        sqlstate: "22P02",
        repair: "ALTER TABLE another_type ALTER v TYPE text",
    },
    Misfit {
        table: "a_narrow_type",
        made: "CREATE TABLE a_narrow_type (id int PRIMARY KEY, v varchar(20))",
        on_n2: "ALTER TABLE a_narrow_type ALTER v TYPE varchar(3)",
        change: "INSERT INTO a_narrow_type VALUES (1, 'longer')",
        sqlstate: "22001",
        repair: "ALTER TABLE a_narrow_type ALTER v TYPE varchar(20)",
    },
    Misfit {
        table: "a_trigger",
        made: "CREATE TABLE a_trigger (id int PRIMARY KEY, v int)",
        on_n2: "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused by a trigger'; END $$; \
                CREATE TRIGGER refuse BEFORE INSERT ON a_trigger FOR EACH ROW EXECUTE FUNCTION refuse(); \
                ALTER TABLE a_trigger ENABLE ALWAYS TRIGGER refuse",
        change: "INSERT INTO a_trigger VALUES (1, 0)",
        sqlstate: "P0001",
        repair: "DROP TRIGGER refuse ON a_trigger",
    },
    Misfit {
        table: "a_replica_trigger",
        made: "CREATE TABLE a_replica_trigger (id int PRIMARY KEY, v int)",
        on_n2: "CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := 1 / NEW.v; RETURN NEW; END $$; \
                CREATE TRIGGER divide BEFORE INSERT ON a_replica_trigger FOR EACH ROW EXECUTE FUNCTION divide(); \
                ALTER TABLE a_replica_trigger ENABLE REPLICA TRIGGER divide",
        change: "INSERT INTO a_replica_trigger VALUES (1, 0)",
        sqlstate: "22012",
        repair: "DROP TRIGGER divide ON a_replica_trigger",
    },
    Misfit {
        table: "an_index_limit",
        made: "CREATE TABLE an_index_limit (id int PRIMARY KEY, v text)",
        on_n2: "CREATE INDEX ON an_index_limit (v)",
        change: "INSERT INTO an_index_limit SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i",
        sqlstate: "54000",
        repair: "DROP INDEX an_index_limit_v_idx",
    },
];

fn start(name: &str) -> Cluster {
    let cluster =
        Plan::new(name, 2).setting("meld.exception_retry_delay = 1").setting("meld.exception_retries = 1").start_mesh();
    cluster.expect_log("was parked as");
    cluster.expect_log("ERROR:");
    cluster
}

#[test]
fn each_is_parked_and_replayed() {
    let cluster = start("misfits");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE t (id int PRIMARY KEY)");
    for misfit in &MISFITS {
        mesh::replicate(&cluster, misfit.made);
        n2.batch(misfit.on_n2);
        n1.batch(misfit.change);
        n1.batch("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t");
        settle::settle(&cluster);
        let why: Vec<String> = n2.values("SELECT sqlstate FROM meld.parked_transaction");
        assert_eq!(why, [misfit.sqlstate], "{}", misfit.table);
        assert_eq!(n2.value::<i64>("SELECT max(id)::int8 FROM t"), n1.value::<i64>("SELECT max(id)::int8 FROM t"));
        n2.batch(misfit.repair);
        let replayed: i64 = n2.value("SELECT replayed FROM meld.parked_replay()");
        assert_eq!(replayed, 1, "{}", misfit.table);
        settle::settle(&cluster);
        compare::tables_equal(&[n1, n2], &[&format!("public.{}", misfit.table)]);
    }
    cluster.finish();
}

/// Two contributions that the counter has room for one by one.
#[test]
fn a_counter_that_overflows_is_parked() {
    let cluster = start("misfit_counter");
    let [n1, n2] = [cluster.node(1), cluster.node(2)];
    mesh::replicate(&cluster, "CREATE TABLE counter (id int PRIMARY KEY, v int NOT NULL)");
    cluster.batch("SELECT meld.delta_add_column('counter', 'v')");
    n1.batch("INSERT INTO counter VALUES (1, 2147483000)");
    settle::settle(&cluster);
    mesh::disconnect(&cluster);
    n1.batch("UPDATE counter SET v = v + 500");
    n2.batch("UPDATE counter SET v = v + 600");
    mesh::reconnect(&cluster);
    settle::settle(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.values::<String>("SELECT sqlstate FROM meld.parked_transaction"), ["22003"], "{}", node.name);
    }
    n2.batch("UPDATE counter SET v = v - 1000");
    settle::settle(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.value::<i64>("SELECT replayed FROM meld.parked_replay()"), 1, "{}", node.name);
        assert_eq!(node.value::<i32>("SELECT v FROM counter"), 2_147_483_100, "{}", node.name);
    }
    settle::settle(&cluster);
    compare::equal(&cluster);
    cluster.finish();
}
