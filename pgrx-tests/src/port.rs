//! Reservations that hold over processes: TCP ports for servers, and the right to run one of few clusters.
//!
//! Each is a file lock, so that it ends with its holder however that dies. Ports lie below the range from which the
//! kernel takes those of outgoing connections: a server that is down for a while does not lose its port to one.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::{DEADLINE, Look, until};

/// Clusters at a time on one machine, over all test binaries.
const CLUSTERS: usize = 2;
/// A scenario may have to wait for several long ones.
const TURN_LIMIT: Duration = Duration::from_secs(1800);
const PORTS: std::ops::Range<u16> = 20000..32000;

pub struct Reservation {
    _lock: File,
}

pub struct Port {
    pub number: u16,
    _lock: Reservation,
}

impl Reservation {
    /// Takes the lock of that name if it is free.
    pub fn take(dir: &Path, name: &str) -> Result<Option<Reservation>> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("could not open \"{}\"", path.display()))?;
        Ok(file.try_lock().is_ok().then_some(Reservation { _lock: file }))
    }

    /// Waits for a turn to run a cluster.
    pub fn turn(work: &Path) -> Result<Reservation> {
        let dir = work.join("locks");
        until("a free turn to run a cluster", TURN_LIMIT, || {
            let taken = (0..CLUSTERS).find_map(|n| Self::take(&dir, &format!("turn{n}")).transpose());
            taken.map_or_else(|| Look::Seen("all turns taken".into()), Look::Done)
        })
    }

    /// Waits for the lock of that name.
    pub fn wait(dir: &Path, name: &str) -> Reservation {
        until(&format!("the lock \"{name}\""), DEADLINE, || match Self::take(dir, name) {
            Ok(Some(lock)) => Look::Done(lock),
            other => Look::Seen(format!("taken, {:?}", other.err())),
        })
    }
}

impl Port {
    pub fn reserve(work: &Path) -> Result<Port> {
        for _ in 0..1000 {
            let number = rand::random_range(PORTS);
            let Some(lock) = Reservation::take(&work.join("locks"), &format!("port{number}"))? else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        bail!("no free port in {PORTS:?}")
    }
}
