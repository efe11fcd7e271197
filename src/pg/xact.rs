//! Transactions of background workers.
//!
//! A worker has no client that begins transactions; it opens one with [`Xact::begin`] and ends it with
//! [`Xact::commit`] or [`Xact::abort`]. An error inside unwinds to the worker's outermost frame and ends the process
//! (or is caught there and the transaction aborted), so an `Xact` that is dropped while panicking does nothing.

use std::marker::PhantomData;

use pgrx::pg_sys;

use crate::log::Result;

/// The number of this process's transaction among those of its backend slot: another transaction has another one.
pub(super) fn local_number() -> u32 {
    // SAFETY: a process that is connected to a database has an entry, which it alone writes here
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// How many transactions with a number this server has begun, in all its life.
pub fn ever_begun() -> u64 {
    // SAFETY: shared memory that is mapped for the life of the process; a value of eight bytes is read in one go
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let shared = pg_sys::ShmemVariableCache;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let shared = pg_sys::TransamVariables;
        (&raw const (*shared).nextXid.value).read_volatile()
    }
}

/// Proof that this process is inside a transaction that it began itself. Not `Send`: only the main thread has one.
pub struct Xact {
    main_thread_only: PhantomData<*mut ()>,
}

impl Xact {
    /// Begins a transaction with an active snapshot-less state, as a worker needs before any catalog access.
    pub fn begin() -> Xact {
        // SAFETY: main thread of a process connected to a database, outside of a transaction; raises on failure
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        Xact { main_thread_only: PhantomData }
    }

    /// The transaction that a backend is in while a statement runs. Not to be ended through this.
    #[cfg(any(test, feature = "pg_test"))]
    pub fn of_backend() -> Xact {
        Xact { main_thread_only: PhantomData }
    }

    /// The transaction that this process is in, if it is in one. Not to be ended through this.
    pub fn current() -> Option<Xact> {
        // SAFETY: reads state of this process
        unsafe { pg_sys::IsTransactionState() }.then_some(Xact { main_thread_only: PhantomData })
    }

    pub fn commit(self) {
        // SAFETY: `self` proves that a transaction is open
        unsafe { pg_sys::CommitTransactionCommand() }
    }

    /// Commits, and is not back before that is on disk, whatever `synchronous_commit` says; nor does anybody see it before.
    pub fn commit_durably(self) {
        // SAFETY: `self` proves that a transaction is open; sets a flag of this transaction
        unsafe { pg_sys::ForceSyncCommit() }
        self.commit();
    }

    pub fn abort(self) {
        // SAFETY: `self` proves that a transaction is open
        unsafe { pg_sys::AbortCurrentTransaction() }
    }

    /// Runs `work` with a fresh active snapshot, as queries through SPI need it.
    pub fn with_snapshot<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: a transaction is open; the snapshot is popped below, or by the abort that follows an error
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        let result = work();
        // SAFETY: the snapshot pushed above is on top, since `work` returned normally
        unsafe { pg_sys::PopActiveSnapshot() };
        result
    }
}

impl Xact {
    /// Like [`Xact::with_snapshot`], and what `work` takes of the server's memory is given back at its end, not at that of
    /// the transaction. Nothing of it may be kept.
    pub fn briefly<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: a transaction is open; the context hangs below the current one, and goes with that after an error
        let (context, before) = unsafe {
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"meld brief work".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            (context, pg_sys::MemoryContextSwitchTo(context))
        };
        let result = self.with_snapshot(work);
        // SAFETY: the context that was current before lives on; the other one is not current any more
        unsafe {
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextDelete(context);
        }
        result
    }
}

/// Runs `work` in a transaction of its own, with a snapshot; commits it, or aborts it if `work` fails.
pub fn in_transaction<T>(work: impl FnOnce(&Xact) -> Result<T>) -> Result<T> {
    let xact = Xact::begin();
    let result = xact.with_snapshot(|| work(&xact));
    match result {
        Ok(_) => xact.commit(),
        Err(_) => xact.abort(),
    }
    result
}
