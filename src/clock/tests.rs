//! The marks and their record inside a server.

#[pgrx::prelude::pg_schema]
mod tests {
    use meld_core::time::Timestamp;
    use pgrx::prelude::*;

    use crate::clock::{file, forgotten_before, high_water};
    use crate::pg::clock;

    #[pg_test]
    fn a_promise_is_on_disk_before_it_is_told() {
        let promise = clock::now();
        high_water::before_promise(promise).expect("a record");
        let record = file::read().expect("the record");
        assert!(record.high_water >= promise && record.newest >= record.high_water, "{record:?} {promise:?}");
        assert!(high_water::get().expect("marks") >= Some(promise));
    }

    #[pg_test]
    fn the_bound_of_what_is_forgotten_stays_while_nothing_more_is() {
        let bound = forgotten_before().expect("a bound");
        assert!(bound > Timestamp::MIN && bound <= Timestamp(clock::now().0 + 1));
        assert_eq!(forgotten_before(), Ok(bound));
    }
}
