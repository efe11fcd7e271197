//! Output plugins: the server's callbacks on one side, a safe trait on the other.
//!
//! The server loads the library into a walsender (or into a backend that calls `pg_logical_slot_get_binary_changes`),
//! asks `_PG_output_plugin_init` for callbacks and calls them while it replays the WAL of a slot, always on the main
//! thread, one at a time, with the catalog as it was at the change that is replayed. Here each callback finds the
//! plugin's state behind the context's private pointer, gives it what happened as borrowed values, and raises the
//! failure that it returns.
//!
//! The state lives on the Rust heap and dies with the decoding context's memory, in whatever way that ends. Server
//! memory that a callback allocates goes to a context that is emptied after it, so borrowed values end with their
//! callback. Neither streaming of unfinished transactions nor two-phase decoding is offered: the plugin sees
//! committed transactions only, whole and in commit order.

use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::slice;

use meld_core::ids::Xid;
use meld_core::lsn::Lsn;
use meld_core::time::Timestamp;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use pgrx::{PgMemoryContexts, pg_sys};

use super::decoded::{DecodedRelation, RowChange};
use super::decoding_session::{TextFormats, in_catalog_transaction};
use crate::log::{Result, or_raise};

/// Calls between two reports of progress in a transaction of which nothing may be sent: far enough apart to cost
/// nothing, and close enough to keep a subscriber from running into its timeout.
const CALLS_PER_PROGRESS: u32 = 256;

/// A replication origin's number on this server; 0 is what was written here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OriginNumber(pub u16);

impl OriginNumber {
    pub const LOCAL: OriginNumber = OriginNumber(0);
}

/// A committed transaction that is being replayed.
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    pub xid: Xid,
    /// Where it was committed first: for a transaction that came through an origin, the timestamp from there.
    pub commit_ts: Timestamp,
    pub origin: OriginNumber,
    /// Position of the commit record, and of its end.
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
}

/// What `pg_logical_emit_message` or one of our own functions wrote.
pub struct WalMessage<'a> {
    /// Of the transaction that it belongs to; none if it stands for itself.
    pub transaction: Option<Transaction>,
    /// Position of its record.
    pub lsn: Lsn,
    pub prefix: &'a [u8],
    pub content: &'a [u8],
}

/// A plugin, as the server's callbacks see it.
pub trait OutputPlugin: Sized + 'static {
    /// A slot begins to be read. Runs in a transaction, with the catalog as it is now.
    fn start(options: &[(String, String)]) -> Result<Self>;

    /// Whether changes that came through this origin may be of interest. No catalog access here.
    fn wants_origin(&self, origin: OriginNumber) -> bool;

    /// A transaction begins; nothing may be sent yet.
    fn begin(&mut self, transaction: Transaction);

    fn change(&mut self, sink: &mut Sink<'_>, change: &RowChange<'_>) -> Result<()>;

    fn truncate(&mut self, sink: &mut Sink<'_>, relations: &[DecodedRelation<'_>]) -> Result<()>;

    /// One that is in no transaction comes between the transactions, and without catalog access.
    fn message(&mut self, sink: &mut Sink<'_>, message: &WalMessage<'_>) -> Result<()>;

    fn commit(&mut self, sink: &mut Sink<'_>) -> Result<()>;
}

/// Makes the library an output plugin: exports `_PG_output_plugin_init` for an [`OutputPlugin`].
macro_rules! export_output_plugin {
    ($plugin:ty) => {
        /// The server's way in, called when a slot names this library.
        ///
        /// # Safety
        /// Called by the server only, with the table of callbacks to fill.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pgrx::pg_sys::OutputPluginCallbacks) {
            // SAFETY: the server passes its own zeroed table
            unsafe { $crate::pg::decoding::fill_callbacks::<$plugin>(callbacks) }
        }
    };
}
pub(crate) use export_output_plugin;

/// Where a plugin's output goes.
pub struct Sink<'a> {
    context: *mut pg_sys::LogicalDecodingContext,
    callback: PhantomData<&'a mut ()>,
}

