//! What holds now, given what was read when. Pure: time and contents are arguments.
//!
//! - A snapshot is used when it is valid and its version is higher. The same version with another
//!   meaning is refused, and so is a lower one: the kill switch ignores versions for that reason.
//! - A file without its end mark (`...`) may be the first half of a longer one. It is used when it
//!   is read again, unchanged, [`SETTLE`] later; `quay switch set` always writes the mark.
//! - When what is there cannot be used, the last good snapshot holds for two polls, and then
//!   everything is Python's: at most 30 s after the damage, whatever the interval (decision 8).
//! - The kill switch is honoured in whatever it can be read in, and only a usable document lifts it.

use std::time::Duration;

use super::document::{Found, Parsed, parse};
use super::environment::Stage;
use super::problem::{Code, Place, Problem, Wrong};
use super::snapshot::{Change, Effective, POLL, Snapshot};
use super::source::Reading;

/// How long a file without an end mark has to stay as it is.
const SETTLE: Duration = Duration::from_secs(2);

/// The damage is younger than the last good reading, so this keeps 30 s with time to act.
const LONGEST_GRACE: Duration = Duration::from_secs(28);

/// On what the owners rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No snapshot yet, and no file: the environment.
    Environment,
    /// The first snapshot has no end mark and is read again in a moment. Everything is Python's.
    Starting,
    /// The snapshot that is there.
    Current,
    /// The last good snapshot: what is there now cannot be used, or not yet.
    Held,
    /// Nothing: everything is Python's.
    Invalid,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing new.
    Unchanged,
    /// A snapshot that has to prove complete.
    Settling {
        /// Its version.
        version: u64,
    },
    /// A new snapshot.
    Accepted {
        /// The version before, if there was one.
        from: Option<u64>,
        /// The version now.
        to: u64,
        /// For the audit log.
        changes: Vec<Change>,
    },
    /// What is there cannot be used; the last good snapshot holds until then.
    Held {
        /// In the time that polls are given.
        until: Duration,
    },
    /// The last good snapshot has held long enough, or there is none: everything is Python's.
    FellBack,
    /// What is there is the last good snapshot again.
    Restored {
        /// Its version.
        version: u64,
    },
}

/// For `show`, metrics and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// On what the owners rest.
    pub standing: Standing,
    /// The version that was last read, used or not.
    pub seen: Option<u64>,
    /// The version whose owners hold, and have been put into effect.
    pub applied: Option<u64>,
    /// What is wrong with what was last read, errors and warnings.
    pub problems: Vec<Problem>,
}

/// The state between two polls.
#[derive(Debug)]
pub struct Poller {
    stage: Stage,
    good: Option<Good>,
    settling: Option<Settling>,
    standing: Standing,
    killed: Option<Place>,
    seen: Option<u64>,
    applied: Option<u64>,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Good {
    snapshot: Snapshot,
    /// When it was last found where it should be.
    read: Duration,
}

#[derive(Debug)]
struct Settling {
    meaning: String,
    since: Duration,
}

impl Poller {
    /// Nothing was read yet: the environment holds.
    pub fn new(stage: Stage) -> Self {
        Self {
            stage,
            good: None,
            settling: None,
            standing: Standing::Environment,
            killed: None,
            seen: None,
            applied: None,
            problems: Vec::new(),
        }
    }

    /// Takes a snapshot from before a restart as the last good one; `text` is a copy of the file
    /// it was in. Returns whether it could be used.
    pub fn resume(&mut self, now: Duration, reading: &Reading) -> bool {
        let Found::Good(snapshot) = parse(reading).found else { return false };
        self.applied = Some(snapshot.version);
        self.good = Some(Good { snapshot: *snapshot, read: now });
        self.standing = Standing::Held;
        true
    }

    /// Takes in what was read at `now`, which never goes back.
    pub fn poll(&mut self, now: Duration, reading: &Reading) -> Event {
        let Parsed { found, version, force, problems } = parse(reading);
        self.seen = version.or(self.seen);
        self.problems = problems;
        if force.is_some() {
            self.killed = force;
        }
        let event = match found {
            Found::Good(snapshot) => self.consider(now, *snapshot),
            Found::Absent if self.standing == Standing::Environment => {
                // Without a document to lift it, a kill in config.yaml is lifted by its removal.
                self.killed = force;
                return Event::Unchanged;
            }
            Found::Absent => {
                let remedy = "put the file back, or run `quay switch set`";
                let wrong =
                    Wrong::new(Code::MissingSection, "there are no switches any more", remedy);
                let place = Place { origin: super::Origin::SwitchFile, line: 0 };
                self.problems.push(wrong.at(super::SWITCH_FILE, place));
                self.damaged(now)
            }
            Found::Bad => self.damaged(now),
        };
        // Lifted by a usable document that does not kill, and by nothing else.
        if matches!(self.standing, Standing::Current) {
            self.killed = force;
        }
        event
    }

