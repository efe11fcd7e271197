//! `cargo x sim`: nodes in memory around the convergence rule (`crates/sim`), thousands of random worlds at once.
//!
//! A program of its own, since it is built optimised; all arguments go to it.

use crate::check::cargo;
use crate::run;
use anyhow::Result;

pub fn sim(arguments: &[String]) -> Result<()> {
    run::run(cargo().args(["run", "--quiet", "--release", "--package", "meld-sim", "--"]).args(arguments))
}
