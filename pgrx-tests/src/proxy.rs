//! A dishonest network: a TCP proxy between a subscriber and its provider that damages the replication stream.
//!
//! It follows the provider's messages (a type byte, a length, a body), so that damage can be done inside one frame of
//! the stream while all else stays well-formed: the subscriber's own checks must see it, not those of libpq. Only WAL
//! data (`d` messages that begin with `w`) is damaged; everything else passes. The connection strings of the harness
//! switch SSL and GSS off, so messages are in clear text from the first byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// Type and length of a message.
const HEADER: usize = 5;
/// Of a `w` message before the payload: its letter, start, end, time.
const WAL_HEADER: usize = 25;

/// What the proxy does to a message with WAL data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    None,
    /// Turns one bit of the payload, in the byte at this share (0..=100 percent) of its length.
    FlipBit(usize),
    /// Cuts the end of the payload off; the message's length is right for what is left.
    Truncate,
    /// Leaves the payload empty.
    Empty,
    /// Another first byte: a version of the format that nobody has.
    Version,
    /// Leaves one message out and is honest again.
    DropOne,
    /// Sends the message twice.
    Repeat,
    /// Adds bytes to the payload.
    Extend,
    /// Replaces the payload by bytes without any sense.
    Garbage,
    /// Closes the connection in the middle of the message.
    Cut,
    /// Takes no connections and closes those there are.
    Refuse,
    /// Holds everything back without closing anything.
    Stall,
}

struct Shared {
    damage: Mutex<Damage>,
    damaged: AtomicU32,
    ended: AtomicBool,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts a proxy in front of a port of this machine, honest at first.
    pub fn start(target: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("could not listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            damage: Mutex::new(Damage::None),
            damaged: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, target, &of_thread));
        Ok(Proxy { port, shared })
    }

    pub fn set(&self, damage: Damage) {
        *self.shared.damage.lock().unwrap_or_else(PoisonError::into_inner) = damage;
        self.shared.damaged.store(0, Ordering::SeqCst);
    }

    /// Messages damaged, or connections refused, since the last [`Proxy::set`].
    pub fn damaged(&self) -> u32 {
        self.shared.damaged.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // wakes the thread that accepts
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn damage(&self) -> Damage {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

fn accept(listener: &TcpListener, target: u16, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.ended() {
            return;
        }
        if shared.damage() == Damage::Refuse {
            shared.damaged.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = relay(&client, &server, &shared);
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }
}

fn relay(client: &TcpStream, server: &TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let requests = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut buffer = [0_u8; 8192];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            if !wait_while_stalled(&requests) || to_server.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let mut buffer = Vec::new();
    while read_message(&mut from_server, &mut buffer, shared)? {
        if !wait_while_stalled(shared) {
            break;
        }
        pass(&mut to_client, &mut buffer, shared)?;
    }
    Ok(())
}

/// Holds on while the network is stalled; whether to go on afterwards.
fn wait_while_stalled(shared: &Shared) -> bool {
    while shared.damage() == Damage::Stall && !shared.ended() {
        crate::wait::pause();
    }
    shared.damage() != Damage::Refuse && !shared.ended()
}

/// Reads one whole message; false at the end of the stream or when the proxy has to close.
fn read_message(server: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Result<bool> {
    buffer.resize(HEADER, 0);
    if !read_exactly(server, buffer, 0, shared)? {
        return Ok(false);
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    buffer.resize(length + 1, 0);
    read_exactly(server, buffer, HEADER, shared)
}

fn read_exactly(server: &mut TcpStream, buffer: &mut [u8], mut have: usize, shared: &Shared) -> Result<bool> {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    while have < buffer.len() {
        if shared.ended() || shared.damage() == Damage::Refuse {
            return Ok(false);
        }
        match server.read(&mut buffer[have..]) {
            Ok(0) => return Ok(false),
            Ok(more) => have += more,
            Err(error) if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn pass(client: &mut TcpStream, message: &mut Vec<u8>, shared: &Shared) -> Result<()> {
    let damage = shared.damage();
    let is_wal = message[0] == b'd' && message.len() > HEADER + WAL_HEADER && message[HEADER] == b'w';
    if !is_wal || damage == Damage::None {
        return Ok(client.write_all(message)?);
    }
    shared.damaged.fetch_add(1, Ordering::SeqCst);
    if damage == Damage::Cut {
        client.write_all(&message[..message.len() / 2])?;
        anyhow::bail!("cut");
    }
    if damage == Damage::DropOne {
        *shared.damage.lock().unwrap_or_else(PoisonError::into_inner) = Damage::None;
    }
    let copies = match damage {
        Damage::DropOne => 0,
        Damage::Repeat => 2,
        _ => 1,
    };
    spoil(message, damage);
    let length = (message.len() - 1) as u32;
    message[1..HEADER].copy_from_slice(&length.to_be_bytes());
    for _ in 0..copies {
        client.write_all(message)?;
    }
    Ok(())
}

/// Changes the payload of a message.
fn spoil(message: &mut Vec<u8>, damage: Damage) {
    let start = HEADER + WAL_HEADER;
    let size = message.len() - start;
    match damage {
        Damage::FlipBit(percent) => message[start + (size - 1) * percent.min(100) / 100] ^= 0x10,
        Damage::Truncate => message.truncate(start + size.div_ceil(2)),
        Damage::Empty => message.truncate(start),
        Damage::Version => message[start] = 0xee,
        Damage::Extend => message.extend_from_slice(&[0x5a; 64]),
        Damage::Garbage => message[start..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 151 + 89) as u8),
        Damage::None | Damage::DropOne | Damage::Repeat | Damage::Cut | Damage::Refuse | Damage::Stall => {}
    }
}
