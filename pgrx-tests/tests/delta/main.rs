//! Delta columns: what each node adds counts once on every node, whatever becomes of the rest of the row.

mod deletes;
mod faults;
mod functions;
mod sums;
