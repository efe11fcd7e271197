//! Foreign keys between nodes that write apart: no row is without its parent on any node at any moment, and the nodes end
//! alike, in each mode.

mod diary;
mod fetch;
mod fuzz;
mod kinds;
mod local;
mod orphans;
mod race;
