//! How the worker is linked to its provider: what it asks for, and whom it refuses.

use std::time::Duration;

use meld_core::lsn::Lsn;
use meld_core::wire::{SUPPORTED, StartOptions, Startup};
use pgrx::prelude::PgSqlErrorCode;

use super::Worker;
use crate::catalog;
use crate::catalog::node::Node;
use crate::catalog::subscription::Subscription;
use crate::log::{Failure, Result};
use crate::pg::worker as process;
use crate::pg::xact::in_transaction;
use crate::pg::{decoding_session, numbers, promise};
use crate::receiver::{LinkOptions, SlotPlan};
use crate::settings;

impl Worker {
    pub(super) fn check_startup(&self, startup: &Startup) -> Result<()> {
        let ours = decoding_session::database_encoding();
        if startup.encoding != ours {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!(
                    "database encoding {} of node \"{}\" differs from {ours} here",
                    startup.encoding, startup.node.name
                ),
            )
            .hint("Nodes of one mesh need databases with one encoding."));
        }
        let left_behind = in_transaction(|_| catalog::left_behind::of(self.subscription.provider.id))?;
        match left_behind {
            Some(left_behind) if left_behind.is_refused(startup.horizon) => {
                Err(catalog::left_behind::refusal(&startup.node.name, &self.local.identity.name))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn options(subscription: &Subscription, local: &Node, from: Lsn) -> LinkOptions {
    LinkOptions {
        dsn: subscription.dsn.clone(),
        application_name: subscription.slot_name.clone(),
        slot_name: subscription.slot_name.clone(),
        slot: if subscription.ready { SlotPlan::Existing { from } } else { SlotPlan::Create },
        start: StartOptions {
            protocol: SUPPORTED,
            meld_version: env!("CARGO_PKG_VERSION").to_owned(),
            node: local.identity.clone(),
            replication_sets: subscription.replication_sets.clone(),
            forward_origins: subscription.forward_origins.clone(),
            server_version: decoding_session::server_version(),
            encoding: decoding_session::database_encoding(),
            big_endian: cfg!(target_endian = "big"),
            horizon: promise::announced(process::my_database()).horizon,
            capabilities: Vec::new(),
        },
        expected_provider: Some(subscription.provider.clone()),
        server_run: numbers::run().unwrap_or_default(),
        queue_bytes: settings::APPLY_QUEUE_SIZE_KB.get() as usize * 1024,
        status_interval: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
    }
}
