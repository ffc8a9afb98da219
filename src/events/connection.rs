//! Connections to the Redis servers of Quay's maps.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, TlsCertificates,
};
use tokio::time::timeout;

use super::health::Health;
use crate::config::{Redis, RedisAddress};

/// How long Redis may take to connect or to answer, as in Quay.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long a Redis that was away is left alone.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A Redis that requests wait for: one connection for all of them, opened when it is needed.
pub(super) struct Shared {
    client: Client,
    patience: Duration,
    current: Mutex<Current>,
    opening: tokio::sync::Mutex<()>,
    health: Health,
}

#[derive(Default)]
struct Current {
    link: Option<Link>,
    opened: u64,
    failed: Option<Instant>,
}

/// A connection, told from the one before it by its number.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    number: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Away {
    /// It was not even asked.
    #[error("it was away a moment ago")]
    Paused,
    #[error(transparent)]
    Failed(#[from] RedisError),
}

impl Shared {
    /// `patience` is for each question, a new connection included. `None` where the settings are
    /// such that Redis cannot even be tried.
    pub(super) fn new(redis: &Redis, patience: Duration, health: Health) -> Option<Arc<Self>> {
        let client = client(redis).inspect_err(|error| health.failed(error)).ok()?;
        let (current, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        Some(Arc::new(Self { client, patience, current, opening, health }))
    }

    /// Asks on the connection `used`, else on the shared one, and leaves behind which it was: what
    /// follows on the same connection arrives after it, even where no answer came.
    ///
    /// A connection that was dropped meanwhile is replaced once, so Redis may see a question twice.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        question: &Pipeline,
        used: &mut Option<Link>,
    ) -> Result<T, Away> {
        let answer = timeout(self.patience, self.try_ask(question, used)).await;
        let late = |elapsed| Err(RedisError::from(io::Error::from(elapsed)).into());
        let answer = answer.unwrap_or_else(late);
        match &answer {
            Ok(_) => self.health.answered(),
            Err(Away::Paused) => {}
            Err(Away::Failed(error)) => {
                self.give_up(used.as_ref(), error);
                self.health.failed(error);
            }
        }
        answer
    }

    async fn try_ask<T: FromRedisValue>(
        &self,
        question: &Pipeline,
        used: &mut Option<Link>,
    ) -> Result<T, Away> {
        let mut link = match used {
            Some(link) => link.clone(),
            None => used.insert(self.link().await?).clone(),
        };
        let answer = question.query_async(&mut link.connection).await;
        match answer {
            Err(error) if error.is_connection_dropped() => {
                self.give_up(Some(&link), &error);
                *used = None;
                let mut link = used.insert(self.link().await?).clone();
                Ok(question.query_async(&mut link.connection).await?)
            }
            answer => Ok(answer?),
        }
    }

    async fn link(&self) -> Result<Link, Away> {
        if let Some(link) = self.current()? {
            return Ok(link);
        }
        let _opening = self.opening.lock().await;
        // Another may have opened it meanwhile, or failed to.
        if let Some(link) = self.current()? {
            return Ok(link);
        }
        let connection = open(&self.client).await?;
        let mut current = lock(&self.current);
        current.opened += 1;
        let link = Link { connection, number: current.opened };
        current.link = Some(link.clone());
        Ok(link)
    }

    fn current(&self) -> Result<Option<Link>, Away> {
        let current = lock(&self.current);
        if current.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return Err(Away::Paused);
        }
        Ok(current.link.clone())
    }

    /// The next to ask gets another connection: at once where this one has only died of old age.
    fn give_up(&self, used: Option<&Link>, error: &RedisError) {
        let mut current = lock(&self.current);
        if used.map(|link| link.number) != current.link.as_ref().map(|link| link.number) {
            return;
        }
        let died = current.link.take().is_some() && error.is_connection_dropped();
        current.failed = (!died).then(Instant::now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects, within bounds that hold for each answer too.
pub(super) async fn open(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&limits).await
}

/// What is needed to connect; reads the file of authorities.
pub(super) fn client(redis: &Redis) -> Result<Client, String> {
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
