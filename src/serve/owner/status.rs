//! What the watcher last did, for `switch show` and `switch set`: a file in the run folder.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::switches::Decision;

/// A status older than this is a dead watcher's.
const FRESH: Duration = Duration::from_secs(5);

/// A capability, a route with a switch of its own, or a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `capability`, `route` or `worker`.
    pub kind: String,
    /// Its name.
    pub id: String,
    /// Who serves it.
    pub owner: String,
    /// What decided.
    pub reason: String,
    /// Whether only the canary's cohort is meant.
    pub gated: bool,
}

impl Line {
    /// A resolved owner.
    pub fn new(kind: &str, id: &str, decision: &Decision) -> Self {
        Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
            owner: decision.owner.as_str().to_owned(),
            reason: decision.reason.as_str().to_owned(),
            gated: decision.gated,
        }
    }
}

/// How many flips are remembered; `status.json` is written four times a second.
const FLIPS: usize = 64;

/// An owner that changed: when nginx was told, or a worker was seen to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// A capability, a route or a worker.
    pub id: String,
    /// Who serves it from then on.
    pub owner: String,
    /// What decided.
    pub reason: String,
}

impl Flip {
    /// One that has just happened.
    pub fn now(id: &str, owner: &str, reason: &str) -> Self {
        let own = str::to_owned;
        Self { at_ms: now_ms(), id: own(id), owner: own(owner), reason: own(reason) }
    }

    /// When it was.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.at_ms)
    }
}

/// The state of the watcher.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When it was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// On what the owners rest: `environment`, `current`, `held`, `invalid`, ….
    pub standing: String,
    /// The version last read.
    pub seen: Option<u64>,
    /// The version whose owners are in effect.
    pub applied: Option<u64>,
    /// From the file's last change until that, in seconds.
    pub propagation_s: Option<f64>,
    /// What is wrong with what was read.
    pub problems: Vec<String>,
    /// What nginx was not told, and why.
    pub map_problem: Option<String>,
    /// How registryd is: `ready`, `starting`, or what is wrong.
    pub registryd: String,
    /// Workers that are not where they should be yet, with what is waited for.
    #[serde(default)]
    pub moving: Vec<String>,
    /// Every owner.
    pub owners: Vec<Line>,
    /// The last changes of owners, the oldest first. They outlive the watcher.
    #[serde(default)]
    pub flips: Vec<Flip>,
}

impl Status {
    const FILE: &str = "status.json";

    /// The status of a watcher that runs, or `None`.
    pub fn read(run: &Path) -> Option<Self> {
        let status = Self::last(run)?;
        let written = UNIX_EPOCH + Duration::from_millis(status.written_ms);
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        (age < FRESH).then_some(status)
    }

    /// The status of the last watcher, however long ago.
    fn last(run: &Path) -> Option<Self> {
        let text = fs::read_to_string(run.join(Self::FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// For a new watcher: what the last one remembers. `is_on` tells whose capabilities are now, for
    /// they may have gone back to Python in between (Quay's own start clears every flag); nothing of
    /// what has no flag.
    pub(super) fn resume(run: &Path, is_on: impl Fn(&str) -> Option<bool>) -> Self {
        let mut status =
            Self { flips: Self::last(run).unwrap_or_default().flips, ..Self::default() };
        let ids: BTreeSet<String> = status.flips.iter().map(|flip| flip.id.clone()).collect();
        for id in ids {
            let last = status.flips.iter().rfind(|flip| flip.id == id);
            let Some(on) = is_on(&id) else { continue };
            let owner = if on { "rust" } else { "python" };
            if last.is_some_and(|last| last.owner != owner) {
                status.flipped(Flip::now(&id, owner, "restarted"));
            }
        }
        status
    }

    /// Remembers a change; the oldest is forgotten for it.
    pub(super) fn flipped(&mut self, flip: Flip) {
        self.flips.push(flip);
        let surplus = self.flips.len().saturating_sub(FLIPS);
        self.flips.drain(..surplus);
    }

    /// Replaces the file, so that nobody reads half of it.
    pub(super) fn write(&mut self, run: &Path) -> io::Result<()> {
        self.written_ms = now_ms();
        let new = run.join("status.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, run.join(Self::FILE))
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_outlive_the_watcher_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut status = Status::default();
        for flip in 0..FLIPS + 9 {
            let owner = if flip % 2 == 0 { "rust" } else { "python" };
            status.flipped(Flip::now("V2_PULL", owner, "capability"));
        }
        status.flipped(Flip::now("V2_AUTH", "rust", "family"));
        status.write(folder.path()).unwrap();
        assert_eq!(status.flips.len(), FLIPS);
        // Pulls are as they were; tokens went back meanwhile, and that is a flip too.
        let resumed = Status::resume(folder.path(), |id| Some(id == "V2_PULL"));
        assert_eq!(resumed.flips.len(), FLIPS);
        let last = resumed.flips.last().unwrap();
        assert_eq!((&*last.id, &*last.owner, &*last.reason), ("V2_AUTH", "python", "restarted"));
        assert_eq!(resumed.flips[..FLIPS - 1], status.flips[1..]);
        // A file of somebody else's, or half of one, is nothing to go by.
        fs::write(folder.path().join(Status::FILE), "{\"flips\":").unwrap();
        assert!(Status::resume(folder.path(), |_| Some(true)).flips.is_empty());
    }
}
