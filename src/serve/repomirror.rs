//! `quay worker repomirror`: fills the mirrors that are due, several at once, until SIGTERM. What
//! it has begun and cannot end by then is given back, and the next worker goes on with it.

mod ask;
mod organizations;
mod queue;
mod tries;

pub use ask::{AskError, ask};
pub use organizations::OrganizationOutcome;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App as Service, HttpResponse, HttpServer, Responder, web};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use queue::Waiting;
use tries::Tries;

use super::listen::{Address, Bound};
use super::registryd::{ServeError, stop_signal};
use super::status_page;
use crate::audit::{Audit, Batcher};
use crate::auth::{Authorizer, FieldKey};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::events::{BlobLocks, StaleCaches};
use crate::mirroring::{self, Claim, Outcome, Parts, Progress, Snapshot};
use crate::oci::RepoName;
use crate::push::Pushes;
use crate::telemetry::Metrics;
use crate::upstream::Hosts;

/// How often mirrors that are due are looked for: what somebody asks for begins within seconds.
const LOOK: Duration = Duration::from_secs(2);

/// How long syncs may take to end once they are told to: with the log's last rows less than the nine
/// seconds that supervisord waits before SIGKILL.
const STOP: Duration = Duration::from_secs(6);

/// How long the last rows of the action log may take.
const FLUSH: Duration = Duration::from_secs(2);

/// What a worker or a single sync needs.
pub struct Mirrors {
    parts: Arc<Parts>,
    metrics: Arc<Metrics>,
    writer: JoinHandle<()>,
    running: Running,
}

/// Syncs that go on, by repository.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<String, Arc<Progress>>>>);

impl Running {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Arc<Progress>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How far each has come, by name.
    pub(super) fn snapshots(&self) -> Vec<Snapshot> {
        let mut now: Vec<Snapshot> =
            self.with(|running| running.values().map(|progress| progress.snapshot()).collect());
        now.sort_by(|a, b| a.repository.cmp(&b.repository));
        now
    }
}

impl Mirrors {
    /// Opens nothing yet: the first statement does.
    pub fn new(config: Config) -> Result<Self, ServeError> {
        let mirror_metrics = mirroring::Metrics::default();
        let metrics = Arc::new(Metrics::with(|registry| mirror_metrics.register(registry)));
        let sidecar = &config.sidecar;
        let catalog =
            Catalog::new(&config.database, sidecar, sidecar.db_pool_size, metrics.clone())?;
        let (batcher, writer) = Batcher::start(
            catalog.with_own_pool(1)?,
            sidecar.audit_queue,
            sidecar.audit_timeout,
            metrics.clone(),
        );
        let field_key = FieldKey::derive(config.auth.database_secret_key.expose());
        let field_key = field_key.ok_or_else(|| {
            let reason = "DATABASE_SECRET_KEY: no key can be made of it; use what Python Quay uses";
            ServeError::Setting(reason.to_owned())
        })?;
        let read_only = config.server.registry_state_readonly;
        let auth = Arc::new(config.auth.clone());
        let locks = BlobLocks::new(&config.events.blob_locks, &metrics);
        let parts = Parts {
            pushes: Pushes::new(&config, locks, metrics.clone()),
            audit: Audit::new(config.audit.clone(), read_only, batcher),
            stale: StaleCaches::new(&config.model_cache, &metrics),
            authorizer: Authorizer::new(auth, config.features.proxy_cache, read_only),
            field_key,
            hosts: Hosts::default(),
            metrics: mirror_metrics,
            catalog,
            config,
        };
        Ok(Self { parts: Arc::new(parts), metrics, writer, running: Running::default() })
    }

    /// What a sync of this mirror would do; `None` where it is no mirror.
    pub async fn plan(
        &self,
        name: &RepoName,
        begun: impl FnOnce(Arc<Progress>),
    ) -> Result<Option<mirroring::Plan>, mirroring::SyncError> {
        let mirror = self.parts.catalog.session("repomirror").mirror(name).await?;
        let Some(mirror) = mirror else { return Ok(None) };
        let progress = Arc::new(Progress::new(name));
        begun(progress.clone());
        mirroring::plan(&self.parts, &mirror, &progress).await.map(Some)
    }

