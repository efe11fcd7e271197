//! Each function's refusals and effects, inside a server. What takes two nodes is tested on clusters.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// What the functions are tried on. `answer` runs a statement in a subtransaction, so that the next one can follow.
    const SETUP: &str = "\
        CREATE FUNCTION pg_temp.answer(statement text) RETURNS text LANGUAGE plpgsql AS $$ \
        BEGIN EXECUTE statement; RETURN 'ok'; \
        EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM; END $$; \
        SELECT set_config(name, 'meld', true) FROM pg_settings WHERE name = 'output_plugin_libraries'; \
        CREATE TABLE public.keyed (id int PRIMARY KEY); \
        CREATE TABLE public.keyless (id int); \
        CREATE UNLOGGED TABLE public.forgetful (id int PRIMARY KEY); \
        CREATE TEMPORARY TABLE short_lived (id int PRIMARY KEY); \
        CREATE VIEW public.view AS SELECT 1 AS id; \
        CREATE SEQUENCE public.sequence; \
        CREATE TABLE public.parted (id int PRIMARY KEY) PARTITION BY LIST (id); \
        CREATE TABLE public.part_1 PARTITION OF public.parted FOR VALUES IN (1); \
        CREATE TABLE public.part_2 PARTITION OF public.parted FOR VALUES IN (2);";

    fn answer(statement: &str) -> String {
        let sql = "SELECT pg_temp.answer($1)";
        Spi::get_one_with_args(sql, &[statement.into()]).expect("the helper runs").expect("it gives a text")
    }

    /// Runs the statements in order; each answer begins as it should: "ok", or a SQLSTATE and the start of a message.
    fn check(cases: &[(&str, &str)]) {
        for (statement, expected) in cases {
            let found = answer(statement);
            assert!(found.starts_with(expected), "{statement}\n  found:    {found}\n  expected: {expected}");
        }
    }

    fn with_node() {
        Spi::run(SETUP).expect("the objects are made");
        check(&[("SELECT meld.node_create('n1', 'dbname=app', node_id => 1)", "ok")]);
    }

    fn count(query: &str) -> i64 {
        Spi::get_one(query).expect("the query runs").expect("it gives a number")
    }

    #[pg_test]
    fn nothing_works_before_there_is_a_node() {
        Spi::run(SETUP).expect("the objects are made");
        check(&[
            ("SELECT * FROM meld.identity()", "55000 database "),
            ("SELECT * FROM meld.node_info()", "55000 database "),
            ("SELECT meld.repset_create('s')", "55000 database "),
            ("SELECT meld.repset_add_table('default', 'keyed')", "55000 database "),
            ("SELECT meld.sub_create('s', 'dbname=other')", "55000 database "),
            ("SELECT meld.sync_event()", "55000 database "),
        ]);
    }

    #[pg_test]
    fn node_create_refuses_bad_arguments() {
        Spi::run(SETUP).expect("the objects are made");
        check(&[
            ("SELECT meld.node_create(NULL, 'dbname=app')", "22004 argument \"node_name\" must not be null"),
            ("SELECT meld.node_create('', 'dbname=app')", "42602 argument \"node_name\" must not be empty"),
            ("SELECT meld.node_create(repeat('n', 64)::name, 'dbname=app')", "42622 name "),
            ("SELECT meld.node_create('n1', NULL)", "22004 argument \"dsn\" must not be null"),
            ("SELECT meld.node_create('n1', '')", "22023 invalid connection string"),
            ("SELECT meld.node_create('n1', 'no_such_word=1')", "22023 invalid connection string"),
            ("SELECT meld.node_create('n1', 'dbname=app', node_id => 0)", "22023 invalid node id 0"),
            ("SELECT meld.node_create('n1', 'dbname=app', node_id => 1024)", "22023 invalid node id 1024"),
        ]);
        assert_eq!(count("SELECT count(*) FROM meld.node"), 0);
    }

    #[pg_test]
    fn a_connection_string_is_never_repeated() {
        Spi::run(SETUP).expect("the objects are made");
        let found = answer("SELECT meld.node_create('n1', 'password=opensesame no_such_word=1')");
        assert!(!found.contains("opensesame") && !found.contains("no_such_word"), "{found}");
    }

    #[pg_test]
    fn a_node_is_made_once_and_dropped() {
        with_node();
        check(&[
            ("SELECT meld.node_create('n2', 'dbname=app')", "42710 database "),
            ("SELECT meld.node_drop('n2')", "42704 node \"n2\" does not exist"),
            ("SELECT meld.node_drop('n2', true)", "ok"),
            ("SELECT meld.node_drop(NULL)", "22004 argument \"node_name\""),
            ("SELECT meld.node_drop('n1', NULL)", "22004 argument \"ifexists\""),
            (
                "SELECT 1 / count(*) FROM meld.identity() WHERE node_id = 1 AND node_name = 'n1' AND snowflake_node = 1",
                "ok",
            ),
            ("SELECT 1 / count(*) FROM meld.node_info() WHERE node_id = 1", "ok"),
            ("SELECT meld.node_drop('n1')", "ok"),
            ("SELECT meld.node_drop('n1')", "42704 node \"n1\" does not exist"),
        ]);
        // a number from the name
        check(&[("SELECT meld.node_create('n1', 'dbname=app')", "ok")]);
        assert_eq!(
            count("SELECT node_id::bigint FROM meld.identity()"),
            i64::from(meld_core::ids::NodeId::from_name("n1").0)
        );
    }

    #[pg_test]
    fn interfaces_are_added_and_dropped() {
        with_node();
        check(&[
            ("SELECT meld.node_add_interface('n1', 'lan', 'host=lan')", "ok"),
            ("SELECT meld.node_add_interface('n1', 'lan', 'host=lan')", "42710 node \"n1\" has an interface \"lan\""),
            ("SELECT meld.node_add_interface('n1', NULL, 'host=lan')", "22004 argument \"interface_name\""),
            ("SELECT meld.node_add_interface('n1', 'wan', NULL)", "22004 argument \"dsn\""),
            ("SELECT meld.node_add_interface('n1', 'wan', 'x')", "22023 invalid connection string"),
            ("SELECT meld.node_add_interface('n2', 'wan', 'host=wan')", "42704 node \"n2\" does not exist"),
            ("SELECT meld.node_drop_interface('n1', 'lan')", "ok"),
            ("SELECT meld.node_drop_interface('n1', 'lan')", "42704 node \"n1\" has no interface \"lan\""),
            ("SELECT meld.node_drop_interface('n1', 'n1')", "2BP01 cannot drop interface \"n1\""),
            ("SELECT meld.node_drop_interface(NULL, 'n1')", "22004 argument \"node_name\""),
        ]);
    }

    #[pg_test]
    fn sets_are_made_altered_and_dropped() {
        with_node();
        check(&[
            ("SELECT meld.repset_create('s', replicate_update => false, replicate_delete => false)", "ok"),
            ("SELECT meld.repset_create('s')", "42710 replication set \"s\" exists already"),
            ("SELECT meld.repset_create(NULL)", "22004 argument \"set_name\""),
            ("SELECT meld.repset_create('')", "42602 argument \"set_name\""),
            ("SELECT meld.repset_create('t', NULL)", "22004 argument \"replicate_insert\""),
            ("SELECT meld.repset_add_table('s', 'keyless')", "ok"),
            ("SELECT meld.repset_alter('s', replicate_truncate => false)", "ok"),
            (
                "SELECT meld.repset_alter('s', replicate_update => true)",
                "55000 replication set \"s\" has tables without a key",
            ),
            ("SELECT meld.repset_alter('t')", "42704 replication set \"t\" does not exist"),
            ("SELECT meld.repset_drop('s')", "ok"),
            ("SELECT meld.repset_drop('s')", "42704 replication set \"s\" does not exist"),
            ("SELECT meld.repset_drop('s', true)", "ok"),
            ("SELECT meld.repset_drop('default')", "2BP01 cannot drop replication set \"default\""),
        ]);
        assert_eq!(count("SELECT count(*) FROM meld.replication_set_table"), 0);
    }

    #[pg_test]
    fn only_what_can_be_replicated_enters_a_set() {
        with_node();
        check(&[
            ("SELECT meld.repset_add_table('default', 'keyed')", "ok"),
            ("SELECT meld.repset_add_table('default', 'keyed')", "42710 table \"public.keyed\" is in replication set"),
            ("SELECT meld.repset_add_table('default', 'keyless')", "55000 table \"public.keyless\" has no key"),
            ("SELECT meld.repset_add_table('default_insert_only', 'keyless')", "ok"),
            ("SELECT meld.repset_add_table('default', 'forgetful')", "42809 \"public.forgetful\" is unlogged"),
            ("SELECT meld.repset_add_table('default', 'short_lived')", "42809 "),
            ("SELECT meld.repset_add_table('default', 'view')", "42809 \"public.view\" is not a table"),
            ("SELECT meld.repset_add_table('default', 'sequence')", "42809 \"public.sequence\" is a sequence"),
            ("SELECT meld.repset_add_table('default', 'pg_class')", "42809 \"pg_catalog.pg_class\" belongs to"),
            ("SELECT meld.repset_add_table('default', 'meld.node')", "42809 \"meld.node\" belongs to"),
            ("SELECT meld.repset_add_table('default', 'missing')", "42P01 "),
            ("SELECT meld.repset_add_table('default', NULL)", "22004 argument \"relation\""),
            ("SELECT meld.repset_add_table('missing', 'keyed')", "42704 replication set \"missing\" does not exist"),
            ("SELECT meld.repset_add_table('default', 'keyed', true)", "0A000 copying data"),
            (
                "SELECT meld.repset_add_table('default', 'keyed', columns => '{id}')",
                "0A000 replicating a choice of columns",
            ),
            ("SELECT meld.repset_add_table('default', 'keyed', row_filter => 'true')", "0A000 filtering rows"),
            ("SELECT meld.repset_remove_table('default', 'keyless')", "42704 table \"public.keyless\" is not in"),
            ("SELECT meld.repset_remove_table('default', 'keyed')", "ok"),
            ("SELECT meld.repset_remove_table('default', NULL)", "22004 argument \"relation\""),
        ]);
    }

    #[pg_test]
    fn constraints_that_are_not_checked_at_once_keep_a_table_out() {
        with_node();
        let refused = "0A000 table \"public.t\" can't be replicated with constraint \"";
        for (constraint, name) in [
            ("UNIQUE (a) DEFERRABLE", "t_a_key"),
            ("CONSTRAINT c UNIQUE (a, id) DEFERRABLE INITIALLY DEFERRED", "c"),
            ("EXCLUDE USING btree (a WITH =)", "t_a_excl"),
        ] {
            let refused = format!("{refused}{name}\"");
            check(&[
                (&format!("CREATE TABLE public.t (id int PRIMARY KEY, a int, {constraint})"), "ok"),
                ("SELECT meld.repset_add_table('default', 't')", &refused),
                ("SELECT meld.repset_add_table('default_insert_only', 't')", &refused),
                ("SELECT meld.repset_add_all_tables('default', '{public}')", "ok"),
            ]);
            assert_eq!(count("SELECT count(*) FROM meld.tables WHERE set_name = 'default' AND relname = 't'"), 0);
            check(&[("DROP TABLE t", "ok")]);
        }
        check(&[
            ("CREATE TABLE public.t (id int PRIMARY KEY DEFERRABLE, a int)", "ok"),
            ("SELECT meld.repset_add_table('default', 't')", "55000 table \"public.t\" has no key"),
            ("SELECT meld.repset_add_table('default_insert_only', 't')", &format!("{refused}t_pkey\"")),
            ("DROP TABLE t", "ok"),
            ("CREATE TABLE public.t (id int PRIMARY KEY, a int UNIQUE)", "ok"),
            ("SELECT meld.repset_add_table('default', 't')", "ok"),
        ]);
    }

    #[pg_test]
    fn the_partitions_of_a_table_enter_a_set() {
        with_node();
        let leaves = "SELECT count(*) FROM meld.tables WHERE set_name = 'default' AND relname LIKE 'part\\__'";
        check(&[
            (
                "SELECT meld.repset_add_table('default', 'parted', include_partitions => false)",
                "42809 \"public.parted\" is part",
            ),
            ("SELECT meld.repset_add_table('default', 'parted')", "ok"),
        ]);
        assert_eq!(count(leaves), 2);
        check(&[("DROP TABLE public.part_2", "ok")]);
        assert_eq!(count(leaves), 1);
        assert_eq!(count("SELECT count(*) FROM meld.replication_set_table"), 1, "a dropped table leaves its sets");
        check(&[("SELECT meld.repset_remove_table('default', 'parted')", "ok")]);
        assert_eq!(count(leaves), 0);
    }

    #[pg_test]
    fn all_tables_of_a_schema_enter_a_set() {
        with_node();
        check(&[
            ("SELECT meld.repset_add_all_tables('default', '{public}')", "ok"),
            ("SELECT meld.repset_add_all_tables('default', '{missing}')", "3F000 schema \"missing\" does not exist"),
            ("SELECT meld.repset_add_all_tables('default', NULL)", "22004 argument \"schema_names\" must not be null"),
            (
                "SELECT meld.repset_add_all_tables('default', '{NULL}')",
                "22004 argument \"schema_names\" must not contain null",
            ),
            ("SELECT meld.repset_add_all_tables('default', '{public}', true)", "0A000 copying data"),
        ]);
        assert_eq!(count("SELECT count(*) FROM meld.tables WHERE set_name = 'default'"), 3, "keyed and two partitions");
        assert_eq!(count("SELECT count(*) FROM meld.tables WHERE set_name IS NULL AND relname = 'keyless'"), 1);
    }

    #[pg_test]
    fn sub_create_refuses_bad_arguments_and_what_is_not_there() {
        with_node();
        check(&[
            ("SELECT meld.sub_create(NULL, 'host=/nowhere')", "22004 argument \"subscription_name\""),
            ("SELECT meld.sub_create('', 'host=/nowhere')", "42602 argument \"subscription_name\""),
            ("SELECT meld.sub_create(repeat('s', 64)::name, 'host=/nowhere')", "42622 name "),
            ("SELECT meld.sub_create('s', NULL)", "22004 argument \"provider_dsn\""),
            ("SELECT meld.sub_create('s', 'nonsense')", "22023 invalid connection string"),
            (
                "SELECT meld.sub_create('s', 'host=/nowhere', NULL)",
                "22004 argument \"replication_sets\" must not be null",
            ),
            (
                "SELECT meld.sub_create('s', 'host=/nowhere', '{NULL}')",
                "22004 argument \"replication_sets\" must not contain",
            ),
            ("SELECT meld.sub_create('s', 'host=/nowhere', synchronize_structure => true)", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', synchronize_data => true)", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', forward_origins => '{all}')", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', apply_delay => '1 s')", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', force_text_transfer => true)", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', skip_schema => '{a}')", "0A000 "),
            ("SELECT meld.sub_create('s', 'host=/nowhere', enabled => NULL)", "22004 argument \"enabled\""),
            (
                "SELECT meld.sub_create('s', 'host=/nowhere password=opensesame')",
                "08001 could not ask the provider who it is",
            ),
        ]);
        assert_eq!(count("SELECT count(*) FROM meld.subscription"), 0);
    }

    #[pg_test]
    fn missing_subscriptions_are_named() {
        with_node();
        let missing = "42704 subscription \"s\" does not exist";
        check(&[
            ("SELECT meld.sub_drop('s')", missing),
            ("SELECT meld.sub_drop('s', true)", "ok"),
            ("SELECT meld.sub_enable('s')", missing),
            ("SELECT meld.sub_disable('s')", missing),
            ("SELECT meld.sub_disable('s', NULL)", "22004 argument \"immediate\""),
            ("SELECT meld.sub_alter_interface('s', 'i')", missing),
            ("SELECT meld.sub_add_repset('s', 'default')", missing),
            ("SELECT meld.sub_remove_repset('s', 'default')", missing),
            ("SELECT * FROM meld.sub_show_status('s')", missing),
            ("SELECT * FROM meld.sub_show_status()", "ok"),
            ("SELECT meld.sub_wait_for_sync('s')", missing),
            ("SELECT meld.sub_wait_for_sync(NULL)", "22004 argument \"subscription_name\""),
        ]);
    }

    #[pg_test]
    fn waiting_refuses_what_can_never_come() {
        with_node();
        check(&[
            ("CALL meld.wait_for_sync_event('n2', '0/1')", "42704 this node has no subscription to a node \"n2\""),
            ("CALL meld.wait_for_sync_event(NULL, '0/1')", "22004 argument \"origin\""),
            ("CALL meld.wait_for_sync_event('n2', NULL)", "22004 argument \"lsn\""),
            ("CALL meld.wait_for_sync_event('n2', '0/1', NULL)", "22004 argument \"timeout\""),
            ("CALL meld.wait_for_sync_event('n2', '0/1', -1)", "22023 argument \"timeout\" must not be negative"),
            ("SELECT meld.wait_slot_confirm_lsn('missing', '0/1')", "42704 logical replication slot \"missing\""),
            ("SELECT meld.wait_slot_confirm_lsn(NULL, NULL)", "ok"),
        ]);
        assert_eq!(count("SELECT (meld.sync_event() <= pg_current_wal_insert_lsn())::int::bigint"), 1);
    }

    #[pg_test]
    fn callers_without_rights_are_refused() {
        with_node();
        Spi::run("CREATE ROLE passer_by; SET ROLE passer_by").expect("the role is made");
        for call in [
            "meld.node_create('n2', 'dbname=a')",
            "meld.node_drop('n1')",
            "meld.repset_create('s')",
            "meld.repset_add_table('default', 'keyed')",
            "meld.sub_create('s', 'dbname=a')",
            "meld.sub_drop('s')",
            "meld.sub_show_status()",
            "meld.sync_event()",
        ] {
            check(&[(&format!("SELECT {call}"), "42501 permission denied for function")]);
        }
        check(&[
            ("SELECT if_dsn FROM meld.node_interface", "42501 permission denied"),
            ("SELECT * FROM meld.resolutions", "42501 permission denied"),
            (
                "SELECT * FROM meld.tables, meld.progress, meld.lag_tracker, meld.worker_status, meld.conflict_stats",
                "ok",
            ),
            ("SELECT * FROM meld.identity()", "ok"),
        ]);
        Spi::run("RESET ROLE").expect("the role is reset");
    }

    #[pg_test]
    fn the_manager_of_this_server_is_shown() {
        with_node();
        assert_eq!(count("SELECT count(*) FROM meld.worker_status WHERE worker_kind = 'supervisor'"), 1);
    }
}
