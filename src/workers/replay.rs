//! Starting the replay worker (`apply`), and waiting for it.

use std::time::Duration;

use meld_core::ids::NodeId;

use super::supervisor::no_place;
use crate::log::Result;
use crate::pg::worker::{self, LaunchStatus, WorkerKind};

const REPLAY: WorkerKind = WorkerKind { type_name: "meld replay", function: "meld_replay_main" };
const POLL: Duration = Duration::from_millis(50);

/// Has what is parked applied again, of one origin or of all, and waits until that is done. A request to cancel ends the
/// wait, not the worker.
pub fn run(origin: Option<NodeId>) -> Result<()> {
    let database = worker::my_database().to_u32().cast_signed();
    let extra = origin.map_or_else(String::new, |node| node.to_string());
    let Some(launched) = worker::launch(REPLAY, "meld replay", database, &extra) else {
        return Err(no_place("the replay of parked transactions"));
    };
    while launched.status() != LaunchStatus::Ended {
        worker::pause(POLL);
        worker::check_for_interrupts();
    }
    Ok(())
}
