//! Background workers: start-up, signals, waiting, and starting other workers.
//!
//! How a worker of meld ends: SIGTERM (from the postmaster, the manager or `pg_terminate_backend`) sets a flag and
//! cancels what the server is waiting for, so a statement that is stuck in a lock raises "canceling statement" and
//! unwinds; the worker's loop sees [`shutdown_requested`] and returns from its main function. The server's own `die`
//! would end the process in the middle of C code instead, with the receiver's thread still running. The death of the
//! postmaster is treated as a request to shut down, for the same reason.
//!
//! Everything here belongs to the main thread of a worker, except [`wake`], which any server process may call.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::{IntoDatum, pg_sys};

use super::Oid;

/// What ended a [`wait`]; several may be true at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Woken {
    pub latch: bool,
    pub readable: bool,
    pub timed_out: bool,
    /// This process shall end: see the module's header.
    pub shutdown: bool,
}

/// Place of a process in the server's process array: an address for [`wake`] that is never invalid, at worst stale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcNumber(pub i32);

/// First call of a worker's main function: signal handlers, then a session in `database` as the bootstrap superuser.
pub fn start(database: Oid) {
    install_signal_handlers();
    // A request to end that comes this early must not raise, for nobody is there yet to take it: it stays pending.
    // SAFETY: start of a background worker that was registered with a database connection; raises FATAL on failure
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
        pg_sys::QueryCancelHoldoffCount -= 1;
    }
}

/// The same without a database: only the shared catalogs can be read.
pub fn start_without_database() {
    start(pg_sys::InvalidOid);
}

fn install_signal_handlers() {
    // SAFETY: background worker whose signals are still blocked; the handlers touch only flags and the latch
    unsafe {
        install(libc::SIGHUP, on_sighup);
        install(libc::SIGTERM, on_sigterm);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

type Handler = unsafe extern "C-unwind" fn(std::ffi::c_int);

/// # Safety
/// `handler` is async-signal-safe.
unsafe fn install(signal: i32, handler: Handler) {
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler));
    }
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise
    unsafe {
        pg_sys::pqsignal(signal, Some(handler));
    }
}

unsafe extern "C-unwind" fn on_sighup(_signal: std::ffi::c_int) {
    // SAFETY: as below
    unsafe {
        let errno = *libc::__errno_location();
        (&raw mut pg_sys::ConfigReloadPending).write_volatile(1);
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = errno;
    }
}

unsafe extern "C-unwind" fn on_sigterm(_signal: std::ffi::c_int) {
    // SAFETY: plain stores to flags made for signal handlers; SetLatch is async-signal-safe and keeps errno here
    unsafe {
        let errno = *libc::__errno_location();
        (&raw mut pg_sys::ShutdownRequestPending).write_volatile(1);
        (&raw mut pg_sys::QueryCancelPending).write_volatile(1);
        (&raw mut pg_sys::InterruptPending).write_volatile(1);
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = errno;
    }
}

