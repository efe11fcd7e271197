//! The settings of meld (`meld.*`, `snowflake.node`), their types, defaults and bounds.
//!
//! The prefix is not reserved with the server, so that a configuration may name settings of a later version.

use meld_core::clock::SkewAction;
use meld_core::converge::Policy;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::log::LogLevel;

/// Byte bound of the queue between receiver and apply, in kB.
pub static APPLY_QUEUE_SIZE_KB: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);

/// Whether conflicts are stored in `meld.resolutions`.
pub static SAVE_RESOLUTIONS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Level of the line in the server log for each conflict.
pub static CONFLICT_LOG_LEVEL: GucSetting<LogLevel> = GucSetting::<LogLevel>::new(LogLevel::Log);

/// Age at which entries of `meld.resolutions` are removed, in seconds; negative: never.
pub static RESOLUTIONS_RETENTION_S: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 60 * 60);

/// How long a local commit waits for a clock that was stepped back.
pub static COMMIT_WAIT_LIMIT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// A peer whose clock is further ahead is reported.
pub static MAX_CLOCK_SKEW_MS: GucSetting<i32> = GucSetting::<i32>::new(2000);

/// What becomes of its transactions.
pub static MAX_CLOCK_SKEW_ACTION: GucSetting<ClockSkewAction> =
    GucSetting::<ClockSkewAction>::new(ClockSkewAction::Wait);

/// Values of `meld.max_clock_skew_action`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum ClockSkewAction {
    #[name = c"wait"]
    Wait,
    #[name = c"warn"]
    Warn,
    #[name = c"error"]
    Error,
}

impl From<ClockSkewAction> for SkewAction {
    fn from(action: ClockSkewAction) -> SkewAction {
        match action {
            ClockSkewAction::Wait => SkewAction::Wait,
            ClockSkewAction::Warn => SkewAction::Warn,
            ClockSkewAction::Error => SkewAction::Error,
        }
    }
}

/// What gives way when a row was deleted to which a row of another node refers.
pub static FOREIGN_KEY_CONFLICT: GucSetting<ForeignKeyConflict> =
    GucSetting::<ForeignKeyConflict>::new(ForeignKeyConflict::KeepParent);

/// Values of `meld.foreign_key_conflict`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum ForeignKeyConflict {
    #[name = c"keep_parent"]
    KeepParent,
    #[name = c"drop_child"]
    DropChild,
    #[name = c"exception"]
    Exception,
}

impl From<ForeignKeyConflict> for Policy {
    fn from(setting: ForeignKeyConflict) -> Policy {
        match setting {
            ForeignKeyConflict::KeepParent => Policy::KeepParent,
            ForeignKeyConflict::DropChild => Policy::DropChild,
            ForeignKeyConflict::Exception => Policy::Exception,
        }
    }
}

/// What becomes of a remote transaction that cannot be applied.
pub static EXCEPTION_BEHAVIOUR: GucSetting<ExceptionBehaviour> =
    GucSetting::<ExceptionBehaviour>::new(ExceptionBehaviour::Transdiscard);

/// Values of `meld.exception_behaviour`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum ExceptionBehaviour {
    /// It is parked whole.
    #[name = c"transdiscard"]
    Transdiscard,
    /// The changes that fail are parked, the others applied.
    #[name = c"discard"]
    Discard,
    /// The subscription is disabled.
    #[name = c"sub_disable"]
    SubDisable,
    /// It is tried again for ever.
    #[name = c"retry"]
    Retry,
}

impl ExceptionBehaviour {
    pub fn name(self) -> &'static str {
        match self {
            ExceptionBehaviour::Transdiscard => "transdiscard",
            ExceptionBehaviour::Discard => "discard",
            ExceptionBehaviour::SubDisable => "sub_disable",
            ExceptionBehaviour::Retry => "retry",
        }
    }
}

/// Which operations of such a transaction go to `meld.exception_log`.
pub static EXCEPTION_LOGGING: GucSetting<ExceptionLogging> = GucSetting::<ExceptionLogging>::new(ExceptionLogging::All);

/// Values of `meld.exception_logging`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum ExceptionLogging {
    #[name = c"all"]
    All,
    /// Only those that failed.
    #[name = c"discard"]
    Discard,
    #[name = c"none"]
    None,
}

/// Tries after the first one, before the policy acts, and the pause before the first of them; it doubles.
pub static EXCEPTION_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(3);
pub static EXCEPTION_RETRY_DELAY_MS: GucSetting<i32> = GucSetting::<i32>::new(100);

/// Bound of parked work, in MB.
pub static MAX_PARKED_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// Node number in snowflake ids; 0 stands for the node id.
pub static SNOWFLAKE_NODE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// How often sequences are kept ahead of the providers'.
pub static SEQUENCE_SYNC_INTERVAL_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// How long a member may be away before the others forget deleted rows without it, in seconds.
pub static TOMBSTONE_RETENTION_S: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60 * 60);

