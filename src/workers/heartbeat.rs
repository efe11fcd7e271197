//! Heartbeats: what this node can promise, and what it knows that all others have promised.
//!
//! The manager of each database lets one go about every second, when idle too: it makes a promise, takes the horizon from
//! what its members have told (the providers of its subscriptions, also disabled ones), and writes both into WAL for all
//! who subscribe. What it has told before the crash of any process still holds, since only what is durable here counts.
//! `core::horizon` has the rules.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meld_core::horizon::{Collection, Horizons, Without};
use meld_core::ids::NodeId;
use meld_core::time::Timestamp;

use super::registry::{self, Announcement, Entry};
use crate::catalog::{self, Subscription};
use crate::log::Result;
use crate::pg::promise::{self, Announced};
use crate::pg::{Oid, clock, message, xact};

/// Between two heartbeats.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long a promise waits for commits that are under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the manager keeps from one heartbeat to the next.
pub struct Heart {
    database: Oid,
    members: HashMap<NodeId, LastWord>,
}

/// The last promise of a member, and when it was new here. No clock that somebody may set tells how long ago that is.
#[derive(Clone, Copy)]
struct LastWord {
    promise: Timestamp,
    at: Instant,
}

/// What was told, and what may be forgotten.
pub struct Beat {
    /// What each member has told.
    pub heard: HashMap<NodeId, Announcement>,
    pub collection: Collection,
    /// Some transaction waits to be applied by hand.
    pub is_any_parked: bool,
}

impl Heart {
    pub fn new(database: Oid) -> Heart {
        Heart { database, members: HashMap::new() }
    }

    /// One heartbeat; `None` if a commit that is under way does not end. `retention` is how long a member may be away.
    pub fn beat(&mut self, subscriptions: &[Subscription], retention: Duration) -> Result<Option<Beat>> {
        let Some(promised) = promised() else { return Ok(None) };
        let now = clock::now();
        let heard = heard_from(self.database, subscriptions);
        // behind what was heard: what was parked before that was told is seen
        let oldest_parked = xact::in_transaction(|_| catalog::parked::oldest())?;
        let collection = self.horizons(&heard, now).collection(oldest_parked, now, micros(retention));
        // what this node itself commits later can't be beyond its horizon
        let told = Announced { promise: promised, horizon: collection.horizon.min(promised) };
        let told = promise::announce(self.database, told);
        let beyond = collection.beyond.min(promised);
        let without = Without::of(&collection.left_behind).unwrap_or_default();
        xact::in_transaction(|_| {
            // without a subscriber nobody would hear it
            if catalog::slot::any()? {
                message::emit_heartbeat(told.promise, told.horizon, beyond, without)?;
            }
            Ok(())
        })?;
        let up_to = collection.up_to.min(told.promise);
        let is_any_parked = oldest_parked.is_some();
        Ok(Some(Beat { heard, collection: Collection { up_to, ..collection }, is_any_parked }))
    }

    fn horizons(&mut self, heard: &HashMap<NodeId, Announcement>, now: Timestamp) -> Horizons {
        self.members.retain(|node, _| heard.contains_key(node));
        let mut horizons = Horizons::default();
        for (&node, told) in heard {
            let promise = told.promise;
            let word = self.members.entry(node).or_insert_with(|| LastWord { promise, at: Instant::now() });
            if word.promise != promise {
                *word = LastWord { promise, at: Instant::now() };
            }
            horizons.add_member(node, Timestamp(now.0.saturating_sub(micros(word.at.elapsed()))));
            horizons.hear(node, told.promise, told.horizon);
            horizons.hear_beyond(node, told.beyond, told.without);
        }
        horizons
    }
}

/// What each member has told: of several subscriptions to one node the one that is furthest behind counts, and nothing
/// that the node tells without those that it has left behind.
fn heard_from(database: Oid, subscriptions: &[Subscription]) -> HashMap<NodeId, Announcement> {
    let entries: HashMap<i32, Entry> =
        registry::entries(database).into_iter().map(|entry| (entry.subscription_id, entry)).collect();
    let mut heard: HashMap<NodeId, Announcement> = HashMap::new();
    for subscription in subscriptions {
        let told = entries.get(&subscription.id).map(|entry| registry::progress(entry.slot).heard.told());
        let told = told.unwrap_or(Announcement::NOTHING);
        heard
            .entry(subscription.provider.id)
            .and_modify(|least| {
                let (promise, horizon) = (least.promise.min(told.promise), least.horizon.min(told.horizon));
                *least = Announcement { promise, horizon, ..Announcement::NOTHING };
            })
            .or_insert(told);
    }
    heard
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(not(feature = "planted_fault"))]
fn promised() -> Option<Timestamp> {
    promise::promise(PATIENCE)
}

#[cfg(feature = "planted_fault")]
fn promised() -> Option<Timestamp> {
    use crate::settings::{PLANTED_FAULT, PlantedFault};
    if PLANTED_FAULT.get() == PlantedFault::HastyPromises { Some(clock::now()) } else { promise::promise(PATIENCE) }
}
