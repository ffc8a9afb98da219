//! A line to a server that is far away: every byte takes half of the delay in each direction, a new
//! connection all of it once. Writes down what is asked for. Requests have no bodies.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::lock;

/// Pieces on their way at most: more than any connection here fills.
const IN_FLIGHT: usize = 1024;

/// Listens until the program ends.
pub struct Line {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// What went over the line.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The first line of each request.
    pub requests: Vec<String>,
    /// That came from the server.
    pub bytes: usize,
    pub connections: usize,
}

impl Line {
    pub fn to(port: u16, delay: Duration) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let line =
            Line { port: listener.local_addr().expect("it listens").port(), seen: Arc::default() };
        let seen = line.seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
                lock(&seen).connections += 1;
                if let Err(error) = join(client, server, delay, &seen) {
                    eprintln!("the line: {error}");
                }
            }
        });
        line
    }

    /// What went over the line since it was last asked.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut lock(&self.seen))
    }
}

fn join(
    client: TcpStream,
    server: TcpStream,
    delay: Duration,
    seen: &Arc<Mutex<Seen>>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (asked, answered) = (seen.clone(), seen.clone());
    let mut head = Vec::new();
    let opened = Instant::now() + delay;
    carry(client.try_clone()?, server.try_clone()?, opened, delay / 2, move |bytes| {
        head.extend_from_slice(bytes);
        while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            let request: Vec<u8> = head.drain(..end + 4).collect();
            let text = String::from_utf8_lossy(&request);
            lock(&asked).requests.extend(text.lines().next().map(str::to_owned));
        }
    });
    carry(server, client, opened, delay / 2, move |bytes| lock(&answered).bytes += bytes.len());
    Ok(())
}

/// One direction: a thread that reads, and one that writes what has been on its way for long enough.
fn carry(
    mut from: TcpStream,
    to: TcpStream,
    opened: Instant,
    way: Duration,
    mut look: impl FnMut(&[u8]) + Send + 'static,
) {
    let (sent, arriving) = sync_channel(IN_FLIGHT);
    thread::spawn(move || deliver(to, &arriving));
    thread::spawn(move || {
        let mut piece = [0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            look(&piece[..length]);
            let due = Instant::now().max(opened) + way;
            if sent.send((due, piece[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn deliver(mut to: TcpStream, arriving: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in arriving {
        #[expect(clippy::disallowed_methods, reason = "the delay is what this is for")]
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
