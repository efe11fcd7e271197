//! `sim`: runs random worlds, exhaustive programs and mutants, and says what broke, with its seed.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use meld_sim::cases::{cases, scripts};
use meld_sim::check::{self, Violation};
use meld_sim::explore::explore;
use meld_sim::mutant::Mutant;
use meld_sim::random::{self, Failure};
use meld_sim::shrink::shrink;
use meld_sim::world::{Config, World};

/// Nodes in memory around the convergence rule, with faults, and checkers of the promises.
///
/// Without another choice, runs the scripts, the programs and random worlds.
#[derive(Parser)]
struct Args {
    /// Random worlds to run, or to try to catch each mutant with.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Try to catch each deliberate mistake.
    #[arg(long)]
    mutants: bool,
    /// Only the small programs, in every interleaving.
    #[arg(long)]
    exhaustive: bool,
    /// Run one seed and show its shrunken trace if it fails.
    #[arg(long)]
    trace: Option<u64>,
    /// With this deliberate mistake.
    #[arg(long, value_parser = |name: &str| Mutant::named(name).ok_or("no such mutant"))]
    mutant: Option<Mutant>,
    /// States of a program at which an exploration is cut short.
    #[arg(long, default_value_t = 20_000)]
    limit: usize,
    /// Follow the histories in this file, one JSON object a line, and compare the states at their ends.
    #[arg(long)]
    agree: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let succeeded = match (&args.agree, args.trace) {
        (Some(file), _) => agree(file),
        (None, Some(seed)) => trace(seed, args.mutant),
        (None, None) if args.mutants => mutants(&args),
        (None, None) if args.exhaustive => programs(&args),
        (None, None) => all(&args),
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agree(file: &std::path::Path) -> bool {
    match meld_sim::agree::follow_all(file) {
        Ok(report) => {
            println!("{report}");
            report.differing.is_empty()
        }
        Err(error) => {
            println!("{}: {error:#}", file.display());
            false
        }
    }
}

fn all(args: &Args) -> bool {
    let start = Instant::now();
    if let Some((name, violation)) = first_script(args.mutant) {
        println!("{name}: {violation}");
        return false;
    }
    if !programs(args) {
        return false;
    }
    match first_failure(args.mutant, args.from, args.seeds) {
        Some((seed, failure)) => {
            show(seed, &failure);
            false
        }
        None => {
            println!("{} seeds from {}, no violation, {:.0} s", args.seeds, args.from, start.elapsed().as_secs_f64());
            true
        }
    }
}

fn trace(seed: u64, mutant: Option<Mutant>) -> bool {
    match random::run(seed, mutant) {
        Ok(()) => {
            println!("seed {seed}: no violation");
            true
        }
        Err(failure) => {
            show(seed, &failure);
            false
        }
    }
}

/// A failing run, as it was and as small as it can be made.
fn show(seed: u64, failure: &Failure) {
    println!("seed {seed}, {} steps: {}", failure.steps.len(), failure.violation);
    let small = shrink(failure);
    println!("shrunk to {} steps, {:?}:", small.steps.len(), small.config);
    small.steps.iter().for_each(|step| println!("    {step:?}"));
    println!("{}", small.violation);
}

fn first_script(mutant: Option<Mutant>) -> Option<(&'static str, Violation)> {
    scripts().into_iter().find_map(|script| {
        let mut world = World::new(&Config::plain(script.nodes, script.policy, mutant));
        let mut run = || {
            script.steps.iter().try_for_each(|step| world.step(step).map(|_| ()))?;
            world.drain(3, |_| 0, |_| ())?;
            check::at_rest(&world)
        };
        run().err().map(|violation| (script.name, violation))
    })
}

/// The failing world with the smallest seed among those tried, on all processors.
fn first_failure(mutant: Option<Mutant>, from: u64, seeds: u64) -> Option<(u64, Box<Failure>)> {
    let next = AtomicU64::new(from);
    let found: Mutex<Option<(u64, Box<Failure>)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= from + seeds {
            return;
        }
        if let Err(failure) = random::run(seed, mutant) {
            next.store(from + seeds, Ordering::Relaxed);
            if let Ok(mut found) = found.lock()
                && found.as_ref().is_none_or(|(other, _)| seed < *other)
            {
                *found = Some((seed, failure));
            }
            return;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    found.into_inner().ok().flatten()
}

fn mutants(args: &Args) -> bool {
    let mut caught = 0;
    for &mutant in Mutant::ALL {
        let by = match first_script(Some(mutant)) {
            Some((name, violation)) => Some((format!("script \"{name}\""), violation)),
            None => first_failure(Some(mutant), args.from, args.seeds)
                .map(|(seed, failure)| (format!("seed {seed}"), failure.violation)),
        };
        match by {
            Some((by, violation)) => {
                caught += 1;
                println!("{:<28} caught by {by}: {:.110}", mutant.name(), violation.to_string());
            }
            None => println!("{:<28} NOT CAUGHT in {} seeds: {}", mutant.name(), args.seeds, mutant.what()),
        }
    }
    println!("{caught} of {} mutants caught", Mutant::ALL.len());
    caught == Mutant::ALL.len()
}

fn programs(args: &Args) -> bool {
    let (mut states, mut ends, mut cut, mut failed) = (0, 0, 0, 0);
    let cases = cases();
    for case in &cases {
        for crashes in [0, 1] {
            match explore(case, crashes, args.mutant, args.limit) {
                Ok(explored) => {
                    states += explored.states;
                    ends += explored.ends;
                    cut += usize::from(explored.is_cut_short);
                    if args.exhaustive {
                        let all = if explored.is_cut_short { "first" } else { "all" };
                        println!("{:<80} {crashes} crashes {all:<5} {:>6} states", case.name, explored.states);
                    }
                }
                Err(violation) => {
                    failed += 1;
                    println!("{}, {crashes} crashes: {violation}", case.name);
                }
            }
        }
    }
    println!("{} programs, {states} states, {ends} ends, {cut} cut short, {failed} with a violation", cases.len());
    failed == 0
}
