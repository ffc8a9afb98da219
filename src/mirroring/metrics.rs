//! Quay's metrics of mirroring, under Quay's names (contract §7.3), and what the copies cost.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::organizations;
use crate::oci::RepoName;
use crate::upstream::Counts;

/// A mirror.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Repository {
    namespace: String,
    repository: String,
}

/// What became of its last sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LastSync {
    namespace: String,
    repository: String,
    last_error_reason: &'static str,
}

/// Failures of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failures {
    namespace: String,
    reason: &'static str,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Namespace {
    namespace: String,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    kind: &'static str,
}

const DURATION_BUCKETS: [f64; 4] = [60.0, 300.0, 900.0, 3600.0];

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    unmirrored: Gauge,
    pending_tags: Family<Repository, Gauge>,
    last_status: Family<LastSync, Gauge>,
    complete: Family<Repository, Gauge>,
    last_timestamp: Family<Repository, Gauge>,
    workers: Gauge,
    failures: Family<Failures, Counter>,
    duration: Family<Namespace, Histogram>,
    requests: Family<Request, Counter>,
    bytes: Counter,
    linked: Counter,
    organizations: organizations::Metrics,
}

/// How a sync stands: Quay's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Failed = 0,
    Succeeded = 1,
    Running = 2,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            unmirrored: Gauge::default(),
            pending_tags: Family::default(),
            last_status: Family::default(),
            complete: Family::default(),
            last_timestamp: Family::default(),
            workers: Gauge::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            requests: Family::default(),
            bytes: Counter::default(),
            linked: Counter::default(),
            organizations: organizations::Metrics::default(),
        }
    }
}

impl Metrics {
    /// Has them served with the others.
    pub fn register(&self, r: &mut Registry) {
        let prefix = "quay_repository_mirror";
        r.register(
            "quay_repository_rows_unmirrored",
            "Mirrors that are due and not yet begun",
            self.unmirrored.clone(),
        );
        r.register(format!("{prefix}_pending_tags"), "Tags to go", self.pending_tags.clone());
        r.register(
            format!("{prefix}_last_sync_status"),
            "0 failed, 1 succeeded, 2 running",
            self.last_status.clone(),
        );
        r.register(
            format!("{prefix}_sync_complete"),
            "Whether the last sync copied every tag",
            self.complete.clone(),
        );
        r.register(
            format!("{prefix}_last_sync_timestamp"),
            "When the last sync began, Unix time",
            self.last_timestamp.clone(),
        );
        r.register(
            format!("{prefix}_workers_active"),
            "1 while a worker runs",
            self.workers.clone(),
        );
        r.register(format!("{prefix}_sync_failures"), "Syncs that failed", self.failures.clone());
        r.register_with_unit(
            format!("{prefix}_sync_duration"),
            "How long syncs take",
            Unit::Seconds,
            self.duration.clone(),
        );
        r.register("mirror_requests", "Requests to sources", self.requests.clone());
        r.register("mirror_fetched_bytes", "Bytes fetched from sources", self.bytes.clone());
        r.register(
            "mirror_linked_bytes",
            "Bytes of blobs that were here already",
            self.linked.clone(),
        );
        self.organizations.register(r);
    }

    /// Organizations and their repositories that are due and wait.
    pub fn organizations_waiting(&self, organizations: usize, repositories: usize) {
        self.organizations.waiting(organizations, repositories);
    }

    /// Those of organizations.
    pub(super) fn organizations(&self) -> &organizations::Metrics {
        &self.organizations
    }

    /// A worker runs, or does not.
    pub fn running(&self, runs: bool) {
        self.workers.set(i64::from(runs));
    }

    /// Mirrors that are due and wait.
    pub fn waiting(&self, count: usize) {
        self.unmirrored.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn began(&self, name: &RepoName) {
        self.status(name, Standing::Running, "");
        let now = chrono::Utc::now().timestamp();
        self.last_timestamp.get_or_create(&repository(name)).set(now);
    }

    pub(super) fn pending(&self, name: &RepoName, tags: usize) {
        let tags = i64::try_from(tags).unwrap_or(i64::MAX);
        self.pending_tags.get_or_create(&repository(name)).set(tags);
    }

    /// Quay sets both series of a failure, the one with its reason and the one without.
    pub(super) fn ended(&self, name: &RepoName, seconds: f64, failure: Option<&'static str>) {
        self.complete.get_or_create(&repository(name)).set(i64::from(failure.is_none()));
        let namespace = name.namespace.clone();
        match failure {
            None => self.status(name, Standing::Succeeded, ""),
            Some(reason) => {
                self.status(name, Standing::Failed, "");
                self.status(name, Standing::Failed, reason);
                let failures = Failures { namespace: namespace.clone(), reason };
                self.failures.get_or_create(&failures).inc();
            }
        }
        self.duration.get_or_create(&Namespace { namespace }).observe(seconds);
    }

    /// What a sync has asked of its source.
    pub(super) fn asked(&self, counts: &Counts, linked: u64) {
        for (kind, count) in [
            ("ping", counts.pings),
            ("token", counts.tokens),
            ("tags", counts.tag_pages),
            ("head", counts.heads),
            ("manifest", counts.manifests),
            ("blob", counts.blobs),
            ("referrers", counts.referrers),
            ("repositories", counts.repositories),
        ] {
            self.requests.get_or_create(&Request { kind }).inc_by(count);
        }
        self.bytes.inc_by(counts.bytes_received);
        self.linked.inc_by(linked);
    }

    fn status(&self, name: &RepoName, status: Standing, last_error_reason: &'static str) {
        let Repository { namespace, repository } = repository(name);
        let labels = LastSync { namespace, repository, last_error_reason };
        self.last_status.get_or_create(&labels).set(status as i64);
    }
}

fn repository(name: &RepoName) -> Repository {
    Repository { namespace: name.namespace.clone(), repository: name.repository.clone() }
}