/// Makes this node break the rule in one way, so that tests can be seen to fail. Not in an ordinary build.
#[cfg(feature = "planted_fault")]
pub static PLANTED_FAULT: GucSetting<PlantedFault> = GucSetting::<PlantedFault>::new(PlantedFault::None);

/// Values of `meld.planted_fault`.
#[cfg(feature = "planted_fault")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum PlantedFault {
    #[name = c"none"]
    None,
    /// The older of two versions wins.
    #[name = c"older_wins"]
    OlderWins,
    /// Tombstones are not looked at.
    #[name = c"no_tombstones"]
    NoTombstones,
    /// A removal is not announced, so that it goes out as a delete.
    #[name = c"silent_removals"]
    SilentRemovals,
    /// A row that was fetched, or that a contribution rewrote, gets the stamp of its transaction.
    #[name = c"no_overrides"]
    NoOverrides,
    /// The clock is promised without waiting for commits that are under way.
    #[name = c"hasty_promises"]
    HastyPromises,
}

pub fn register() {
    #[cfg(feature = "planted_fault")]
    GucRegistry::define_enum_guc(
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
    GucRegistry::define_enum_guc(
        c"meld.foreign_key_conflict",
        c"What gives way when a row was deleted to which a row of another node refers.",
        c"keep_parent writes the deleted row anew, drop_child removes the rows that refer to it.",
        &FOREIGN_KEY_CONFLICT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    register_conflicts();
    register_clock();
    register_exceptions();
    GucRegistry::define_int_guc(
        c"meld.tombstone_retention",
        c"How long a node may be away before the others forget deleted rows without it.",
        c"One that was away for longer and has missed that has to be set up anew.",
        &TOMBSTONE_RETENTION_S,
        5,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"meld.sequence_sync_interval",
        c"How often sequences in replication sets are brought ahead of those of the providers.",
        c"",
        &SEQUENCE_SYNC_INTERVAL_MS,
        100,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    crate::pg::numbers::register(
        c"snowflake.node",
        c"Node number in snowflake ids.",
        c"0 stands for the id of the local meld node.",
        &SNOWFLAKE_NODE,
    );
}

fn register_conflicts() {
    GucRegistry::define_bool_guc(
        c"meld.save_resolutions",
        c"Stores each conflict and its outcome in meld.resolutions.",
        c"",
        &SAVE_RESOLUTIONS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"meld.conflict_log_level",
        c"Level of the line that is written to the server log for each conflict.",
        c"Whether such a level is written at all is for log_min_messages to say.",
        &CONFLICT_LOG_LEVEL,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meld.resolutions_retention",
        c"Age at which entries of meld.resolutions are removed.",
        c"-1 keeps them for ever.",
        &RESOLUTIONS_RETENTION_S,
        -1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

fn register_exceptions() {
    GucRegistry::define_enum_guc(
        c"meld.exception_behaviour",
        c"What becomes of a remote transaction that cannot be applied.",
        c"It is parked whole (transdiscard), or only its failing changes (discard), or stops its subscription.",
        &EXCEPTION_BEHAVIOUR,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"meld.exception_logging",
        c"Which operations of such a transaction are stored in meld.exception_log.",
        c"",
        &EXCEPTION_LOGGING,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meld.exception_retries",
        c"How often a remote transaction that fails is tried again before meld.exception_behaviour says what becomes of it.",
        c"",
        &EXCEPTION_RETRIES,
        0,
        1000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meld.exception_retry_delay",
        c"Pause before the first of these tries; it doubles each time.",
        c"",
        &EXCEPTION_RETRY_DELAY_MS,
        0,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"meld.max_parked_size",
        c"Size of all parked transactions beyond which a subscription stops instead of parking more.",
        c"",
        &MAX_PARKED_SIZE_MB,
        0,
        i32::MAX / 2,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
}

fn register_clock() {
    GucRegistry::define_int_guc(
        c"meld.commit_wait_limit",
        c"How long a local commit waits for a clock that was stepped back.",
        c"If the clock is further behind, the commit fails.",
        &COMMIT_WAIT_LIMIT_MS,
        0,
        3_600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"meld.max_clock_skew",
        c"How far a peer's clock may be ahead before that is reported.",
        c"",
        &MAX_CLOCK_SKEW_MS,
        0,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"meld.max_clock_skew_action",
        c"What is done with the transactions of a peer whose clock is too far ahead.",
        c"",
        &MAX_CLOCK_SKEW_ACTION,
        GucContext::Sighup,
        GucFlags::default(),
    );
}
