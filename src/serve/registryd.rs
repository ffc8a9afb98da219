//! `quay serve registryd`: bind, serve, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Server, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App as Service, HttpResponse, HttpServer, web};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::admin;
use super::health::Health;
use super::listen::{Address, BACKLOG, Bound, Closer, Listen, ListenError, may_connect};
use super::mirror;
use super::status_page::{Mirrors, Source};
use super::systemd;
use crate::audit::{Audit, Batcher};
use crate::auth::{
    Authorizer, FieldKey, InstanceKey, Logins, PageTokens, ScopeParser, VerificationKeys, Verifier,
};
use crate::blobs::{Connected, Looks, Storage};
use crate::bundle::{Blobs, RunFolder};
use crate::catalog::{Catalog, CatalogError};
use crate::config::Config;
use crate::events::{BlobLocks, Events, StaleCaches};
use crate::gc::Collector;
use crate::oci::NameRules;
use crate::push::Pushes;
use crate::registry::{self, App, CohortFile, InFlight, Python, Shared};
use crate::telemetry::Metrics;

/// How long a client may take to send the head of a request, and to agree on TLS before that.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Threads a worker reads and writes files and hashes with: more would only queue in the disk. A push
/// may have three of them at work.
const BLOCKING_THREADS: usize = 16;

/// The next chunk of a body is read when fewer bytes than this wait to be sent: one chunk in
/// memory for each client, not several.
const WRITE_BUFFER: usize = 1024;

/// How often draining looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long a connection without a request may go on while draining: time for a request that was
/// already on its way.
const DRAIN_IDLE: Duration = Duration::from_millis(200);

/// How long the last rows of the action log may take.
const FLUSH: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    /// Where clients, or nginx, connect.
    pub listen: Vec<Listen>,
    /// Where operators do.
    pub admin: SocketAddr,
    /// Where Python's registry is, for what we cannot answer ourselves.
    pub python: Option<Python>,
    /// How TCP ports for clients speak HTTPS; in the clear without it.
    pub https: Option<ServerConfig>,
    /// Whether what nothing refers to is collected here: nobody else does it then.
    pub collects_garbage: bool,
    /// When the process began.
    pub began: Instant,
}

/// A service that could not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The database settings.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A setting that no request could be served with.
    #[error("{0}")]
    Setting(String),
    /// The server.
    #[error("server failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(config: Config, options: Options) -> Result<(), ServeError> {
    allow_open_files();
    let drain = config.sidecar.drain;
    let (mut parts, background) = build(config)?;
    parts.python = options.python.map(Arc::new);
    let mut bound = Vec::new();
    for listen in &options.listen {
        let (socket, address) = listen.address.bind()?;
        bound.push((socket, address, listen));
    }
    // Clients' own way in, where that is not HTTPS.
    let seen = bound.first().filter(|_| options.https.is_none()).map(|(_, at, _)| at.clone());
    let closers =
        bound.iter().map(|(socket, ..)| socket.closer()).collect::<Result<Vec<_>, _>>()?;
    let mut nginx = options.listen.iter().filter(|listen| listen.nginx);
    let run = nginx.find_map(|listen| run_folder(&listen.address));
    let source = Source {
        run: run.map(|run| run.path().to_owned()),
        health: Some(parts.health()),
        mirrors: Mirrors::of(Some(&parts.shared.config)),
        began: options.began,
    };
    let (admin, admin_address) = admin_server(&parts, source, options.admin)?;
    let mut servers = Vec::new();
    for nginx in [true, false] {
        let mine: Vec<_> = bound.extract_if(.., |(.., listen)| listen.nginx == nginx).collect();
        if !mine.is_empty() {
            servers.push(registry_server(&parts, nginx, mine, options.https.as_ref())?);
        }
    }
    println!("admin listening on {admin_address}");
    println!("listening {} ms after the start", options.began.elapsed().as_millis());
    let seen = seen.unwrap_or(admin_address);

    let handles: Vec<ServerHandle> = servers.iter().map(Server::handle).collect();
    let admin_handle = admin.handle();
    tokio::spawn(parts.health().first_look());
    let collecting = options.collects_garbage.then(|| parts.collect_garbage()).flatten();
    let mut running = JoinSet::new();
    for server in servers.into_iter().chain([admin]) {
        running.spawn(server);
    }

    systemd::ready();
    let beat = tokio::spawn(systemd::beat(async move || systemd::answers(&seen).await));
    let in_flight = parts.shared.in_flight.clone();
    let signal = tokio::select! {
        name = stop_signal() => name?,
        Some(ended) = running.join_next() => {
            ended.map_err(std::io::Error::other)??;
            return Err(ServeError::Setting("a listener ended by itself".to_owned()));
        }
    };
    // Readiness goes first: whoever reads that we drain finds us not ready.
    in_flight.drain();
    tracing::info!(signal, "draining");
    if let Some((stop, _)) = &collecting {
        stop.send_replace(true);
    }
    beat.abort();
    systemd::stopping();
    let forced = drain_requests(&in_flight, &handles, closers, drain).await;
    admin_handle.stop(false).await;
    while running.join_next().await.is_some() {}

    if let Some((_, collector)) = collecting
        && timeout(FLUSH, collector).await.is_err()
    {
        tracing::warn!("garbage collection did not stop within {FLUSH:?}");
    }
    // The last handles to the queues go with these; then what waits in them is written.
    drop(parts);
    background.finish().await;
    match forced {
        0 => tracing::info!("stopped"),
        cut => tracing::warn!(cut, "stopped at the deadline, requests were cut off"),
    }
    Ok(())
}

