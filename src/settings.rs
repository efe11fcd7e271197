//! The settings of meld (`meld.*`, `snowflake.node`), their types, defaults and bounds.
//!
//! The prefix is not reserved with the server, so that a configuration may name settings of a later version.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Byte bound of the queue between receiver and apply, in kB.
pub static APPLY_QUEUE_SIZE_KB: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);

/// Whether conflicts are stored in `meld.resolutions`.
pub static SAVE_RESOLUTIONS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Node number in snowflake ids; 0 stands for the node id.
pub static SNOWFLAKE_NODE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Makes the older version win on this node, so that tests can be seen to fail. Not in an ordinary build.
#[cfg(feature = "planted_fault")]
pub static PLANTED_FAULT: GucSetting<bool> = GucSetting::<bool>::new(false);

pub fn register() {
    #[cfg(feature = "planted_fault")]
    GucRegistry::define_bool_guc(
        c"meld.planted_fault",
        c"Makes conflicts go wrong on this node.",
        c"",
        &PLANTED_FAULT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meld.apply_queue_size",
        c"Memory for changes that were received and are not applied yet, for each subscription.",
        c"The receiver stops reading from the provider while the queue holds more than this.",
        &APPLY_QUEUE_SIZE_KB,
        64,
        4 * 1024 * 1024 - 1,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"meld.save_resolutions",
        c"Stores each conflict and its outcome in meld.resolutions.",
        c"",
        &SAVE_RESOLUTIONS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"snowflake.node",
        c"Node number in snowflake ids.",
        c"0 stands for the id of the local meld node.",
        &SNOWFLAKE_NODE,
        0,
        1023,
        GucContext::Sighup,
        GucFlags::default(),
    );
}
