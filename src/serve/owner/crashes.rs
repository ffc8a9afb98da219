//! How often a program of ours ends by itself. supervisord starts it again each time, and takes one
//! that lived for some seconds for a program that runs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many ends within that time are too many.
const MOST: usize = 5;
const WITHIN: Duration = Duration::from_secs(600);

/// What is seen of one program.
#[derive(Debug, Default)]
pub(super) struct Crashes {
    /// Of the process that was seen last; 0 before the first.
    pid: u32,
    replaced: VecDeque<Instant>,
}

impl Crashes {
    /// Notes which process there is now, 0 for none. Returns whether too many have ended.
    pub(super) fn are_too_many(&mut self, pid: u32, now: Instant) -> bool {
        if pid != 0 && pid != self.pid {
            if self.pid != 0 {
                self.replaced.push_back(now);
            }
            self.pid = pid;
        }
        self.replaced.retain(|at| now.saturating_duration_since(*at) < WITHIN);
        self.replaced.len() >= MOST
    }

    /// What an operator reads of it.
    pub(super) fn describe(program: &str) -> String {
        format!("{program} ended {MOST} times within {} minutes", WITHIN.as_secs() / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_within_the_time() {
        let (mut crashes, start) = (Crashes::default(), Instant::now());
        for pid in 1..=5 {
            assert!(!crashes.are_too_many(pid, start));
            // It is down for a moment, and seen more than once.
            assert!(!crashes.are_too_many(0, start) && !crashes.are_too_many(pid, start));
        }
        assert!(crashes.are_too_many(6, start + WITHIN / 2));
        assert!(!crashes.are_too_many(6, start + WITHIN));
        assert!(!crashes.are_too_many(7, start + WITHIN));
    }
}