impl Sink<'_> {
    /// Sends one piece of output, as one message of the replication stream. Waits while the subscriber doesn't read.
    pub fn write(&mut self, bytes: &[u8]) {
        let length = c_int::try_from(bytes.len()).expect("a frame is smaller than a server's buffer");
        // SAFETY: called from a callback that may write, with its context; the output buffer is the server's own and
        // copies the bytes
        unsafe {
            pg_sys::OutputPluginPrepareWrite(self.context, true);
            pg_sys::appendBinaryStringInfo((*self.context).out, bytes.as_ptr().cast(), length);
            pg_sys::OutputPluginWrite(self.context, true);
        }
    }

    /// Tells the server that work goes on, so that it can send a keep-alive if one is due.
    pub fn progress(&mut self, skipped_transaction: bool) {
        // SAFETY: called from a callback, with its context
        unsafe { pg_sys::OutputPluginUpdateProgress(self.context, skipped_transaction) }
    }
}

/// What hangs on a decoding context.
struct State<P> {
    plugin: P,
    /// Child of the decoding context's memory, emptied after each callback.
    scratch: pg_sys::MemoryContext,
    text_formats: TextFormats,
    calls_since_progress: u32,
}

/// # Safety
/// For [`export_output_plugin`]: `callbacks` is the server's table.
pub unsafe fn fill_callbacks<P: OutputPlugin>(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: see above
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup::<P>);
    callbacks.shutdown_cb = Some(shutdown::<P>);
    callbacks.filter_by_origin_cb = Some(filter_by_origin::<P>);
    callbacks.begin_cb = Some(begin::<P>);
    callbacks.change_cb = Some(change::<P>);
    callbacks.truncate_cb = Some(truncate::<P>);
    callbacks.message_cb = Some(message::<P>);
    callbacks.commit_cb = Some(commit::<P>);
}

