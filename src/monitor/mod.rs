//! What operators look at: the rows behind the views, and whether the server is set up for meld.

pub mod requirements;
pub mod status;
