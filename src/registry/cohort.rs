//! `ROUTE_CANARY_USERS`: nginx sends what could be ours, and once it is known who asks, what is
//! not goes back to Python. Nothing has been written by then.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use arc_swap::ArcSwap;

use super::error::ApiError;
use super::{App, Route};
use crate::oci::RepoName;
use crate::switches::Cohort;

/// How often it is looked whether the file has changed: more often than the watcher acts.
const LOOK: Duration = Duration::from_millis(100);

/// The most bytes of one: three lists of a thousand names.
const MOST: u64 = 2 << 20;

/// The cohort as the watcher wrote it. Without a file there is no canary; with one that cannot be
/// read nobody is in it.
pub struct CohortFile {
    path: PathBuf,
    began: Instant,
    looked_ms: AtomicU64,
    known: ArcSwap<Known>,
}

struct Known {
    stamp: Stamp,
    cohort: Cohort,
}

type Stamp = Option<(i64, i64, u64)>;

impl CohortFile {
    /// The one at `path`, read now.
    pub fn at(path: PathBuf) -> Self {
        let known = Known::read(&path, stamp(&path));
        let looked_ms = AtomicU64::new(0);
        Self { path, began: Instant::now(), looked_ms, known: ArcSwap::from_pointee(known) }
    }

    fn has(&self, route: u16, repository: Option<&RepoName>, user: Option<&str>) -> bool {
        self.look();
        let known = self.known.load();
        // Names are put together only for a canary.
        known.cohort.is_for_all(route)
            || known.cohort.has(route, repository.map(RepoName::to_string).as_deref(), user)
    }

    /// One request in a while looks at the file: it is small, local, and seldom changed.
    fn look(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(looked) >= LOOK.as_millis() as u64;
        let order = Ordering::Relaxed;
        if !due || self.looked_ms.compare_exchange(looked, now, order, order).is_err() {
            return;
        }
        let stamp = stamp(&self.path);
        if stamp != self.known.load().stamp {
            self.known.store(Arc::new(Known::read(&self.path, stamp)));
        }
    }
}

impl Known {
    fn read(path: &PathBuf, stamp: Stamp) -> Self {
        let readable = |size: u64| size <= MOST;
        let cohort = match stamp {
            None => Cohort::default(),
            Some((_, _, size)) if !readable(size) => Cohort::nobody(),
            Some(_) => std::fs::read(path)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
                .unwrap_or_else(|| {
                    tracing::error!(path = %path.display(), "cohort unreadable: nobody is in it");
                    Cohort::nobody()
                }),
        };
        Self { stamp, cohort }
    }
}

fn stamp(path: &PathBuf) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ctime(), found.ctime_nsec(), found.size()))
}

impl App {
    /// Hands back what a canary leaves with Python. `user` is who asks, as far as that is known.
    pub(super) fn check_cohort(
        &self,
        request: &HttpRequest,
        repository: Option<&RepoName>,
        user: Option<&str>,
    ) -> Result<(), ApiError> {
        let Some(cohort) = &self.cohort else { return Ok(()) };
        let route = Route::of(request);
        let Some(id) = route.id(request.method()) else { return Ok(()) };
        match cohort.has(id, repository, user) {
            true => Ok(()),
            false => Err(self.decline(route.capability(request.method()), "canary_miss")),
        }
    }
}
