//! A provider that is not one: as much of PostgreSQL's protocol as a link needs, over a real socket, for streams that no
//! real server would send. Tests against real servers are in `pgrx-tests`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use meld_core::ids::{NodeId, NodeIdentity};
use meld_core::lsn::Lsn;
use meld_core::wire::{SUPPORTED, StartOptions};

use super::{LinkOptions, Positions, SlotPlan};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A fake provider, waiting for its one subscriber.
pub struct Fake {
    pub port: u16,
    thread: Option<JoinHandle<()>>,
}

/// The provider's end of a stream that has begun.
pub struct Provider {
    socket: TcpStream,
    /// Positions and whether a reply is wanted, as they arrive; disconnected when the subscriber is gone.
    pub statuses: Receiver<(Positions, bool)>,
}

pub fn node(id: u16) -> NodeIdentity {
    NodeIdentity {
        id: NodeId(id),
        name: format!("n{id}"),
        system_identifier: u64::MAX - u64::from(id),
        database: "app".into(),
        snowflake_node: id,
    }
}

pub fn options(port: u16) -> LinkOptions {
    LinkOptions {
        dsn: format!("host=127.0.0.1 port={port} user=u dbname=app sslmode=disable gssencmode=disable"),
        application_name: "meld_test".into(),
        slot_name: "meld_test".into(),
        slot: SlotPlan::Existing { from: Lsn(0x10) },
        start: StartOptions {
            protocol: SUPPORTED,
            meld_version: "0".into(),
            node: node(1),
            replication_sets: vec!["default".into()],
            forward_origins: Vec::new(),
            server_version: 150_000,
            encoding: "UTF8".into(),
            big_endian: false,
            horizon: meld_core::time::Timestamp::MIN,
            capabilities: Vec::new(),
        },
        expected_provider: Some(node(2)),
        server_run: 0,
        queue_bytes: 1 << 20,
        status_interval: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
    }
}

impl Fake {
    /// A provider that calls itself `identity`, and runs `stream` once the subscriber has started the stream.
    pub fn start(identity: NodeIdentity, stream: impl FnOnce(Provider) + Send + 'static) -> Fake {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_nodelay(true).unwrap();
            if let Some(provider) = greet(socket, &identity) {
                stream(provider);
            }
        });
        Fake { port, thread: Some(thread) }
    }

    /// Waits for the provider's script to end; what failed in it fails here.
    pub fn finish(mut self) {
        if let Err(panic) = self.thread.take().unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Provider {
    /// A message of the stream with WAL: its payload is a frame, if that is what it is.
    pub fn wal(&mut self, end: u64, payload: &[u8]) -> bool {
        let mut message = vec![b'w'];
        message.extend(end.to_be_bytes());
        message.extend(end.to_be_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        send(&mut self.socket, b'd', &message)
    }

    pub fn keepalive(&mut self, end: u64, reply_wanted: bool) -> bool {
        let mut message = vec![b'k'];
        message.extend(end.to_be_bytes());
        message.extend([0; 8]);
        message.push(reply_wanted.into());
        send(&mut self.socket, b'd', &message)
    }

    /// An error, after which a server closes the connection.
    pub fn fatal(mut self, sqlstate: &str, message: &str) {
        let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0DSome detail.\0HSome hint.\0\0");
        send(&mut self.socket, b'E', fields.as_bytes());
    }

    /// Waits for the subscriber to close the connection.
    pub fn wait_for_end(&self) {
        while self.statuses.recv_timeout(PATIENCE).is_ok() {}
    }
}

fn send(socket: &mut TcpStream, kind: u8, body: &[u8]) -> bool {
    let mut message = vec![kind];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    socket.write_all(&message).is_ok()
}

/// A length, which counts itself, and what it counts.
fn read_body(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    socket.read_exact(&mut body).ok()?;
    Some(body)
}

/// From the first byte to the start of the stream; nothing if the subscriber goes before.
fn greet(mut socket: TcpStream, identity: &NodeIdentity) -> Option<Provider> {
    read_body(&mut socket)?;
    send(&mut socket, b'R', &[0; 4]);
    for setting in ["server_encoding\0UTF8\0", "client_encoding\0UTF8\0", "server_version\x0015.0\0"] {
        send(&mut socket, b'S', setting.as_bytes());
    }
    send(&mut socket, b'K', &[0; 8]);
    send(&mut socket, b'Z', b"I");
    loop {
        let mut kind = [0];
        socket.read_exact(&mut kind).ok()?;
        let sql = String::from_utf8(read_body(&mut socket)?).unwrap();
        if kind[0] != b'Q' {
            return None;
        }
        if sql.starts_with("START_REPLICATION") {
            send(&mut socket, b'W', &[0; 3]);
            return Some(Provider { statuses: listen(socket.try_clone().unwrap()), socket });
        }
        if sql.contains("meld.identity()") {
            row(
                &mut socket,
                &[
                    &identity.id.to_string(),
                    &identity.name,
                    &identity.system_identifier.cast_signed().to_string(),
                    &identity.database,
                    &identity.snowflake_node.to_string(),
                    "150000",
                ],
            );
        } else if sql.contains("wal_sender_timeout") {
            row(&mut socket, &["0"]);
        }
        send(&mut socket, b'C', b"SET\0");
        send(&mut socket, b'Z', b"I");
    }
}

fn row(socket: &mut TcpStream, values: &[&str]) {
    let count = (values.len() as u16).to_be_bytes();
    let mut description = count.to_vec();
    let mut data = count.to_vec();
    for value in values {
        description.extend(b"c\0");
        description.extend([0; 18]);
        data.extend((value.len() as u32).to_be_bytes());
        data.extend(value.as_bytes());
    }
    send(socket, b'T', &description);
    send(socket, b'D', &data);
}

/// Reads what the subscriber sends, whatever the script is doing.
fn listen(mut socket: TcpStream) -> Receiver<(Positions, bool)> {
    let (sender, statuses) = mpsc::channel();
    std::thread::spawn(move || {
        let mut kind = [0];
        while socket.read_exact(&mut kind).is_ok() {
            let Some(body) = read_body(&mut socket) else { return };
            if kind[0] != b'd' {
                return;
            }
            assert_eq!((body[0], body.len()), (b'r', 34));
            let number = |at: usize| Lsn(u64::from_be_bytes(body[at..at + 8].try_into().unwrap()));
            let positions = Positions { written: number(1), flushed: number(9), applied: number(17) };
            if sender.send((positions, body[33] != 0)).is_err() {
                return;
            }
        }
    });
    statuses
}
