//! A bounded queue in front of a Redis that may be away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, TlsCertificates,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Redis, RedisAddress};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Message;

/// Messages that wait at most; what comes on top is lost.
const QUEUE: usize = 4096;

/// Messages in one round trip at most.
const BATCH: usize = 256;

/// How long Redis may take to connect or to answer, as in Quay.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a Redis that was away is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The way into one queue.
#[derive(Clone)]
pub(super) struct Sink {
    name: &'static str,
    queue: mpsc::Sender<Pipeline>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// `None` where the settings are such that Redis cannot even be tried.
    pub(super) fn start(
        name: &'static str,
        redis: &Redis,
        metrics: Arc<Metrics>,
        senders: &mut JoinSet<()>,
    ) -> Option<Self> {
        let client = client(redis)
            .inspect_err(|error| tracing::warn!(%error, sink = name, "nothing is sent to Redis"))
            .ok()?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let server = Server { name, client, connection: None, away: false };
        senders.spawn(send_all(server, waiting, metrics.clone()));
        Some(Self { name, queue, metrics })
    }

    /// Puts a message into the queue, or loses it.
    pub(super) fn send(&self, message: Pipeline) {
        if self.queue.try_send(message).is_err() {
            count(&self.metrics, self.name, false, 1);
        }
    }
}

fn count(metrics: &Metrics, sink: &'static str, sent: bool, messages: usize) {
    let outcome = if sent { "sent" } else { "lost" };
    metrics.events.get_or_create(&Message { sink, outcome }).inc_by(messages as u64);
}

async fn send_all(
    mut server: Server,
    mut waiting: mpsc::Receiver<Pipeline>,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let messages = batch.len();
        let lost = server.send(std::mem::take(&mut batch)).await;
        count(&metrics, server.name, true, messages - lost);
        count(&metrics, server.name, false, lost);
        if lost > 0 && !waiting.is_closed() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

struct Server {
    name: &'static str,
    client: Client,
    connection: Option<MultiplexedConnection>,
    away: bool,
}

impl Server {
    /// Returns how many were lost. One line in the log when Redis goes away, one when it is back.
    async fn send(&mut self, messages: Vec<Pipeline>) -> usize {
        let mut failed = self.try_send(messages).await;
        // The connection of an idle hour may have died with the last server. What was answered
        // is not sent again: a pull is counted once.
        if failed.as_ref().is_err_and(|(error, _)| error.is_connection_dropped())
            && let Err((_, messages)) = failed
        {
            failed = self.try_send(messages).await;
        }
        let (name, was_away) = (self.name, self.away);
        self.away = failed.is_err();
        match failed {
            Ok(()) => {
                if was_away {
                    tracing::info!(sink = name, "Redis is back");
                }
                0
            }
            Err((error, lost)) => {
                if !was_away {
                    tracing::warn!(%error, sink = name, "Redis is away: its messages are lost");
                }
                lost.len()
            }
        }
    }

    /// All of them at once; those without a good answer come back.
    async fn try_send(
        &mut self,
        messages: Vec<Pipeline>,
    ) -> Result<(), (RedisError, Vec<Pipeline>)> {
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Err((error, messages)),
        };
        let answers = join_all(messages.iter().map(|message| {
            let mut connection = connection.clone();
            async move { message.exec_async(&mut connection).await }
        }));
        let answers = answers.await;
        let (mut last, mut failed) = (None, Vec::new());
        for (answer, message) in answers.into_iter().zip(messages) {
            if let Err(error) = answer {
                last = Some(error);
                failed.push(message);
            }
        }
        let Some(error) = last else { return Ok(()) };
        self.connection = None;
        Err((error, failed))
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = self.client.get_multiplexed_async_connection_with_config(&limits).await?;
        Ok(self.connection.insert(connection).clone())
    }
}

fn client(redis: &Redis) -> Result<Client, String> {
    let mut server = RedisConnectionInfo::default().set_db(redis.db);
    if let Some(username) = &redis.username {
        server = server.set_username(username);
    }
    if let Some(password) = &redis.password {
        server = server.set_password(password.expose());
    }
    let mut authorities = None;
    let address = match &redis.address {
        RedisAddress::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
        RedisAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
        RedisAddress::Tls(host, port, file) => {
            authorities = file.as_ref();
            let (host, port) = (host.clone(), *port);
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
    };
    let text = |error: RedisError| error.to_string();
    let info = address.into_connection_info().map_err(text)?.set_redis_settings(server);
    match authorities {
        None => Client::open(info).map_err(text),
        Some(file) => {
            let pem = std::fs::read(file).map_err(|error| {
                format!("ssl_ca_certs {}: {error}; make it readable", file.display())
            })?;
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
            Client::build_with_tls(info, certificates).map_err(text)
        }
    }
}
