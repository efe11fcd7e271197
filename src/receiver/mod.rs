//! The subscriber's end of a link: a thread with its own libpq connection.
