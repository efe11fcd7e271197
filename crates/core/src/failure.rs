//! Classes of errors in apply: may the same work succeed later by itself, or does somebody have to do something?
//!
//! The table goes by SQLSTATE, first by the whole code, then by its class (the first two characters). Whatever is not in
//! it is permanent: a transaction that fails with it is tried a few times, and then the exception policy acts, which loses
//! nothing. The other way round, an error that nobody foresaw could stop a link for ever.

/// What is to be expected of another try.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureClass {
    /// Others were in the way, or the server lacked something: it is tried again for ever, with back-off.
    Transient,
    /// Somebody has put a row since the rule looked. Tried again at once; permanent when it comes again and again.
    Contended,
    /// The data does not fit what is here.
    Permanent,
}

/// Codes that are not like the rest of their class.
const CODES: [(&str, FailureClass); 9] = [
    ("23505", FailureClass::Contended), // unique_violation
    ("23P01", FailureClass::Contended), // exclusion_violation
    ("25006", FailureClass::Transient), // read_only_sql_transaction: somebody made the database read-only for a while
    ("25P03", FailureClass::Transient), // idle_in_transaction_session_timeout
    ("25P04", FailureClass::Transient), // transaction_timeout
    ("55006", FailureClass::Transient), // object_in_use
    ("55P03", FailureClass::Transient), // lock_not_available
    ("54001", FailureClass::Permanent), // statement_too_complex: a trigger that calls itself without end
    ("XX001", FailureClass::Transient), // data_corrupted: a page here is broken, not the change
];

/// Classes of SQLSTATE. Those of success and warnings (00, 01, 02) never fail.
const CLASSES: [(&str, FailureClass); 40] = [
    ("03", FailureClass::Permanent), // statement not yet complete
    ("08", FailureClass::Transient), // connection, protocol: the stream is received again
    ("09", FailureClass::Permanent), // triggered action
    ("0A", FailureClass::Permanent), // not supported
    ("0B", FailureClass::Permanent), // transaction initiation
    ("0F", FailureClass::Permanent), // locator
    ("0L", FailureClass::Permanent), // grantor
    ("0P", FailureClass::Permanent), // role
    ("0Z", FailureClass::Permanent), // diagnostics
    ("20", FailureClass::Permanent), // case not found, in a trigger's function
    ("21", FailureClass::Permanent), // cardinality
    ("22", FailureClass::Permanent), // data
    ("23", FailureClass::Permanent), // integrity constraints
    ("24", FailureClass::Permanent), // cursor state
    ("25", FailureClass::Permanent), // transaction state
    ("26", FailureClass::Permanent), // statement name
    ("27", FailureClass::Permanent), // triggered data change
    ("28", FailureClass::Transient), // authorization, of the connection to the provider
    ("2B", FailureClass::Permanent), // dependent privileges
    ("2D", FailureClass::Permanent), // transaction termination
    ("2F", FailureClass::Permanent), // SQL routine
    ("34", FailureClass::Permanent), // cursor name
    ("38", FailureClass::Permanent), // external routine
    ("39", FailureClass::Permanent), // external routine invocation
    ("3B", FailureClass::Permanent), // savepoint
    ("3D", FailureClass::Transient), // catalog name: the provider's database
    ("3F", FailureClass::Permanent), // schema name
    ("40", FailureClass::Transient), // rollback: deadlock, serialization
    ("42", FailureClass::Permanent), // rights and names: a missing table, a missing column
    ("44", FailureClass::Permanent), // WITH CHECK OPTION
    ("53", FailureClass::Transient), // resources: disk, memory, connections
    ("54", FailureClass::Permanent), // program limits: a row that is too long for an index
    ("55", FailureClass::Permanent), // prerequisite state
    ("57", FailureClass::Transient), // operator intervention: cancelled, shutdown
    ("58", FailureClass::Transient), // system: input and output, a clock that is wrong
    ("72", FailureClass::Transient), // snapshot too old
    ("F0", FailureClass::Transient), // configuration file
    ("HV", FailureClass::Permanent), // foreign data
    ("P0", FailureClass::Permanent), // PL/pgSQL: RAISE
    ("XX", FailureClass::Permanent), // internal
];

/// The class of an error, by the five characters of its SQLSTATE.
pub fn class_of(sqlstate: &str) -> FailureClass {
    let code = CODES.iter().find(|(code, _)| *code == sqlstate);
    let class = || CLASSES.iter().find(|(class, _)| sqlstate.starts_with(class));
    code.or_else(class).map_or(FailureClass::Permanent, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_in_the_way_and_lack_of_resources_pass() {
        for sqlstate in ["40P01", "40001", "55P03", "57014", "57P01", "53100", "53200", "53400", "08006", "58030"] {
            assert_eq!(class_of(sqlstate), FailureClass::Transient, "{sqlstate}");
        }
    }

    #[test]
    fn what_does_not_fit_stays_wrong() {
        for sqlstate in ["23514", "23502", "23503", "22003", "42P01", "42703", "P0001", "XX000", "55000", "42501"] {
            assert_eq!(class_of(sqlstate), FailureClass::Permanent, "{sqlstate}");
        }
        assert_eq!(class_of("ZZZZZ"), FailureClass::Permanent);
        assert_eq!(class_of(""), FailureClass::Permanent);
    }

    #[test]
    fn a_row_that_somebody_put_meanwhile_is_neither() {
        assert_eq!(class_of("23505"), FailureClass::Contended);
        assert_eq!(class_of("23P01"), FailureClass::Contended);
    }

    #[test]
    fn the_tables_say_each_thing_once() {
        let mut names: Vec<&str> = CODES.iter().chain(&CLASSES).map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CODES.len() + CLASSES.len());
    }
}