/// Whether this process was asked to end.
pub fn shutdown_requested() -> bool {
    // SAFETY: a flag that only a signal handler and `wait` of this process set
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

/// Reads the configuration files again if SIGHUP came since the last call; true if it did.
pub fn reload_if_requested() -> bool {
    // SAFETY: the flag is this process's own; ProcessConfigFile may raise only for lack of memory
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() == 0 {
            return false;
        }
        (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Waits until the latch is set, `readable` has input, or `timeout` is over (`None`: no limit). Answers barriers and
/// other requests of the server, but leaves a request to shut down to the caller. Outside of a transaction, please.
pub fn wait(readable: Option<RawFd>, timeout: Option<Duration>) -> Woken {
    if shutdown_requested() {
        return Woken { shutdown: true, ..Woken::default() };
    }
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_POSTMASTER_DEATH;
    if readable.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    if timeout.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    let timeout_ms = timeout.map_or(-1, |t| t.as_millis().min(i32::MAX as u128) as i64);
    let socket = readable.unwrap_or(pg_sys::PGINVALID_SOCKET);
    // SAFETY: MyLatch belongs to this process; the caller's descriptor is open; may raise on a failing epoll call
    let happened = unsafe {
        let happened =
            pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, events as i32, socket, timeout_ms, pg_sys::PG_WAIT_EXTENSION)
                as u32;
        if happened & pg_sys::WL_LATCH_SET != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        happened
    };
    if happened & pg_sys::WL_POSTMASTER_DEATH != 0 {
        // SAFETY: as the signal handler does it
        unsafe { (&raw mut pg_sys::ShutdownRequestPending).write_volatile(1) };
    }
    answer_interrupts();
    Woken {
        latch: happened & pg_sys::WL_LATCH_SET != 0,
        readable: happened & pg_sys::WL_SOCKET_READABLE != 0,
        timed_out: happened & pg_sys::WL_TIMEOUT != 0,
        shutdown: shutdown_requested(),
    }
}

/// Answers what other processes ask of this one (DROP DATABASE, for one, waits for it). Does not raise for a request
/// to shut down.
pub fn answer_interrupts() {
    // SAFETY: main thread. A cancel request stays pending while the holdoff count is not zero; an error resets it
    unsafe {
        pg_sys::QueryCancelHoldoffCount += 1;
        pg_sys::check_for_interrupts!();
        pg_sys::QueryCancelHoldoffCount -= 1;
    }
}

/// Raises if the user cancelled the statement or the server wants this backend gone. For backends.
pub fn check_for_interrupts() {
    pg_sys::check_for_interrupts!();
}

/// Sleeps on the latch of a backend for at most `timeout`, then raises if the statement was cancelled.
pub fn pause(timeout: Duration) {
    let timeout_ms = timeout.as_millis().min(i32::MAX as u128) as i64;
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch belongs to this process
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, timeout_ms, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts();
}

/// Shown in `pg_stat_activity`.
pub fn set_application_name(name: &str) {
    set_for_session(c"application_name", &c_string(name));
}

/// Sets a setting for the life of this worker.
pub fn set_for_session(name: &CStr, value: &CStr) {
    // SAFETY: the server copies both texts; raises if the value is not one for that setting
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// What `pg_stat_activity` shows as this process's query; `None` shows it as idle.
pub fn report_activity(activity: Option<&str>) {
    // SAFETY: the server copies the text
    unsafe {
        match activity {
            Some(text) => {
                let text = c_string(text);
                pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr());
            }
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Lets the server know what this worker has written, for its statistics and for autovacuum. Outside of a transaction.
/// Without `force` it is put off if the last transaction ended within a second of the last report. The server goes by
/// that end, not by the clock: in a worker that then has no more transactions only `force` brings the rest.
pub fn report_statistics(force: bool) {
    // SAFETY: main thread, outside of a transaction
    unsafe { pg_sys::pgstat_report_stat(force) };
}

/// Text for C: what follows a NUL is cut off, since names and reports have none.
fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

pub fn my_pid() -> i32 {
    // SAFETY: set once at the start of the process
    unsafe { pg_sys::MyProcPid }
}

/// The oid of the database that this process is connected to.
pub fn my_database() -> Oid {
    // SAFETY: set once at the start of the session
    unsafe { pg_sys::MyDatabaseId }
}

/// Address of this process for [`wake`].
pub fn my_proc_number() -> ProcNumber {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: set once when the process joins the process array
    let number = unsafe { pg_sys::MyProcNumber };
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    // SAFETY: MyProc is set once when the process joins the process array
    let number = unsafe { (*pg_sys::MyProc).pgprocno };
    ProcNumber(number)
}

/// Sets the latch of the process at `number`: it looks around. Harmless if another process is there by now.
pub fn wake(number: ProcNumber) {
    // SAFETY: allProcs is an array of allProcCount entries in shared memory that lives as long as the server
    unsafe {
        let global = pg_sys::ProcGlobal;
        if number.0 >= 0 && (number.0 as u32) < (*global).allProcCount {
            pg_sys::SetLatch(&raw mut (*(*global).allProcs.add(number.0 as usize)).procLatch);
        }
    }
}

/// Whether a process with this id is a live backend or worker of this server.
pub fn is_alive(pid: i32) -> bool {
    // SAFETY: looks into the process array under its lock; the pointer is only compared
    pid != 0 && unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Whether this is a process of autovacuum.
pub fn is_autovacuum() -> bool {
    // SAFETY: set once at the start of the process
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER }
}

/// Whether there is any process with this id. One that has just been started is not among the server's backends yet.
pub fn exists(pid: i32) -> bool {
    // SAFETY: signal 0 is sent to nobody
    pid > 0 && unsafe { libc::kill(pid, 0) } == 0
}

/// Sends SIGTERM to a worker, unless it is gone.
pub fn terminate(pid: i32) {
    if is_alive(pid) {
        // SAFETY: a signal to a process of this server; one that has just ended makes the call fail, which is fine
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Whether the library is being loaded by the postmaster, the only time when shared memory and static workers can be
/// asked for.
pub fn preloading() -> bool {
    // SAFETY: a flag of the process
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// A kind of worker: how it shows up, and which exported function of this library it runs.
#[derive(Clone, Copy, Debug)]
pub struct WorkerKind {
    pub type_name: &'static str,
    pub function: &'static str,
}

/// Longest name that the server keeps of a worker.
const NAME_BYTES: usize = 95;

fn builder(kind: WorkerKind, name: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(cut(name, NAME_BYTES))
        .set_type(kind.type_name)
        .set_library("meld")
        .set_function(kind.function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
}

fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A worker that the postmaster starts by itself, and again `restart` after it ended. Only while preloading.
pub fn register_static(kind: WorkerKind, restart: Duration) {
    builder(kind, kind.type_name).set_restart_time(Some(restart)).load();
}

/// A worker that this process started.
pub struct Launched(DynamicBackgroundWorker);

/// Where a launched worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaunchStatus {
    Starting,
    Running,
    Ended,
}

/// Starts a worker with `argument` and `extra`; `None` if the server has no place for another one. This process's
/// latch is set when the worker starts and when it ends.
pub fn launch(kind: WorkerKind, name: &str, argument: i32, extra: &str) -> Option<Launched> {
    builder(kind, name)
        .set_argument(argument.into_datum())
        .set_extra(extra)
        .set_notify_pid(my_pid())
        .load_dynamic()
        .ok()
        .map(Launched)
}

impl Launched {
    pub fn status(&self) -> LaunchStatus {
        match self.0.pid() {
            Ok(_) => LaunchStatus::Running,
            Err(BackgroundWorkerStatus::NotYetStarted) => LaunchStatus::Starting,
            Err(_) => LaunchStatus::Ended,
        }
    }

    /// Takes the launch back if the worker is not there yet; else gives it back, for [`terminate`] to end it.
    pub fn cancel(self) -> Option<Launched> {
        match self.status() {
            LaunchStatus::Starting => {
                self.terminate();
                None
            }
            LaunchStatus::Running => Some(self),
            LaunchStatus::Ended => None,
        }
    }

    /// Asks the postmaster to end it: SIGTERM if it runs, and it is not started if it does not run yet.
    pub fn terminate(self) {
        self.0.terminate();
    }
}

/// Ends this worker at once. Only while it has no threads and no transaction.
pub fn exit(code: i32) -> ! {
    // SAFETY: runs the exit callbacks of the server and ends the process
    unsafe { pg_sys::proc_exit(code) }
}

/// The text that [`launch`] gave to this worker.
pub fn launch_extra() -> &'static str {
    pgrx::bgworkers::BackgroundWorker::get_extra().trim_end_matches('\0')
}
