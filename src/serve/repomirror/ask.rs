//! Asks a worker that runs how far its syncs have come.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::mirroring::Snapshot;

/// It answers from its memory, on this machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Far more than it ever says: a few hundred bytes for each sync.
const LONGEST: u64 = 1 << 20;

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or whoever does breaks off.
    #[error("no worker answers at {address}: {source}")]
    Unreachable {
        /// Where it was asked.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// It does not answer in time.
    #[error("no worker answers at {0} within {PATIENCE:?}")]
    Silent(SocketAddr),
    /// Somebody else listens there.
    #[error("what answers at {0} is no worker that fills mirrors")]
    Stranger(SocketAddr),
}

/// The syncs that go on in the worker whose admin listener this is (`/mirrors`), by name.
///
/// # Errors
/// When no worker answers there.
pub async fn ask(address: SocketAddr) -> Result<Vec<Snapshot>, AskError> {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let answer = match tokio::time::timeout(PATIENCE, get(address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => return Err(AskError::Unreachable { address, source }),
        Err(_) => return Err(AskError::Silent(address)),
    };
    read(&answer).ok_or(AskError::Stranger(address))
}

/// HTTP/1.0: the answer ends with the connection.
async fn get(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /mirrors HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Option<Vec<Snapshot>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let good = head.split(' ').nth(1) == Some("200");
    serde_json::from_slice(&answer[end + 4..]).ok().filter(|_| good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_workers_answer_is_one() {
        assert!(read(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n[]").is_some_and(|all| all.is_empty()));
        for other in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 404 Not Found\r\n\r\n[]",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n[]",
            "HTTP/1.1 200 OK\r\n\r\n[{}]",
        ] {
            assert!(read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
