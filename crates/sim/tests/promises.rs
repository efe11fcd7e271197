//! A short run of everything that `cargo x sim` does at length, and proof that the checks notice mistakes.

use meld_sim::cases::{cases, scripts};
use meld_sim::check;
use meld_sim::explore::explore;
use meld_sim::mutant::Mutant;
use meld_sim::random;
use meld_sim::shrink::shrink;
use meld_sim::world::{Config, World};

fn run_scripts(mutant: Option<Mutant>) -> Result<(), check::Violation> {
    for script in scripts() {
        let mut world = World::new(&Config::plain(script.nodes, script.policy, mutant));
        for step in &script.steps {
            world.step(step)?;
        }
        world.drain(3, |_| 0, |_| ())?;
        check::at_rest(&world)?;
    }
    Ok(())
}

#[test]
fn random_worlds_keep_the_promises() {
    for seed in 1..=400 {
        if let Err(failure) = random::run(seed, None) {
            let small = shrink(&failure);
            panic!("seed {seed}: {}\n{:?}\n{:#?}", failure.violation, small.config, small.steps);
        }
    }
}

#[test]
fn scripts_keep_the_promises() {
    assert_eq!(run_scripts(None), Ok(()));
}

#[test]
fn every_interleaving_of_small_programs_keeps_the_promises() {
    const LIMIT: usize = 1000;
    for case in cases() {
        for crashes in [0, 1] {
            let explored = explore(&case, crashes, None, LIMIT).unwrap_or_else(|v| panic!("{}: {v}", case.name));
            assert!(explored.ends > 0 || explored.is_cut_short, "{}: no end was reached", case.name);
        }
    }
}

/// The seeds are those that `cargo x sim --mutants` finds; any change of the random worlds asks for a new look there.
#[test]
fn every_mutant_is_caught() {
    for &mutant in Mutant::ALL {
        let caught =
            run_scripts(Some(mutant)).is_err() || (1..=8000_u64).any(|seed| random::run(seed, Some(mutant)).is_err());
        assert!(caught, "{}: {}", mutant.name(), mutant.what());
    }
}

#[test]
fn a_failing_run_is_made_small_and_still_fails() {
    let failure = (1..100).find_map(|seed| random::run(seed, Some(Mutant::ArrivalWins)).err()).expect("a failure");
    let small = shrink(&failure);
    assert!(small.steps.len() <= failure.steps.len());
    assert!(small.steps.len() < 12, "{:#?}", small.steps);
    assert!(random::again(&small.config, &small.steps).is_err());
}
