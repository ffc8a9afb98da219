//! What a service tells systemd where that has started it (sd_notify(3)): that it is ready, that it
//! is alive, that it is on its way out. Elsewhere these are no-ops.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::listen::Address;

/// What an answer to ourselves may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// No token, so no statement: 401, by the threads that serve clients.
const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: watchdog\r\nConnection: close\r\n\r\n";

/// It serves.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// It drains.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says that we are alive for as long as we are: `WATCHDOG=1` three times in the interval that the
/// unit gives us (`WatchdogSec=`), each time only if `is_alive`. Ends at once where there is none.
pub async fn beat(mut is_alive: impl AsyncFnMut() -> bool) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        match is_alive().await {
            true => tell(NotifyState::Watchdog),
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

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> std::io::Result<()> {
    stream.write_all(REQUEST).await?;
    stream.read_exact(&mut [0; "HTTP/1.1 401".len()]).await.map(|_| ())
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd was not told");
    }
}