    fn consider(&mut self, now: Duration, snapshot: Snapshot) -> Event {
        let meaning = snapshot.meaning();
        let current =
            self.good.as_ref().map(|good| (good.snapshot.version, good.snapshot.meaning()));
        if let Some((version, same)) = &current {
            let wrong = if snapshot.version < *version {
                let reason =
                    format!("{} is lower than {version}, which is in use", snapshot.version);
                Some((Code::VersionRegression, reason))
            } else if snapshot.version == *version && *same != meaning {
                let reason = format!("it was changed, and is still called {version}");
                Some((Code::VersionReuse, reason))
            } else {
                None
            };
            if let Some((code, reason)) = wrong {
                let remedy = format!("write version: {}", version.saturating_add(1));
                let place = Place { origin: snapshot.origin, line: 0 };
                self.problems.push(Wrong::new(code, reason, remedy).at("version", place));
                return self.damaged(now);
            }
            if snapshot.version == *version {
                return self.found_again(now, snapshot);
            }
        }
        if !snapshot.complete && !self.has_settled(now, &meaning) {
            return self.settle(now, snapshot.version, meaning);
        }
        self.accept(now, snapshot)
    }

    fn has_settled(&self, now: Duration, meaning: &str) -> bool {
        self.settling.as_ref().is_some_and(|settling| {
            settling.meaning == meaning && now.saturating_sub(settling.since) >= SETTLE
        })
    }

    /// Nothing is wrong yet; but what never comes to rest is damage like any other.
    fn settle(&mut self, now: Duration, version: u64, meaning: String) -> Event {
        let since = match self.settling.take() {
            Some(settling) if settling.meaning == meaning => settling.since,
            _ => now,
        };
        match self.standing {
            Standing::Environment => self.standing = Standing::Starting,
            Standing::Current | Standing::Held => {
                if let event @ Event::FellBack = self.damaged(now) {
                    return event;
                }
            }
            Standing::Starting | Standing::Invalid => {}
        }
        self.settling = Some(Settling { meaning, since });
        Event::Settling { version }
    }

    fn found_again(&mut self, now: Duration, snapshot: Snapshot) -> Event {
        let version = snapshot.version;
        let before = std::mem::replace(&mut self.standing, Standing::Current);
        self.settling = None;
        // Its lines may be others.
        self.good = Some(Good { snapshot, read: now });
        match before {
            Standing::Current => Event::Unchanged,
            _ => Event::Restored { version },
        }
    }

    fn accept(&mut self, now: Duration, snapshot: Snapshot) -> Event {
        let before = self.good.as_ref().map(|good| &good.snapshot);
        let none = super::Switches::default();
        let from = before.map_or(&none, |before| &before.switches);
        let event = Event::Accepted {
            from: before.map(|before| before.version),
            to: snapshot.version,
            changes: from.changes(&snapshot.switches),
        };
        self.settling = None;
        self.standing = Standing::Current;
        self.good = Some(Good { snapshot, read: now });
        event
    }

    fn damaged(&mut self, now: Duration) -> Event {
        self.settling = None;
        match self.grace_ends() {
            Some(until) if now < until && self.standing != Standing::Invalid => {
                self.standing = Standing::Held;
                Event::Held { until }
            }
            _ => {
                let before = std::mem::replace(&mut self.standing, Standing::Invalid);
                match before {
                    Standing::Invalid => Event::Unchanged,
                    _ => Event::FellBack,
                }
            }
        }
    }

    /// Two polls may find damage; the third would be too late with the longest interval.
    fn grace_ends(&self) -> Option<Duration> {
        self.good.as_ref().map(|good| good.read + (3 * good.snapshot.poll).min(LONGEST_GRACE))
    }

    /// When to poll next, at the latest; sooner when the file changes.
    pub fn wait(&self, now: Duration) -> Duration {
        let mut wait = self.good.as_ref().map_or(POLL, |good| good.snapshot.poll);
        if let Some(settling) = &self.settling {
            wait = wait.min((settling.since + SETTLE).saturating_sub(now));
        }
        if self.standing == Standing::Held
            && let Some(ends) = self.grace_ends()
        {
            wait = wait.min(ends.saturating_sub(now));
        }
        // Never spin.
        wait.max(Duration::from_millis(100))
    }

    /// The switches that hold.
    pub fn effective(&self) -> Effective {
        let effective = match (self.standing, &self.good) {
            (Standing::Environment, _) => Effective::environment(&self.stage),
            (Standing::Current | Standing::Held, Some(good)) => {
                Effective::merged(&self.stage, &good.snapshot)
            }
            _ => Effective::python(&self.stage),
        };
        effective.killed(self.killed)
    }

    /// The snapshot that holds, or held last.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.good.as_ref().map(|good| &good.snapshot)
    }

    /// The owners of `version` have been put into effect.
    pub fn confirm(&mut self, version: u64) {
        self.applied = Some(version);
    }

    /// For `show`, metrics and the log.
    pub fn status(&self) -> Status {
        let mut problems = self.stage.problems.clone();
        problems.extend(self.problems.iter().cloned());
        let Self { standing, seen, applied, .. } = *self;
        Status { standing, seen, applied, problems }
    }

    /// What holds by one reading alone, for a command without a watcher: nothing to fall back on.
    /// A file without an end mark is taken as it is.
    pub fn once(stage: Stage, reading: &Reading) -> Self {
        let mut poller = Self::new(stage);
        if let Event::Settling { .. } = poller.poll(Duration::ZERO, reading) {
            poller.poll(SETTLE, reading);
        }
        poller
    }
}
