//! The metrics of the switch model (section 11), on the watcher's own admin listener.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::status::Line;
use crate::serve::status_page;
use crate::switches::Origin;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Owned {
    kind: String,
    id: String,
    owner: String,
    reason: String,
    gated: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    kind: String,
    id: String,
    owner: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Moved {
    program: String,
    from: &'static str,
    to: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Done {
    result: &'static str,
}

/// Up to the thirty seconds that are promised.
const PROPAGATION_BUCKETS: [f64; 7] = [0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0];

/// Every metric of the watcher.
#[derive(Debug)]
pub(super) struct OwnerMetrics {
    registry: Mutex<Registry>,
    owners: Family<Owned, Gauge>,
    decisions: Family<Decided, Counter>,
    forced: Family<Source, Gauge>,
    age: Gauge<f64, AtomicU64>,
    moves: Family<Moved, Counter>,
    versions: Family<State, Gauge>,
    errors: Family<Code, Counter>,
    propagation: Histogram,
    reloads: Family<Done, Counter>,
    kills: Counter,
}

impl OwnerMetrics {
    pub(super) fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            owners: Family::default(),
            decisions: Family::default(),
            forced: Family::default(),
            age: Gauge::default(),
            moves: Family::default(),
            versions: Family::default(),
            errors: Family::default(),
            propagation: Histogram::new(PROPAGATION_BUCKETS),
            reloads: Family::default(),
            kills: Counter::default(),
        };
        let mut r = metrics.registry.lock().unwrap_or_else(PoisonError::into_inner);
        r.register("quay_owner_info", "Who owns it, and why", metrics.owners.clone());
        r.register(
            "quay_owner_decisions",
            "Times that an owner or its reason became this; requests are not counted here",
            metrics.decisions.clone(),
        );
        r.register(
            "quay_owner_force_python",
            "1 at what forces everything to Python: env, file, or none",
            metrics.forced.clone(),
        );
        r.register_with_unit(
            "quay_owner_snapshot_age",
            "Since the switches in use were last found in their file",
            Unit::Seconds,
            metrics.age.clone(),
        );
        r.register(
            "quay_owner_worker_transitions",
            "Workers that changed hands, and those that did not",
            metrics.moves.clone(),
        );
        r.register(
            "quay_owner_snapshot_version",
            "Versions of the switches",
            metrics.versions.clone(),
        );
        r.register(
            "quay_owner_snapshot_errors",
            "Switches that could not be used",
            metrics.errors.clone(),
        );
        r.register_with_unit(
            "quay_owner_propagation",
            "From the change of the file to its effect",
            Unit::Seconds,
            metrics.propagation.clone(),
        );
        r.register("quay_owner_nginx_reloads", "New maps for nginx", metrics.reloads.clone());
        r.register(
            "quay_owner_registryd_kills",
            "Times that registryd hung",
            metrics.kills.clone(),
        );
        drop(r);
        metrics
    }

    /// What holds now; what held `before` is gone.
    pub(super) fn owners(&self, before: &[Line], lines: &[Line]) {
        self.owners.clear();
        for line in lines {
            let Line { kind, id, owner, reason, gated } = line.clone();
            if !before.contains(line) {
                let (kind, id) = (kind.clone(), id.clone());
                let decided = Decided { kind, id, owner: owner.clone(), reason: reason.clone() };
                self.decisions.get_or_create(&decided).inc();
            }
            let owned = Owned { kind, id, owner, reason, gated: gated.to_string() };
            self.owners.get_or_create(&owned).set(1);
        }
    }

    pub(super) fn versions(&self, seen: Option<u64>, applied: Option<u64>) {
        for (state, version) in [("seen", seen), ("applied", applied)] {
            let version = version.and_then(|version| i64::try_from(version).ok());
            self.versions.get_or_create(&State { state }).set(version.unwrap_or_default());
        }
    }

    pub(super) fn snapshot_age(&self, age: Duration) {
        self.age.set(age.as_secs_f64());
    }

    pub(super) fn forced(&self, by: Option<Origin>) {
        let now = match by {
            None => "none",
            Some(Origin::Environment) => "env",
            Some(Origin::SwitchFile | Origin::ConfigFile) => "file",
        };
        for source in ["none", "env", "file"] {
            self.forced.get_or_create(&Source { source }).set(i64::from(source == now));
        }
    }

    pub(super) fn worker_moved(
        &self,
        program: &str,
        from: &'static str,
        to: &'static str,
        done: bool,
    ) {
        let result = if done { "ok" } else { "failed" };
        let moved = Moved { program: program.to_owned(), from, to, result };
        self.moves.get_or_create(&moved).inc();
    }

    pub(super) fn error(&self, code: &str) {
        self.errors.get_or_create(&Code { code: code.to_owned() }).inc();
    }

    pub(super) fn applied(&self, seconds: f64) {
        self.propagation.observe(seconds);
    }

    pub(super) fn reloaded(&self, done: bool) {
        self.reloads.get_or_create(&Done { result: if done { "ok" } else { "failed" } }).inc();
    }

    pub(super) fn killed(&self) {
        self.kills.inc();
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Serves them, and the status page beside them. A port that is taken costs both, never the watching.
pub(super) fn serve(
    address: SocketAddr,
    metrics: Arc<OwnerMetrics>,
    run: &Path,
    mirrors: status_page::Mirrors,
) {
    let (run, began) = (Some(run.to_owned()), Instant::now());
    let source = status_page::Source { run, health: None, mirrors, began };
    let source = web::Data::new(source);
    let server = HttpServer::new(move || {
        let metrics = metrics.clone();
        let text = move || {
            let text = metrics.text();
            async move { HttpResponse::Ok().body(text) }
        };
        App::new()
            .app_data(source.clone())
            .route("/metrics", web::get().to(text))
            .configure(status_page::configure)
    });
    match server.workers(1).disable_signals().bind(address) {
        Ok(server) => {
            for address in server.addrs() {
                println!("owner-switch admin listening on http://{address}");
            }
            actix_web::rt::spawn(server.run());
        }
        Err(error) => tracing::warn!(%error, %address, "no metrics: the address cannot be used"),
    }
}
