//! What nodes have announced to each other, behind `cluster_status`.

use meld_core::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use crate::pg::promise;
use crate::pg::worker::my_database;
use crate::workers::registry;

/// A row for each subscription that has a place in the registry, and one without for this node itself.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn announcements() -> TableIterator<
    'static,
    (
        name!(subscription_id, Option<i32>),
        name!(heard_at, Option<TimestampWithTimeZone>),
        name!(promise, Option<TimestampWithTimeZone>),
        name!(horizon, Option<TimestampWithTimeZone>),
    ),
> {
    let own = promise::announced(my_database());
    let mut rows = vec![(None, None, shown(own.promise), shown(own.horizon))];
    rows.extend(registry::entries(my_database()).into_iter().map(|entry| {
        let heard = &registry::progress(entry.slot).heard;
        (Some(entry.subscription_id), heard.at().and_then(shown), shown(heard.promise()), shown(heard.horizon()))
    }));
    TableIterator::new(rows)
}

/// Null for what was never announced.
fn shown(time: Timestamp) -> Option<TimestampWithTimeZone> {
    Some(time).filter(|&time| time != Timestamp::MIN).and_then(|time| TimestampWithTimeZone::try_from(time.0).ok())
}
