//! The system calls that a link needs: waiting for descriptors, and blocking signals.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

/// What a socket is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Read,
    Write,
    Either,
}

/// Waits until a descriptor is ready, for as long as `limit` if there is one. Gives for each whether it is ready (or
/// broken, so that its use would tell); a negative descriptor is never ready. A signal ends the wait early.
pub fn poll<const N: usize>(watched: [(RawFd, Want); N], limit: Option<Duration>) -> [bool; N] {
    let mut fds = watched.map(|(fd, want)| {
        let events = match want {
            Want::Read => libc::POLLIN,
            Want::Write => libc::POLLOUT,
            Want::Either => libc::POLLIN | libc::POLLOUT,
        };
        libc::pollfd { fd, events, revents: 0 }
    });
    // rounded up, so that a wait for the rest of a time does not become a run of empty waits
    let limit_ms = limit.map_or(-1, |limit| limit.as_micros().div_ceil(1000).try_into().unwrap_or(c_int::MAX));
    // SAFETY: fds is an array of N entries
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, limit_ms) };
    fds.map(|fd| ready > 0 && fd.revents != 0)
}

/// Runs `f` with every signal blocked for this thread; a thread that `f` starts keeps them blocked for good.
pub fn with_signals_blocked<T>(f: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset fills the first set, pthread_sigmask the second; neither fails with valid arguments
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let restore = Restore(before);
    let outcome = f();
    drop(restore);
    outcome
}

/// Puts a thread's signal mask back, also when what ran in between panics.
struct Restore(std::mem::MaybeUninit<libc::sigset_t>);

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: made only after pthread_sigmask had filled the set
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, self.0.as_ptr(), ptr::null_mut()) };
    }
}
