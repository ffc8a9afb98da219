//! Says once that a server went away, and once that it is back.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) struct Health {
    server: &'static str,
    meanwhile: &'static str,
    away: AtomicBool,
}

impl Health {
    /// `meanwhile` is what the log says of the time without it.
    pub(super) fn new(server: &'static str, meanwhile: &'static str) -> Self {
        Self { server, meanwhile, away: AtomicBool::new(false) }
    }

    pub(super) fn answered(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!(server = self.server, "it is back");
        }
    }

    pub(super) fn failed(&self, error: &impl Display) {
        if !self.away.swap(true, Ordering::Relaxed) {
            let (server, meanwhile) = (self.server, self.meanwhile);
            tracing::warn!(%error, server, meanwhile, "it does not answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_to_string};

    use super::*;

    #[test]
    fn each_is_said_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = tracing_subscriber::fmt().with_writer(File::create(file.path()).unwrap());
        tracing::subscriber::with_default(log.finish(), || {
            let health = Health::new("a_server", "we wait");
            health.answered();
            for _ in 0..3 {
                health.failed(&"refused");
            }
            health.answered();
            health.answered();
        });
        let said = read_to_string(file.path()).unwrap();
        let times = |words| said.matches(words).count();
        assert_eq!((times("it does not answer"), times("it is back")), (1, 1), "{said}");
        assert!(said.contains("refused") && said.contains("we wait"), "{said}");
    }
}
