//! Prometheus metrics. Labels come from closed sets only, so the number of series is bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A route of the table in `registry::routes`, or the name of background work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Route {
    /// The route's name.
    pub route: &'static str,
}

/// A finished request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route's name.
    pub route: &'static str,
    /// The HTTP method, `other` for one that no route takes.
    pub method: &'static str,
    /// The status code.
    pub status: u16,
}

/// A request handed back to Python.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Decline {
    /// The capability that could not serve it.
    pub capability: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// A message for Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Message {
    /// `user_events` or `pull_stats`.
    pub sink: &'static str,
    /// `sent` or `lost`.
    pub outcome: &'static str,
}

/// What became of a lock around a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Lock {
    /// `held`, `busy`, `no_redis`; and `lost` for one that was held and ran out.
    pub outcome: &'static str,
}

/// A table of Quay's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Table {
    /// Its name.
    pub table: &'static str,
}

/// A change to the cache that Python reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheChange {
    /// `delete`, or `mark` for the time at which a repository was modified.
    pub change: &'static str,
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `http_requests_total{route,method,status}`
    pub requests: Family<Request, Counter>,
    /// `http_request_duration_seconds{route}`, until the head of the answer is ready.
    pub latency: Family<Route, Histogram>,
    /// `http_requests_in_flight`
    pub in_flight: Gauge,
    /// `db_statements_total{route}`: statements sent to the database.
    pub statements: Family<Route, Counter>,
    /// `db_pool_connections_in_use`
    pub pool_in_use: Gauge,
    /// `db_pool_timeouts_total`: requests that got no connection in time.
    pub pool_timeouts: Counter,
    /// `db_conflicts_total`: transactions that began anew because another was in the way.
    pub conflicts: Counter,
    /// `quay_declined_total{capability,reason}`
    pub declines: Family<Decline, Counter>,
    /// `audit_batches_total{outcome}`: group commits.
    pub audit_batches: Family<Outcome, Counter>,
    /// `audit_rows_total{outcome}`
    pub audit_rows: Family<Outcome, Counter>,
    /// `audit_queue_length`: rows that wait for their commit.
    pub audit_queue: Gauge,
    /// `redis_messages_total{sink,outcome}`: messages for the rest of Quay.
    pub events: Family<Message, Counter>,
    /// `blob_locks_total{outcome}`: locks shared with Quay's garbage collector.
    pub blob_locks: Family<Lock, Counter>,
    /// `model_cache_changes_total{change,outcome}`: keys of the cache that Python reads.
    pub model_cache: Family<CacheChange, Counter>,
    /// `bearer_tokens_total{outcome}`: tokens presented.
    pub bearer_tokens: Family<Outcome, Counter>,
    /// `logins_total{outcome}`: passwords presented.
    pub logins: Family<Outcome, Counter>,
    /// Requests passed through to Python, by outcome.
    pub passed_through: Family<Outcome, Counter>,
    /// `blob_bytes_total`: bytes of blobs read for clients.
    pub blob_bytes: Counter,
    /// `pushed_bytes_total`: bytes of uploads stored for clients.
    pub pushed_bytes: Counter,
    /// `uploads_read_again_total`: uploads that others may have written to, hashed once more before
    /// they were committed.
    pub uploads_read_again: Counter,
    /// `quay_gc_iterations_total`: runs of the garbage collector, under Quay's name.
    pub gc_runs: Counter,
    /// `quay_gc_table_rows_deleted_total{table}`, as in Quay.
    pub gc_rows: Family<Table, Counter>,
    /// `quay_gc_storage_blobs_deleted_total`, as in Quay.
    pub gc_blobs: Counter,
    /// `quay_gc_storage_bytes_deleted_total`: bytes of those, and of what a crash had left.
    pub gc_bytes: Counter,
    /// `verification_keys`: instance keys loaded.
    pub verification_keys: Gauge,
    /// `process_resident_memory_peak_bytes`, read when metrics are.
    memory_peak: Gauge<f64, AtomicU64>,
}

