//! Makes a failing run small: steps, then statements, are left out for as long as some promise is still broken.

use crate::check::Violation;
use crate::random::{Failure, again};
use crate::world::{Config, Step};

/// The failure again with as few steps as could be found. The violation may be another one.
pub fn shrink(failure: &Failure) -> Failure {
    let mut best = failure.clone();
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut left_out = false;
        while at < best.steps.len() {
            let mut fewer = best.steps.clone();
            fewer.drain(at..(at + size).min(best.steps.len()));
            match fails(&best.config, &fewer) {
                Some(violation) => {
                    best = Failure { violation, steps: fewer, ..best };
                    left_out = true;
                }
                None => at += size,
            }
        }
        if !left_out || size > 1 {
            size /= 2;
        }
    }
    statements(best)
}

fn statements(mut best: Failure) -> Failure {
    for at in 0..best.steps.len() {
        let mut number = 0;
        while let Step::Transact { node, statements } = &best.steps[at]
            && number < statements.len()
        {
            let mut rest = statements.clone();
            rest.remove(number);
            let mut fewer = best.steps.clone();
            fewer[at] = Step::Transact { node: *node, statements: rest };
            match fails(&best.config, &fewer) {
                Some(violation) => best = Failure { violation, steps: fewer, ..best },
                None => number += 1,
            }
        }
    }
    best
}

fn fails(config: &Config, steps: &[Step]) -> Option<Violation> {
    again(config, steps).err()
}
