//! How long is waited, how often something is tried, and when.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::UpstreamError;

/// How long one request may take, and how often it is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection is there.
    pub connect: Duration,
    /// Until an answer begins, and between two pieces of it.
    pub answer: Duration,
    /// Before the first repetition, on average; the others wait longer and longer.
    pub pause: Duration,
    /// The longest `Retry-After` that is waited for; a longer one is reported.
    pub longest_delay: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            pause: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

/// How often one thing is tried in a row without any progress.
const TRIES: u32 = 5;

/// The longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The tries of one thing.
#[derive(Debug)]
pub(super) struct Tries {
    failed: u32,
    patience: Patience,
}

impl Tries {
    pub fn new(patience: Patience) -> Self {
        Self { failed: 0, patience }
    }

    /// Something came: the next failure is the first again.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// The pause before the next try, or `None` where there is none: it would not help, it was
    /// tried often enough, or nothing is left of the time until `deadline`.
    pub fn again(&mut self, error: &UpstreamError, deadline: Instant) -> Option<Duration> {
        self.failed += 1;
        if !error.can_retry() || self.failed >= TRIES {
            return None;
        }
        let longest = self.patience.pause.saturating_mul(2 * 3_u32.pow(self.failed - 1));
        let pause = longest.min(LONGEST_PAUSE).mul_f64(random_share());
        let pause = match error.retry_after() {
            Some(asked) if asked > self.patience.longest_delay => return None,
            Some(asked) => asked + pause,
            None => pause,
        };
        (Instant::now() + pause < deadline).then_some(pause)
    }
}

/// From 0 to 1: those who failed together do not come back together.
fn random_share() -> f64 {
    let mut bytes = [0; 2];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|b| b.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Fault;
    use super::*;

    fn error(fault: Fault) -> UpstreamError {
        UpstreamError::new(fault, "host", "request", "reason")
    }

    #[test]
    fn delays_that_are_asked_for() {
        let now = DateTime::parse_from_rfc2822("Wed, 21 Oct 2026 07:28:00 GMT").unwrap();
        let now = now.with_timezone(&Utc);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2026 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2026 07:27:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end() {
        let far = Instant::now() + Duration::from_secs(1000);
        let mut tries = Tries::new(Patience::default());
        let network = error(Fault::Network);
        let pauses = std::iter::from_fn(|| tries.again(&network, far)).collect::<Vec<_>>();
        assert_eq!(pauses.len(), 4);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        tries.progressed();
        assert!(tries.again(&network, far).is_some());
        // What cannot help is not tried, nor what would end too late.
        let mut tries = Tries::new(Patience::default());
        assert_eq!(tries.again(&error(Fault::NotFound), far), None);
        assert_eq!(tries.again(&network, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_kept_if_it_is_bearable() {
        let far = Instant::now() + Duration::from_secs(1000);
        let delayed = |seconds| error(Fault::RateLimited).after(Some(Duration::from_secs(seconds)));
        let mut tries = Tries::new(Patience::default());
        assert!(tries.again(&delayed(30), far).unwrap() >= Duration::from_secs(30));
        assert_eq!(tries.again(&delayed(61), far), None);
        assert_eq!(tries.again(&delayed(30), Instant::now() + Duration::from_secs(20)), None);
    }
}
