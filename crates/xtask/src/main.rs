//! The commands of the repository: `cargo x <command>`.
//!
//! What a developer or a CI job does with this repository is one command here, so that both do the same thing. The
//! Makefile only names them. Nothing in this program is part of the extension.
//!
//! Each command is one module. The rest is what several of them need: [`repo`] (where things are), [`run`] (child
//! processes and Ctrl-C), [`pg`] (which PostgreSQL), [`tree`] (a private copy of its installation), [`server`]
//! (starting and stopping servers from it).
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod install;
mod pg;
mod repo;
mod run;
mod server;
mod setup;
mod sim;
mod test;
mod tidy;
mod tree;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo x", about = "The commands of the meld repository", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing to build and test meld
    Setup,
    /// Format, clippy, house rules and the tests that need no server
    Check,
    /// Prove the house rules by reading the source
    Tidy,
    /// Nodes in memory around the convergence rule: --seeds N, --mutants, --exhaustive, --trace SEED
    Sim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything: the checks, the tests inside a server, and the tests of clusters
    Test {
        /// Run only the tests with this in their names, and skip the checks
        filter: Option<String>,
    },
    /// What replication costs, as ratios of paired runs: `origin`
    Bench {
        /// Which measurement
        which: String,
        /// Pairs of runs for each ratio
        #[arg(long, default_value_t = 7)]
        pairs: usize,
    },
    /// Start three nodes, provoke conflicts on them, show how each was decided, and leave the mesh running
    Demo,
    /// End the demo and remove it
    DemoStop,
    /// Build the extension and install it into the private server tree; prints the tree's folder
    InstallDev {
        /// Optimised build
        #[arg(long)]
        release: bool,
    },
    /// Build the extension optimised and install it into the system's PostgreSQL
    Install,
}

fn main() -> ExitCode {
    run::watch_signals();
    match perform(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::setup(),
        Command::Check => check::check(),
        Command::Tidy => tidy::tidy_repository(),
        Command::Sim { arguments } => sim::sim(&arguments),
        Command::Test { filter } => test::test(filter.as_deref()),
        Command::Bench { which, pairs } => bench::bench(&which, pairs),
        Command::Demo => demo::demo(),
        Command::DemoStop => demo::stop(),
        Command::InstallDev { release } => install::install_dev(release),
        Command::Install => install::install_system(),
    }
}
