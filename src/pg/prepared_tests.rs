//! Marks of COMMIT PREPARED inside a server, where several tests may set some at the same time.

#[pgrx::prelude::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg::{prepared, worker};

    /// Those of this process.
    fn mine() -> Vec<prepared::Mark> {
        prepared::under_way().into_iter().filter(|mark| mark.pid() == worker::my_pid()).collect()
    }

    #[pg_test]
    fn a_mark_stands_until_it_is_taken_away() {
        assert!(mine().is_empty());
        prepared::begin();
        let marks = mine();
        assert!(marks.len() == 1 && marks[0].is_under_way());
        prepared::end();
        assert!(mine().is_empty() && !marks[0].is_under_way());
        // the next command in the same place is another one
        prepared::begin();
        assert!(mine().len() == 1 && !marks[0].is_under_way());
        prepared::end();
    }

    #[pg_test]
    fn the_mark_of_a_dead_backend_is_nobody_s() {
        let mark = prepared::mark_of_nobody(i32::MAX);
        assert!(!mark.is_under_way());
        assert!(!prepared::under_way().contains(&mark));
    }
}
