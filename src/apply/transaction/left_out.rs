//! Changes that are left out of a transaction (`meld.exception_behaviour = discard`), and what is settled with its commit.
//!
//! A change that fails for good is remembered, and everything else applied again from the start. At the commit those that
//! were left out are parked, as a transaction of just them, in the same local transaction. A replayed transaction's parked
//! row goes in the same way.

use meld_core::wire::Commit;

use super::{Ran, RemoteTransaction, Surroundings};
use crate::apply::parked::{ParkedWriter, is_change};
use crate::apply::parking::Cause;
use crate::catalog::parked::{self, ParkedState};
use crate::log::{Failure, Result};
use crate::settings::ExceptionBehaviour;

impl RemoteTransaction {
    /// Whether the rest can be applied without the change that failed.
    pub fn may_leave_out(&self, cause: &Cause) -> bool {
        cause.failed.is_some() && !self.kept.is_cut() && !self.left_out.is_full()
    }

    /// Applies what has come without the change that failed.
    pub fn leave_out(&mut self, cause: Cause, commit: Option<&Commit>, around: &mut Surroundings<'_>) -> Result<Ran> {
        if let Some(place) = cause.failed {
            self.left_out.add(place, cause.failure);
        }
        self.begin_again(around);
        (self.tries, self.retries, self.rounds) = (0, 0, 0);
        self.run(0, commit, around)
    }

    /// Changes that could not be applied are parked with the commit of those that could; what was parked before is not any
    /// more.
    pub(super) fn settle_exceptions(&self, commit: &Commit, around: &mut Surroundings<'_>) -> Result<()> {
        if let Some(id) = self.parked {
            parked::remove(id)?;
        }
        let Some((_, first)) = self.left_out.first() else { return Ok(()) };
        let (behaviour, state) = (ExceptionBehaviour::Discard, Some(ParkedState::Parked));
        let mut writer = ParkedWriter::begin(around.name_of(&self.begin), behaviour, state, first.clone())?;
        let changes = self.kept.from(0).iter().filter(|message| is_change(message));
        for (message, place) in changes.zip(1..) {
            if let Some(failure) = self.left_out.get(place) {
                writer.take(message, place, Some(failure), around.relations)?;
            }
        }
        writer.finish(commit, false).map(|_| ())
    }

    /// Changes that were left out, and why the first of them was.
    pub fn left_out(&self) -> Option<(usize, &Failure)> {
        self.left_out.first()
    }
}