    /// Syncs one mirror now, whenever it is due; `None` where it is none, or somebody is at it.
    pub async fn sync(
        &self,
        name: &RepoName,
        begun: impl FnOnce(Arc<Progress>),
    ) -> Result<Option<Outcome>, mirroring::SyncError> {
        let db = self.parts.catalog.session("repomirror");
        let Some(mirror) = db.mirror(name).await? else { return Ok(None) };
        let (tell, stopping) = watch::channel(false);
        let lease = self.parts.config.sidecar.mirror_lease;
        let row = mirror.claimable().by_hand();
        let Some(claim) = Claim::take(&self.parts.catalog, row, lease, stopping).await? else {
            return Ok(None);
        };
        let progress = Arc::new(Progress::new(name));
        begun(progress.clone());
        let stopped = async {
            let _ = stop_signal().await;
            let _ = tell.send(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = mirroring::sync(&self.parts, &mirror, claim, &progress) => Ok(Some(outcome)),
            () = stopped => Ok(None),
        }
    }

    /// Writes what waits.
    pub async fn finish(self) {
        drop(self.parts);
        if tokio::time::timeout(FLUSH, self.writer).await.is_err() {
            tracing::error!("the action log was not flushed within {FLUSH:?}");
        }
    }
}

/// Fills mirrors until SIGTERM or SIGINT.
pub async fn run(config: Config, admin: SocketAddr) -> Result<(), ServeError> {
    let idle = match &config.server {
        _ if !config.mirroring.enabled => Some("FEATURE_REPO_MIRROR is not true"),
        server if server.account_recovery_mode => Some("ACCOUNT_RECOVERY_MODE is true"),
        server if server.registry_state_readonly => Some("REGISTRY_STATE is readonly"),
        _ => None,
    };
    let mirrors = Mirrors::new(config)?;
    let serving = serve_admin(&mirrors, admin);
    let (tell, stopping) = watch::channel(false);
    let working = async {
        match idle {
            // Quay's worker idles too: supervisord would start it again and again.
            Some(reason) => {
                tracing::warn!(reason, "nothing to do");
                let mut stopping = stopping.clone();
                let _ = stopping.wait_for(|stopping| *stopping).await;
            }
            None => work(&mirrors, stopping.clone()).await,
        }
    };
    let stop = async {
        let name = stop_signal().await;
        let _ = tell.send(true);
        name
    };
    let ((), signal) = tokio::join!(working, stop);
    tracing::info!(signal = signal?, "stopped");
    if let Some(serving) = serving {
        serving.stop(false).await;
    }
    mirrors.finish().await;
    Ok(())
}

/// Claims what is due, as much at once as the settings allow.
async fn work(mirrors: &Mirrors, mut stopping: watch::Receiver<bool>) {
    let (parts, running) = (&mirrors.parts, &mirrors.running);
    let (config, organizations) = (&parts.config, parts.config.auth.org_mirror);
    let most = config.sidecar.mirrors_at_once;
    parts.metrics.running(true);
    tracing::info!(at_once = most, organizations, "looking for mirrors that are due");
    let (mut syncs, mut discoveries) = (JoinSet::new(), JoinSet::new());
    let mut every = LOOK.min(config.mirroring.interval);
    if organizations {
        every = every.min(config.mirroring.organization_interval);
    }
    let mut tries = Tries::new(config.mirroring.interval);
    let mut looks = Tries::new(config.mirroring.organization_interval);
    while !*stopping.borrow() {
        let mut pending = 0;
        if organizations {
            pending = organizations::look(parts, &mut discoveries, &mut looks, &stopping).await;
        }
        let due = queue::due(parts, organizations).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "mirrors that are due are not known");
            Vec::new()
        });
        let due: Vec<_> = due.into_iter().filter(|due| tries.may_begin(&due.claimable())).collect();
        let mut due = due.into_iter();
        while syncs.len() < most && !*stopping.borrow() {
            let Some(due) = due.next() else { break };
            tries.begins(&due.claimable());
            begin(parts, running, due, &mut syncs, stopping.clone()).await;
        }
        let Waiting { mirrors, of_organizations } = Waiting::of(due.as_slice());
        parts.metrics.waiting(mirrors);
        parts.metrics.organizations_waiting(pending, of_organizations);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            Some(ended) = syncs.join_next() => log_panic(ended),
            Some(ended) = discoveries.join_next() => log_panic(ended),
            _ = stopping.changed() => {}
        }
    }
    let ended = async {
        while let Some(ended) = syncs.join_next().await {
            log_panic(ended);
        }
        while let Some(ended) = discoveries.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(STOP, ended).await.is_err() {
        tracing::warn!("syncs did not end within {STOP:?}; their leases will");
    }
    parts.metrics.running(false);
}