/// Queues that are emptied while requests are answered, and to the last.
struct Background {
    writer: JoinHandle<()>,
    messengers: JoinSet<()>,
}

impl Background {
    async fn finish(mut self) {
        if timeout(FLUSH, self.writer).await.is_err() {
            tracing::error!("the action log was not flushed within {FLUSH:?}");
        }
        let sent = async { while self.messengers.join_next().await.is_some() {} };
        if timeout(FLUSH, sent).await.is_err() {
            tracing::warn!("the last messages for Redis were lost");
        }
    }
}

/// Everything that is built once a process.
struct Parts {
    shared: Arc<Shared>,
    catalog: Catalog,
    keys: Arc<VerificationKeys>,
    python: Option<Arc<Python>>,
    workers: usize,
}

impl Parts {
    fn health(&self) -> Health {
        Health {
            catalog: self.catalog.clone(),
            keys: self.keys.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Unless the configuration forbids it, or counts bytes that we do not count.
    fn collect_garbage(&self) -> Option<(watch::Sender<bool>, JoinHandle<()>)> {
        let config = &self.shared.config;
        let rules = &config.garbage;
        if !rules.collected || config.server.registry_state_readonly {
            return None;
        }
        if config.push.quotas.counted {
            tracing::warn!("no garbage is collected while FEATURE_QUOTA_MANAGEMENT is on");
            return None;
        }
        let (catalog, metrics) = (self.catalog.clone(), self.shared.metrics.clone());
        let collector = Collector::new(catalog, self.shared.pushes.clone(), config, metrics);
        let window = config.auth.new_namespaces.tag_expiration;
        let (stop, stopped) = watch::channel(false);
        let collecting = mirror::collect(collector, self.health(), rules.every, window, stopped);
        Some((stop, actix_web::rt::spawn(collecting)))
    }

    /// Connections of each serving thread.
    fn pool_size(&self) -> usize {
        (self.shared.config.sidecar.db_pool_size / self.workers).max(2)
    }
}

fn build(config: Config) -> Result<(Parts, Background), ServeError> {
    let metrics = Arc::new(Metrics::default());
    let sidecar = &config.sidecar;
    let cores = || std::thread::available_parallelism().map_or(2, usize::from);
    let workers = sidecar.workers.unwrap_or_else(cores);
    // Health and keys share one pool; the action log's writer has a connection to itself.
    let catalog = Catalog::new(&config.database, sidecar, 2, metrics.clone())?;
    let (batcher, writer) = Batcher::start(
        catalog.with_own_pool(1)?,
        sidecar.audit_queue,
        sidecar.audit_timeout,
        metrics.clone(),
    );

    let rules = NameRules {
        library_namespace: config.server.library_namespace.clone(),
        extended: config.features.extended_repository_names,
    };
    let keys = Arc::new(VerificationKeys::new(&config.keys.service, metrics.clone()));
    let read_only = config.server.registry_state_readonly;
    let tolerant = config.audit.allow_pulls_without_strict_logging
        || config.audit.allow_without_strict_logging;
    let field_key = FieldKey::derive(config.auth.database_secret_key.expose());
    let field_key = field_key.ok_or_else(|| {
        let reason = "DATABASE_SECRET_KEY: no key can be made of it; use what Python Quay uses";
        ServeError::Setting(reason.to_owned())
    })?;
    let scopes = ScopeParser::new(&config.server.hostname, rules.clone())
        .map_err(|error| ServeError::Setting(format!("SERVER_HOSTNAME: {error}")))?;
    let page_tokens = PageTokens::new(config.server.page_token_key.expose());
    let page_tokens = page_tokens.ok_or_else(|| {
        let reason = "PAGE_TOKEN_KEY: not 32 bytes in urlsafe base64; use what Python Quay uses";
        ServeError::Setting(reason.to_owned())
    })?;
    let auth = Arc::new(config.auth.clone());
    let hashers = sidecar.password_hashers;
    let hostname = &config.server.hostname;
    let verifier =
        Verifier::new(keys.clone(), hostname, &config.keys, rules.clone(), metrics.clone());
    let logins = Logins::new(
        auth.clone(),
        (tolerant, read_only),
        field_key,
        verifier.clone(),
        hashers,
        metrics.clone(),
    );
    let (events, messengers) = Events::start(&config.events, &metrics);
    let shared = Shared {
        verifier,
        logins,
        authorizer: Authorizer::new(auth, config.features.proxy_cache, read_only),
        page_tokens,
        instance_key: InstanceKey::new(&config.keys.kid_path, &config.keys.key_path),
        audit: Audit::new(config.audit.clone(), read_only, batcher),
        events,
        storage: Storage::new(&config.storage),
        stale: StaleCaches::new(&config.model_cache, &metrics),
        pushes: Pushes::new(
            &config,
            BlobLocks::new(&config.events.blob_locks, &metrics),
            metrics.clone(),
        ),
        broken: Default::default(),
        in_flight: InFlight::new(metrics.in_flight.clone()),
        rules,
        scopes,
        metrics,
        config,
    };
    let parts = Parts { shared: Arc::new(shared), catalog, keys, python: None, workers };
    Ok((parts, Background { writer, messengers }))
}

fn registry_server(
    parts: &Parts,
    behind_nginx: bool,
    sockets: Vec<(Bound, Address, &Listen)>,
    https: Option<&ServerConfig>,
) -> Result<Server, ServeError> {
    let (catalog, shared, pool) = (parts.catalog.clone(), parts.shared.clone(), parts.pool_size());
    let sidecar = &parts.shared.config.sidecar;
    let python = parts.python.clone();
    let run = match behind_nginx {
        true => sockets.iter().find_map(|(_, address, _)| run_folder(address)),
        false => None,
    };
    let sendfile = run.as_ref().and_then(|run| sendfile(&shared.config, run));
    let cohort = run.map(|run| Arc::new(CohortFile::at(run.cohort())));
    let from: Arc<Vec<IpNet>> =
        Arc::new(sockets.iter().flat_map(|(.., listen)| listen.from.clone()).collect());
    let mut server = HttpServer::new(move || {
        // Made on the thread that will use it, so that its connections live there.
        let catalog = catalog.with_own_pool(pool).unwrap_or_else(|_| catalog.clone());
        let (sendfile, cohort) = (sendfile.clone(), cohort.clone());
        let python = python.clone();
        let (looks, shared, from) = (Looks::default(), shared.clone(), from.clone());
        let app = App { catalog, behind_nginx, sendfile, looks, python, cohort, shared };
        Service::new()
            .app_data(web::Data::new(app))
            .wrap(from_fn(registry::normalise))
            .wrap(from_fn(registry::instead))
            .wrap(from_fn(registry::observe))
            .wrap(from_fn(move |request, next| only_from(from.clone(), request, next)))
            .configure(registry::configure)
    })
    .workers(parts.workers)
    .worker_max_blocking_threads(BLOCKING_THREADS)
    .h1_write_buffer_size(WRITE_BUFFER)
    .on_connect(|_, connection| drop(connection.insert(Connected::begin())))
    .max_connections(sidecar.max_connections.div_ceil(parts.workers))
    .backlog(BACKLOG)
    .client_request_timeout(HEAD_TIMEOUT)
    .tls_handshake_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    // A small blob is two writes, head and body: the second must not wait for the client's word.
    .tcp_nodelay(true)
    .shutdown_timeout(sidecar.drain.as_secs())
    .disable_signals();
    for (socket, address, _) in sockets {
        server = match (socket, https) {
            (Bound::Tcp(listener), Some(tls)) => {
                println!("registryd listening on https://{}", listener.local_addr()?);
                server.listen_rustls_0_23(listener, tls.clone())?
            }
            (Bound::Tcp(listener), None) => {
                println!("registryd listening on {address}");
                server.listen(listener)?
            }
            (Bound::Unix(listener), _) => {
                println!("registryd listening on {address}");
                server.listen_uds(listener)?
            }
        };
    }
    Ok(server.run())
}

/// Each connection and each blob on its way is an open file: as many as this process may have, where
/// a shell or a container manager has it begin with 1024.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = ?limit.current, "no more open files than before");
    }
}

