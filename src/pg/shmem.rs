//! Shared memory of the extension: fixed-size tables that every process of the server sees at the same address.
//!
//! The postmaster reserves them while it preloads the library and fills them before it starts the first process, and
//! again after a crash of any process. A table has two parts: one that is only read and written under its LWLock, and
//! one of atomics that needs no lock. Neither may hold pointers or anything else that belongs to one process.
//!
//! Without preloading there is no table; [`SharedTable::available`] tells, and access gives `None`.

use std::ffi::CStr;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

/// A table in shared memory: `L` is behind the lock, `A` is open.
pub struct SharedTable<L, A> {
    name: &'static CStr,
    lock: AtomicPtr<pg_sys::LWLock>,
    content: AtomicPtr<Content<L, A>>,
}

#[repr(C)]
struct Content<L, A> {
    locked: L,
    open: A,
}

/// Something that wants to be reserved and filled at the start of the server.
pub trait Reserve: Sync {
    fn request(&self);
    fn fill(&self);
}

/// What `preload` was given, and the hooks that were there before.
struct Hooks {
    tables: Vec<&'static dyn Reserve>,
    request_before: pg_sys::shmem_request_hook_type,
    startup_before: pg_sys::shmem_startup_hook_type,
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Reserves the tables. Only while the postmaster preloads the library, once.
pub fn preload(tables: Vec<&'static dyn Reserve>) {
    // SAFETY: the hooks are globals that the postmaster's only thread sets while it loads libraries
    unsafe {
        let request_before = pg_sys::shmem_request_hook;
        let startup_before = pg_sys::shmem_startup_hook;
        if HOOKS.set(Hooks { tables, request_before, startup_before }).is_ok() {
            pg_sys::shmem_request_hook = Some(on_request);
            pg_sys::shmem_startup_hook = Some(on_startup);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    let Some(hooks) = HOOKS.get() else { return };
    if let Some(before) = hooks.request_before {
        // SAFETY: the hook of another library, called as the server would have called it
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| before()) };
    }
    hooks.tables.iter().for_each(|table| table.request());
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    let Some(hooks) = HOOKS.get() else { return };
    if let Some(before) = hooks.startup_before {
        // SAFETY: as above
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| before()) };
    }
    hooks.tables.iter().for_each(|table| table.fill());
}

impl<L, A> SharedTable<L, A>
where
    L: Copy + Default + Send + Sync + 'static,
    A: Default + Send + Sync + 'static,
{
    pub const fn new(name: &'static CStr) -> SharedTable<L, A> {
        SharedTable { name, lock: AtomicPtr::new(ptr::null_mut()), content: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Whether the library was preloaded.
    pub fn available(&self) -> bool {
        !self.content.load(Ordering::Relaxed).is_null()
    }

    /// The part that needs no lock.
    pub fn open(&self) -> Option<&'static A> {
        let content = self.content.load(Ordering::Relaxed);
        // SAFETY: null, or filled by the postmaster and mapped for the life of this process; `A` is only shared
        unsafe { content.as_ref() }.map(|content| &content.open)
    }

    /// Looks at the locked part. `look` should be short and must not raise.
    pub fn read<R>(&self, look: impl FnOnce(&L) -> R) -> Option<R> {
        let content = self.content.load(Ordering::Relaxed);
        if content.is_null() {
            return None;
        }
        let held = Held::acquire(self.lock.load(Ordering::Relaxed), pg_sys::LWLockMode::LW_SHARED);
        // SAFETY: filled and mapped as above; the shared lock keeps writers out while the reference lives
        let result = look(unsafe { &(*content).locked });
        drop(held);
        Some(result)
    }

    /// Changes the locked part. `change` should be short and must not raise.
    pub fn write<R>(&self, change: impl FnOnce(&mut L) -> R) -> Option<R> {
        let content = self.content.load(Ordering::Relaxed);
        if content.is_null() {
            return None;
        }
        let held = Held::acquire(self.lock.load(Ordering::Relaxed), pg_sys::LWLockMode::LW_EXCLUSIVE);
        // SAFETY: filled and mapped as above; the exclusive lock keeps everybody else out
        let result = change(unsafe { &mut (*content).locked });
        drop(held);
        Some(result)
    }
}

/// An LWLock that this process holds; released when dropped.
struct Held(*mut pg_sys::LWLock);

impl Held {
    fn acquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> Held {
        // SAFETY: a lock of this library's own tranche; not held by this process yet, since nothing nests here
        unsafe { pg_sys::LWLockAcquire(lock, mode) };
        Held(lock)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: still held, unless an error has released all locks already, which also resets the holdoff count
        unsafe {
            if pg_sys::InterruptHoldoffCount > 0 {
                pg_sys::LWLockRelease(self.0);
            }
        }
    }
}

impl<L, A> Reserve for SharedTable<L, A>
where
    L: Copy + Default + Send + Sync + 'static,
    A: Default + Send + Sync + 'static,
{
    fn request(&self) {
        // SAFETY: called from the request hook, the only time when this is allowed
        unsafe {
            pg_sys::RequestAddinShmemSpace(size_of::<Content<L, A>>());
            pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), 1);
        }
    }

    fn fill(&self) {
        let mut found = false;
        // SAFETY: called from the startup hook, in the postmaster only; memory from ShmemInitStruct is aligned to a
        // cache line and lives as long as this incarnation of shared memory, which every child maps alike
        unsafe {
            let content = pg_sys::ShmemInitStruct(self.name.as_ptr(), size_of::<Content<L, A>>(), &mut found)
                .cast::<Content<L, A>>();
            if !found {
                content.write(Content { locked: L::default(), open: A::default() });
            }
            let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(self.name.as_ptr())).lock;
            self.lock.store(lock, Ordering::Relaxed);
            self.content.store(content, Ordering::Relaxed);
        }
    }
}
