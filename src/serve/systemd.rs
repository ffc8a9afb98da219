//! What a service tells systemd where that has started it (sd_notify(3)): that it is ready, that it
//! is alive, that it is on its way out. Elsewhere these are no-ops.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::listen::Address;

/// What an answer to ourselves may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// No token, so no statement: 401, by the threads that serve clients.
const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: watchdog\r\nConnection: close\r\n\r\n";

/// It serves.
pub fn ready() {
    tell("READY=1");
}

/// It drains.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Says that we are alive for as long as we are: `WATCHDOG=1` three times in the interval that the
/// unit gives us (`WatchdogSec=`), each time only if `is_alive`. Ends at once where there is none.
pub async fn beat(mut is_alive: impl AsyncFnMut() -> bool) {
    let Some(interval) = watchdog() else { return };
    loop {
        match is_alive().await {
            true => tell("WATCHDOG=1"),
            false => tracing::error!("no answer from ourselves: systemd is not told that we live"),
        }
        tokio::time::sleep(interval / 3).await;
    }
}

/// Whether anything is answered at an address of ours.
pub(super) async fn answers(address: &Address) -> bool {
    let asked = async {
        match address {
            Address::Tcp(address) => ask(TcpStream::connect(address).await?).await,
            Address::Unix(path) => ask(UnixStream::connect(path).await?).await,
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.is_ok_and(|answer| answer.is_ok())
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> io::Result<()> {
    stream.write_all(REQUEST).await?;
    stream.read_exact(&mut [0; "HTTP/1.1 401".len()]).await.map(|_| ())
}

/// The interval of the unit, unless it is another process's.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros)
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "systemd was not told");
    }
}

/// To a path, or to a name that begins with `@` and stands for no file.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}
