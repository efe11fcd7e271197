//! Word of a DROP EXTENSION, for which there is no other sign: the extension's own event triggers are gone by then.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

struct Hook {
    before: pg_sys::object_access_hook_type,
    notify: fn(),
}

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Calls `notify`, inside the transaction, whenever an extension is dropped. Only while the library is loaded.
pub fn on_drop_extension(notify: fn()) {
    // SAFETY: a global of this process that nobody else sets while a library is loaded
    unsafe {
        if HOOK.set(Hook { before: pg_sys::object_access_hook, notify }).is_ok() {
            pg_sys::object_access_hook = Some(on_access);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    let Some(hook) = HOOK.get() else { return };
    if let Some(before) = hook.before {
        // SAFETY: the hook of another library, called as the server would have called it
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| before(access, class, object, part, argument)) };
    }
    if access == pg_sys::ObjectAccessType::OAT_DROP && class == pg_sys::ExtensionRelationId {
        (hook.notify)();
    }
}