/// From half a millisecond, a warm manifest, to the longest statement.
const LATENCY_BUCKETS: [f64; 11] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            in_flight: Gauge::default(),
            statements: Family::default(),
            pool_in_use: Gauge::default(),
            pool_timeouts: Counter::default(),
            conflicts: Counter::default(),
            declines: Family::default(),
            audit_batches: Family::default(),
            audit_rows: Family::default(),
            audit_queue: Gauge::default(),
            events: Family::default(),
            blob_locks: Family::default(),
            model_cache: Family::default(),
            bearer_tokens: Family::default(),
            logins: Family::default(),
            passed_through: Family::default(),
            blob_bytes: Counter::default(),
            pushed_bytes: Counter::default(),
            uploads_read_again: Counter::default(),
            gc_runs: Counter::default(),
            gc_rows: Family::default(),
            gc_blobs: Counter::default(),
            gc_bytes: Counter::default(),
            verification_keys: Gauge::default(),
            memory_peak: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// With others beside them.
    pub fn with(register: impl FnOnce(&mut Registry)) -> Self {
        let mut metrics = Self::default();
        register(&mut metrics.registry);
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("http_requests", "Requests answered", self.requests.clone());
        r.register_with_unit(
            "http_request_duration",
            "Time until the head of the answer",
            Unit::Seconds,
            self.latency.clone(),
        );
        r.register("http_requests_in_flight", "Requests being answered", self.in_flight.clone());
        r.register("db_statements", "Statements sent to the database", self.statements.clone());
        r.register("db_pool_connections_in_use", "Connections in use", self.pool_in_use.clone());
        r.register("db_pool_timeouts", "No connection in time", self.pool_timeouts.clone());
        r.register("db_conflicts", "Transactions that began anew", self.conflicts.clone());
        r.register("quay_declined", "Requests handed back to Python", self.declines.clone());
        r.register(
            "quay_passed_through",
            "Requests that we asked of Python ourselves, body and all",
            self.passed_through.clone(),
        );
        r.register("audit_batches", "Group commits", self.audit_batches.clone());
        r.register("audit_rows", "Action log rows", self.audit_rows.clone());
        r.register("audit_queue_length", "Rows that wait for a commit", self.audit_queue.clone());
        r.register("redis_messages", "Messages for the rest of Quay", self.events.clone());
        r.register("blob_locks", "Locks shared with Quay's GC", self.blob_locks.clone());
        r.register(
            "model_cache_changes",
            "Keys changed in the cache that Python reads",
            self.model_cache.clone(),
        );
        r.register("bearer_tokens", "Bearer tokens presented", self.bearer_tokens.clone());
        r.register("logins", "Passwords presented", self.logins.clone());
        r.register("blob_bytes", "Bytes of blobs read for clients", self.blob_bytes.clone());
        r.register(
            "pushed_bytes",
            "Bytes of uploads stored for clients",
            self.pushed_bytes.clone(),
        );
        r.register(
            "uploads_read_again",
            "Uploads hashed once more before they were committed",
            self.uploads_read_again.clone(),
        );
        r.register("quay_gc_iterations", "Runs of the garbage collector", self.gc_runs.clone());
        r.register("quay_gc_table_rows_deleted", "Rows it deleted", self.gc_rows.clone());
        r.register("quay_gc_storage_blobs_deleted", "Blobs it deleted", self.gc_blobs.clone());
        r.register("quay_gc_storage_bytes_deleted", "Bytes it deleted", self.gc_bytes.clone());
        r.register("verification_keys", "Instance keys loaded", self.verification_keys.clone());
        r.register_with_unit(
            "process_resident_memory_peak",
            "Highest resident memory so far",
            Unit::Bytes,
            self.memory_peak.clone(),
        );
    }

    /// Everything in the Prometheus text format.
    pub fn text(&self) -> String {
        self.memory_peak.set(peak_memory().unwrap_or_default());
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a statement of `route`.
    pub fn statement(&self, route: &'static str) {
        self.statements.get_or_create(&Route { route }).inc();
    }
}

/// `ok` or `failed`, as a label.
pub fn outcome(ok: bool) -> Outcome {
    Outcome { outcome: if ok { "ok" } else { "failed" } }
}

/// The kernel's high-water mark of resident memory, in bytes (proc(5), `VmHWM`).
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_name() {
        let metrics = Metrics::default();
        metrics.statement("manifest_by_tag");
        metrics.declines.get_or_create(&Decline { capability: "V2_PULL", reason: "schema1" }).inc();
        let text = metrics.text();
        assert!(text.contains("db_statements_total{route=\"manifest_by_tag\"} 1"), "{text}");
        assert!(text.contains("quay_declined_total{capability=\"V2_PULL\",reason=\"schema1\"} 1"));
        assert!(text.contains("process_resident_memory_peak_bytes "), "{text}");
    }
}