/// Whoever is not where nginx is learns nothing here, and is believed nothing.
async fn only_from<B: MessageBody + 'static>(
    from: Arc<Vec<IpNet>>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    if may_connect(&from, request.peer_addr()) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    tracing::warn!(peer = ?request.peer_addr(), "refused: not from the networks of nginx");
    Ok(request.into_response(HttpResponse::Forbidden().finish()).map_into_right_body())
}

/// The folder that the bundle put nginx's socket into.
fn run_folder(address: &Address) -> Option<RunFolder> {
    let Address::Unix(socket) = address else { return None };
    RunFolder::open(socket.parent()?).ok()
}

/// There it also left the secret part of the location from which nginx sends blobs itself.
/// Elsewhere we stream them.
fn sendfile(config: &Config, run: &RunFolder) -> Option<Arc<Blobs>> {
    let prefix = run.kept_blob_prefix()?;
    let roots = config.storage.local_roots().map(|(index, root)| (index, root.to_owned()));
    Some(Arc::new(Blobs { prefix, roots: roots.collect() }))
}

fn admin_server(
    parts: &Parts,
    source: Source,
    address: SocketAddr,
) -> Result<(Server, Address), ServeError> {
    let (socket, address) = Address::Tcp(address).bind()?;
    let (health, source) = (web::Data::new(parts.health()), web::Data::new(source));
    let server = HttpServer::new(move || {
        let service = Service::new().app_data(health.clone()).app_data(source.clone());
        service.configure(admin::configure)
    })
    .workers(1)
    .max_connections(64)
    .client_request_timeout(HEAD_TIMEOUT)
    .shutdown_timeout(1)
    .disable_signals();
    let server = match socket {
        Bound::Tcp(listener) => server.listen(listener)?,
        Bound::Unix(listener) => server.listen_uds(listener)?,
    };
    Ok((server.run(), address))
}

pub(super) async fn stop_signal() -> Result<&'static str, std::io::Error> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

/// The listeners go; then the requests in flight finish, bodies included. Returns how many had not
/// at the deadline.
async fn drain_requests(
    in_flight: &InFlight,
    servers: &[ServerHandle],
    listeners: Vec<Closer>,
    limit: Duration,
) -> i64 {
    for server in servers {
        server.pause().await;
    }
    listeners.into_iter().for_each(Closer::close);
    let deadline = Instant::now() + limit;
    let mut idle_since = Instant::now();
    while Instant::now() < deadline {
        if in_flight.count() > 0 {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= DRAIN_IDLE {
            break;
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
    let left = in_flight.count();
    for server in servers {
        server.stop(false).await;
    }
    left
}