unsafe extern "C-unwind" fn startup<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    let work = || {
        // SAFETY: the server's own, valid for the callback
        let (context, options) = unsafe { (&mut *context, &mut *options) };
        options.output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        options.receive_rewrites = false;
        // a slot that is only being made is not read, and gives no options
        if is_init {
            return;
        }
        // SAFETY: a list of DefElem, as the grammar makes it
        let pairs = unsafe { option_pairs(context.output_plugin_options) };
        let plugin = or_raise(in_catalog_transaction(|| P::start(&pairs)));
        // SAFETY: the decoding context's memory is alive and outlives all callbacks; the name is static
        let scratch = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                context.context,
                c"meld output plugin, one change".as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            )
        };
        let state = State { plugin, scratch, text_formats: TextFormats::set(), calls_since_progress: 0 };
        let state = PgMemoryContexts::For(context.context).leak_and_drop_on_delete(state);
        context.output_plugin_private = state.cast();
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn shutdown<P: OutputPlugin>(context: *mut pg_sys::LogicalDecodingContext) {
    let work = || {
        // SAFETY: as in `with_plugin`; the state itself goes with the context's memory
        if let Some(state) = unsafe { state_of::<P>(context) } {
            state.text_formats.restore();
        }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn filter_by_origin<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    origin: pg_sys::RepOriginId,
) -> bool {
    // true means: leave it out
    let work = || {
        // SAFETY: as in `with_plugin`
        let state = unsafe { state_of::<P>(context) };
        state.is_some_and(|state| !state.plugin.wants_origin(OriginNumber(origin)))
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn begin<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
) {
    let work = || {
        // SAFETY: the server's own, valid for the callback
        let transaction = unsafe { transaction_of(&*transaction) };
        // SAFETY: this callback's context
        unsafe {
            with_plugin::<P>(context, |state, _| {
                state.plugin.begin(transaction);
                Ok(())
            })
        }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn change<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    let work = || {
        // SAFETY: the server's own, valid for the callback, which outlives `change`
        let change = unsafe { RowChange::new(relation, &*change) };
        // SAFETY: this callback's context
        unsafe {
            with_plugin::<P>(context, |state, sink| {
                state.keep_alive(sink);
                change.as_ref().map_or(Ok(()), |change| state.plugin.change(sink, change))
            })
        }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn truncate<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    let work = || {
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the server passes so many open relations, valid for the callback
        let relations: Vec<_> = unsafe {
            slice::from_raw_parts(relations, count).iter().map(|&relation| DecodedRelation::new(relation)).collect()
        };
        // SAFETY: this callback's context
        unsafe {
            with_plugin::<P>(context, |state, sink| {
                state.keep_alive(sink);
                state.plugin.truncate(sink, &relations)
            })
        }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn message<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    lsn: pg_sys::XLogRecPtr,
    is_transactional: bool,
    prefix: *const c_char,
    length: pg_sys::Size,
    content: *const c_char,
) {
    let work = || {
        // SAFETY: a C string and so many bytes, valid for the callback; a message without content may have no pointer.
        // A transaction is there for a transactional one
        let message = unsafe {
            WalMessage {
                transaction: if is_transactional { transaction.as_ref().map(transaction_of) } else { None },
                lsn: Lsn(lsn),
                prefix: CStr::from_ptr(prefix).to_bytes(),
                content: if length == 0 { &[] } else { slice::from_raw_parts(content.cast(), length) },
            }
        };
        // SAFETY: this callback's context
        unsafe {
            with_plugin::<P>(context, |state, sink| {
                state.keep_alive(sink);
                state.plugin.message(sink, &message)
            })
        }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

unsafe extern "C-unwind" fn commit<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    let work = || {
        // SAFETY: this callback's context
        unsafe { with_plugin::<P>(context, |state, sink| state.plugin.commit(sink)) }
    };
    // SAFETY: main thread, called by the server
    unsafe { pgrx_extern_c_guard(work) }
}

impl<P> State<P> {
    fn keep_alive(&mut self, sink: &mut Sink<'_>) {
        self.calls_since_progress += 1;
        if self.calls_since_progress >= CALLS_PER_PROGRESS {
            self.calls_since_progress = 0;
            sink.progress(false);
        }
    }
}

/// # Safety
/// `context` is the one of the running callback; the reference must not outlive the callback.
unsafe fn state_of<'a, P: OutputPlugin>(context: *mut pg_sys::LogicalDecodingContext) -> Option<&'a mut State<P>> {
    // SAFETY: null until `startup` has put its state there, which lives as long as the context and is not used by
    // anybody else: callbacks don't nest
    unsafe { (*context).output_plugin_private.cast::<State<P>>().as_mut() }
}

/// Runs a callback's work with the scratch memory current; nothing if the slot is only being made.
///
/// # Safety
/// As for [`state_of`].
unsafe fn with_plugin<P: OutputPlugin>(
    context: *mut pg_sys::LogicalDecodingContext,
    work: impl FnOnce(&mut State<P>, &mut Sink<'_>) -> Result<()>,
) {
    // SAFETY: see above
    let Some(state) = (unsafe { state_of::<P>(context) }) else { return };
    let scratch = state.scratch;
    // SAFETY: switching is an assignment; if `work` raises, the server's error handling sets its own context
    let outside = unsafe {
        let outside = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = scratch;
        outside
    };
    let result = work(state, &mut Sink { context, callback: PhantomData });
    // SAFETY: nothing that `work` was given or made in the scratch memory is alive any more. Most callbacks allocate
    // nothing there, and a look costs less than a call
    unsafe {
        pg_sys::CurrentMemoryContext = outside;
        if !(*scratch).isReset {
            pg_sys::MemoryContextReset(scratch);
        }
    }
    or_raise(result);
}

fn transaction_of(transaction: &pg_sys::ReorderBufferTXN) -> Transaction {
    Transaction {
        xid: Xid(transaction.xid.into_inner()),
        // SAFETY: every member of the union is a timestamp
        commit_ts: Timestamp(unsafe { transaction.xact_time.commit_time }),
        origin: OriginNumber(transaction.origin_id),
        commit_lsn: Lsn(transaction.final_lsn),
        end_lsn: Lsn(transaction.end_lsn),
    }
}

/// # Safety
/// `list` is null or a list of `DefElem` whose arguments are null or strings.
unsafe fn option_pairs(list: *mut pg_sys::List) -> Vec<(String, String)> {
    let text = |start: *const c_char| {
        // SAFETY: null or a C string, see above
        let bytes = if start.is_null() { &[] } else { unsafe { CStr::from_ptr(start).to_bytes() } };
        String::from_utf8_lossy(bytes).into_owned()
    };
    // SAFETY: see above; elements of a list of pointers are in its array
    unsafe {
        let Some(list) = list.as_ref() else { return Vec::new() };
        let cells = slice::from_raw_parts(list.elements, usize::try_from(list.length).unwrap_or(0));
        let pair = |cell: &pg_sys::ListCell| {
            let item = &*cell.ptr_value.cast::<pg_sys::DefElem>();
            let value = if item.arg.is_null() { std::ptr::null() } else { pg_sys::defGetString(cell.ptr_value.cast()) };
            (text(item.defname), text(value))
        };
        cells.iter().map(pair).collect()
    }
}
