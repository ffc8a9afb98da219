//! Quay's metrics of organizations that follow others, under Quay's names (contract §7.5).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// `success`, `fail` or `cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

/// Those of Python's client, where nobody says otherwise.
const BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// All of them.
#[derive(Clone, Debug)]
pub(in crate::mirroring) struct Metrics {
    unmirrored: Gauge,
    pending: Gauge,
    discoveries: Family<Status, Counter>,
    discovery_duration: Histogram,
    discovered: Gauge,
    created: Counter,
    syncs: Family<Status, Counter>,
    sync_duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            unmirrored: Gauge::default(),
            pending: Gauge::default(),
            discoveries: Family::default(),
            discovery_duration: Histogram::new(BUCKETS),
            discovered: Gauge::default(),
            created: Counter::default(),
            syncs: Family::default(),
            sync_duration: Histogram::new(BUCKETS),
        }
    }
}

impl Metrics {
    pub(in crate::mirroring) fn register(&self, r: &mut Registry) {
        let prefix = "quay_org_mirror";
        r.register(
            format!("{prefix}_repositories_unmirrored"),
            "Repositories of organizations that are due and not yet begun",
            self.unmirrored.clone(),
        );
        r.register(
            format!("{prefix}_configs_pending_discovery"),
            "Organizations whose repositories are to be looked for",
            self.pending.clone(),
        );
        r.register(
            format!("{prefix}_discovery"),
            "Looks for an organization's repositories",
            self.discoveries.clone(),
        );
        r.register_with_unit(
            format!("{prefix}_discovery_duration"),
            "How long such a look takes",
            Unit::Seconds,
            self.discovery_duration.clone(),
        );
        r.register(
            format!("{prefix}_repos_discovered"),
            "Repositories that the last such look found",
            self.discovered.clone(),
        );
        r.register(
            format!("{prefix}_repos_created"),
            "Repositories that were not known before",
            self.created.clone(),
        );
        r.register(
            format!("{prefix}_repo_sync"),
            "Syncs of repositories of organizations",
            self.syncs.clone(),
        );
        r.register_with_unit(
            format!("{prefix}_repo_sync_duration"),
            "How long such syncs take",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
    }

    pub(in crate::mirroring) fn waiting(&self, organizations: usize, repositories: usize) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.pending.set(number(organizations));
        self.unmirrored.set(number(repositories));
    }

    pub(super) fn found(&self, wanted: usize, new: usize) {
        self.discovered.set(i64::try_from(wanted).unwrap_or(i64::MAX));
        self.created.inc_by(new as u64);
    }

    pub(super) fn discovery_ended(&self, status: &'static str, seconds: f64) {
        self.discoveries.get_or_create(&Status { status }).inc();
        self.discovery_duration.observe(seconds);
    }

    pub(super) fn sync_ended(&self, status: &'static str, seconds: f64) {
        self.syncs.get_or_create(&Status { status }).inc();
        self.sync_duration.observe(seconds);
    }
}