/// Claims one, and fills it beside the others.
async fn begin(
    parts: &Arc<Parts>,
    running: &Running,
    due: queue::Due,
    syncs: &mut JoinSet<()>,
    stopping: watch::Receiver<bool>,
) {
    let (name, lease) = (due.name(), parts.config.sidecar.mirror_lease);
    match Claim::take(&parts.catalog, due.claimable(), lease, stopping).await {
        Ok(Some(claim)) => {
            let progress = Arc::new(Progress::new(&name));
            running.with(|all| all.insert(name.to_string(), progress.clone()));
            let (parts, running) = (parts.clone(), running.clone());
            syncs.spawn_local(async move {
                due.sync(&parts, claim, &progress).await;
                running.with(|all| all.remove(&name.to_string()));
            });
        }
        Ok(None) => tracing::debug!(mirror = %name, "another worker has it"),
        Err(error) => tracing::warn!(%error, mirror = %name, "not claimed"),
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a sync ended in a way that it should not");
    }
}

/// A port that is taken costs the numbers and the page, never the mirrors: two Quays may share a
/// network, and one worker may take over from another.
fn serve_admin(mirrors: &Mirrors, address: SocketAddr) -> Option<ServerHandle> {
    match admin_server(mirrors, address) {
        Ok((server, address)) => {
            let handle = server.handle();
            tokio::spawn(server);
            println!("admin listening on {address}");
            Some(handle)
        }
        Err(error) => {
            let remedy = "QUAY_SIDECAR's repo_mirror_admin is another address";
            tracing::warn!(%error, remedy, "no metrics, and nobody can ask how syncs go");
            None
        }
    }
}

fn admin_server(mirrors: &Mirrors, address: SocketAddr) -> Result<(Server, Address), ServeError> {
    let (socket, address) = Address::Tcp(address).bind()?;
    let (metrics, running) = (mirrors.metrics.clone(), mirrors.running.clone());
    let catalog = mirrors.parts.catalog.clone();
    let page = status_page::Source {
        run: None,
        health: None,
        mirrors: status_page::Mirrors::Here(running.clone()),
        began: Instant::now(),
    };
    let page = web::Data::new(page);
    let server = HttpServer::new(move || {
        Service::new()
            .app_data(web::Data::from(metrics.clone()))
            .app_data(web::Data::new(running.clone()))
            .app_data(web::Data::new(catalog.clone()))
            .app_data(page.clone())
            .route("/metrics", web::get().to(show_metrics))
            .route("/mirrors", web::get().to(show_running))
            .route("/healthz", web::get().to(alive))
            .route("/readyz", web::get().to(ready))
            .configure(status_page::configure)
    })
    .workers(1)
    .max_connections(64)
    .client_request_timeout(Duration::from_secs(10))
    .shutdown_timeout(1)
    .disable_signals();
    let server = match socket {
        Bound::Tcp(listener) => server.listen(listener)?,
        Bound::Unix(listener) => server.listen_uds(listener)?,
    };
    Ok((server.run(), address))
}

async fn show_metrics(metrics: web::Data<Metrics>) -> impl Responder {
    HttpResponse::Ok().content_type(super::admin::OPENMETRICS).body(metrics.text())
}

async fn show_running(running: web::Data<Running>) -> impl Responder {
    HttpResponse::Ok().json(running.snapshots())
}

async fn alive() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

async fn ready(catalog: web::Data<Catalog>) -> impl Responder {
    match catalog.session("repomirror").due_mirrors(1).await {
        Ok(_) => HttpResponse::Ok().json(json!({"status": "ready", "problems": []})),
        Err(error) => HttpResponse::ServiceUnavailable()
            .json(json!({"status": "not ready", "problems": [error.to_string()]})),
    }
}
