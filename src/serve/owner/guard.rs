//! Is registryd well? Asked at the address that nginx uses, by a request that takes the way of a
//! real one: pool, database, answer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::bundle::RustAddress;

/// Between two looks while all is well.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an answer may take. Two of them and the interval are under the six seconds that a client
/// of a hung registryd may have to wait (design, "What good looks like").
const PATIENCE: Duration = Duration::from_secs(2);

/// Good answers in a row before something that was bad is trusted again.
const RECOVERY: u32 = 3;

/// A tag list that costs one statement. No such namespace can exist: `+` is for robots.
const REQUEST: &[u8] =
    b"GET /v2/quay-sidecar/probe/tags/list HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";

/// How registryd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It has not answered yet.
    Starting,
    /// It answers.
    Ready,
    /// It takes connections and does not answer: worse than dead, for nginx waits for it.
    Hung,
    /// Nothing listens.
    Down,
}

impl Health {
    /// As it is printed, and as a reason for Python.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Hung => "hung",
            Self::Down => "down",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Whatever it says but 5xx.
    Good,
    /// It answers that it cannot: Python probably could not either.
    Failing,
    None,
    Refused,
}

/// Looks for as long as anybody listens.
pub(super) async fn look_after(registryd: RustAddress, health: watch::Sender<Health>) {
    let mut state = State { health: Health::Starting, bad: 0, good: 0 };
    while !health.is_closed() {
        let answer = ask(&registryd).await;
        let next = state.after(answer);
        health.send_if_modified(|known| std::mem::replace(known, next) != next);
        // Certainty about a silence must not take longer than the silence itself.
        if answer != Answer::None {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

struct State {
    health: Health,
    bad: u32,
    good: u32,
}

impl State {
    fn after(&mut self, answer: Answer) -> Health {
        let bad = matches!(answer, Answer::None | Answer::Refused);
        self.bad = if bad { self.bad + 1 } else { 0 };
        self.good = if answer == Answer::Good { self.good + 1 } else { 0 };
        self.health = match (self.health, answer) {
            (_, Answer::None) if self.bad >= 2 => Health::Hung,
            (Health::Ready, Answer::Refused) if self.bad >= 2 => Health::Down,
            (Health::Starting, Answer::Good) => Health::Ready,
            (Health::Hung | Health::Down, Answer::Good) if self.good >= RECOVERY => Health::Ready,
            (Health::Hung, Answer::Refused) => Health::Down,
            (health, _) => health,
        };
        self.health
    }
}

async fn ask(registryd: &RustAddress) -> Answer {
    let asked = async {
        match registryd {
            RustAddress::Unix(socket) => exchange(UnixStream::connect(socket).await?).await,
            RustAddress::Tcp(address) => exchange(TcpStream::connect(address).await?).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => Answer::None,
        Ok(Ok(status)) if status < 500 => Answer::Good,
        Ok(Ok(_)) => Answer::Failing,
        Ok(Err(_)) => Answer::Refused,
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<u16> {
    stream.write_all(REQUEST).await?;
    // `HTTP/1.1 401`
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let status = std::str::from_utf8(&line[9..]).ok().and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no status line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &[Answer]) -> Vec<Health> {
        let mut state = State { health: Health::Starting, bad: 0, good: 0 };
        answers.iter().map(|answer| state.after(*answer)).collect()
    }

    #[test]
    fn one_silence_is_nothing_two_are_a_hang() {
        use Answer::*;
        use Health::{Down, Hung, Ready, Starting};
        assert_eq!(run(&[Refused, Refused, Refused, Good]), [Starting, Starting, Starting, Ready]);
        assert_eq!(run(&[Good, None, Good, None, None]), [Ready, Ready, Ready, Ready, Hung]);
        assert_eq!(run(&[Good, Refused, Refused, Good]), [Ready, Ready, Down, Down]);
        // After a hang it is trusted again only when it has been well for a while.
        let recovery = [Good, None, None, Refused, Good, Good, Failing, Good, Good, Good];
        assert_eq!(run(&recovery), [Ready, Ready, Hung, Down, Down, Down, Down, Down, Down, Ready]);
        // A database that is away is no hang.
        assert_eq!(run(&[Good, Failing, Failing, Failing]), [Ready; 4]);
    }
}
