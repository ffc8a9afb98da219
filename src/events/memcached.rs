//! Deletes keys of Quay's memcached (its text protocol, protocol.txt of memcached).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::health::Health;
use crate::config::MemcachedAddress;

/// Quay puts it before every key.
const PREFIX: &str = "data_model_cache__";

/// The longest key that memcached knows.
const LONGEST_KEY: usize = 250;

/// The longest answer to a delete, errors included, that we read.
const LONGEST_ANSWER: u64 = 1024;

/// A connection for each call: they are few, and it is local.
pub(super) struct Memcached {
    address: MemcachedAddress,
    health: Health,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Memcached {
    pub(super) fn new(address: MemcachedAddress, health: Health) -> Self {
        Self { address, health }
    }

    /// Returns whether none of the keys is there any more.
    pub(super) async fn delete(&self, keys: &[String], patience: Duration) -> bool {
        let deleted = timeout(patience, self.try_delete(keys)).await;
        let deleted = deleted.unwrap_or_else(|elapsed| Err(elapsed.into()));
        match &deleted {
            Ok(()) => self.health.answered(),
            Err(error) => self.health.failed(error),
        }
        deleted.is_ok()
    }

    async fn try_delete(&self, keys: &[String]) -> io::Result<()> {
        let commands: Vec<String> = keys.iter().filter_map(|key| command(key)).collect();
        let mut stream = BufReader::new(self.connect().await?);
        stream.write_all(commands.concat().as_bytes()).await?;
        let mut answers = stream.take(LONGEST_ANSWER).lines();
        for _ in commands {
            let answer = answers.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if !matches!(answer.as_str(), "DELETED" | "NOT_FOUND") {
                return Err(io::Error::other(format!("it answered {answer:?}")));
            }
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            MemcachedAddress::Tcp(host, port) => {
                Box::new(TcpStream::connect((host.as_str(), *port)).await?)
            }
            MemcachedAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// `None` for what memcached takes for no key: Python could not have stored it either.
fn command(key: &str) -> Option<String> {
    let fits = PREFIX.len() + key.len() <= LONGEST_KEY;
    let is_key = fits && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| format!("delete {PREFIX}{key}\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_are_sent() {
        assert_eq!(command("a_1"), Some("delete data_model_cache__a_1\r\n".to_owned()));
        let longest = LONGEST_KEY - PREFIX.len();
        assert!(command(&"k".repeat(longest)).is_some());
        for not in ["a b", "a\r\nflush_all", "a\tb", "a\0", "a\u{7f}", "\u{e9}"] {
            assert_eq!(command(not), None, "{not:?}");
        }
        assert_eq!(command(&"k".repeat(longest + 1)), None);
    }
}
