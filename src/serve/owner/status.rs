//! What the watcher last did, for `switch show` and `switch set`: a file in the run folder.

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
    /// Every owner.
    pub owners: Vec<Line>,
}

impl Status {
    const FILE: &str = "status.json";

    /// The status of a watcher that runs, or `None`.
    pub fn read(run: &Path) -> Option<Self> {
        let text = fs::read_to_string(run.join(Self::FILE)).ok()?;
        let status: Self = serde_json::from_str(&text).ok()?;
        let written = UNIX_EPOCH + Duration::from_millis(status.written_ms);
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        (age < FRESH).then_some(status)
    }

    /// Replaces the file, so that nobody reads half of it.
    pub(super) fn write(&mut self, run: &Path) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.written_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let new = run.join("status.json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, run.join(Self::FILE))
    }
}
