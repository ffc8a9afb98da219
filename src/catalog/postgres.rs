//! The bounded pool of connections to PostgreSQL. A request that gets no connection in time is told
//! so; a statement that takes too long is cancelled; nothing waits for ever.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio_postgres::NoTls;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::InUse;
use super::error::{CatalogError, chain};
use super::tls;
use super::value::{Param, Row};
use crate::config::{Database, Host, Sidecar, SslMode, Target};
use crate::telemetry::Metrics;

/// A pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Postgres {
    pool: Pool,
    shared: Arc<Shared>,
}

struct Shared {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    wait: Duration,
    statement_timeout: Duration,
    prepared: bool,
    metrics: Arc<Metrics>,
}

impl Postgres {
    /// Opens nothing yet: the first statement does.
    pub(super) fn new(
        database: &Database,
        sidecar: &Sidecar,
        pool_size: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CatalogError> {
        let unusable = |error: &dyn std::error::Error| CatalogError::Unavailable(chain(error));
        let tls = match database.tls.mode {
            SslMode::Disable => None,
            _ => Some(tls::connector(&database.tls).map_err(|error| unusable(&error))?),
        };
        let shared = Arc::new(Shared {
            config: postgres(database),
            tls,
            wait: sidecar.db_wait,
            statement_timeout: sidecar.db_statement_timeout,
            prepared: sidecar.db_prepared_statements,
            metrics,
        });
        Ok(Self { pool: pool(&shared, pool_size)?, shared })
    }

    /// The same database through a pool of its own.
    pub(super) fn with_own_pool(&self, pool_size: usize) -> Result<Self, CatalogError> {
        Ok(Self { pool: pool(&self.shared, pool_size)?, shared: self.shared.clone() })
    }

    /// Runs a statement that may run twice: a connection that turns out to be dead (the database
    /// restarted) is replaced once.
    pub(super) async fn query(
        &self,
        route: &'static str,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let client = self.client().await?;
        match self.limited(client, route, sql, params).await {
            Err(Failure::Broken(_)) => {
                let client = self.client().await?;
                self.limited(client, route, sql, params).await.map_err(Failure::into_error)
            }
            result => result.map_err(Failure::into_error),
        }
    }

    /// Runs a statement that must not run twice.
    pub(super) async fn write(
        &self,
        route: &'static str,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let client = self.client().await?;
        self.limited(client, route, sql, params).await.map_err(Failure::into_error)
    }

    /// Begins a transaction, READ COMMITTED as Python's are (contract §9 item 5).
    pub(super) async fn begin(&self, route: &'static str) -> Result<Transaction, CatalogError> {
        for last in [false, true] {
            let client = self.client().await?;
            let in_use = InUse::count(&self.shared.metrics.pool_in_use);
            let mut transaction = Transaction {
                client: Some(client),
                postgres: self.clone(),
                route,
                _in_use: in_use,
            };
            match transaction.command("BEGIN").await {
                // Nothing has run yet, and the connection may have died with the last server.
                Err(Failure::Broken(_)) if !last => {}
                result => return result.map(|()| transaction).map_err(Failure::into_error),
            }
        }
        Err(CatalogError::Unavailable("no connection lives".to_owned()))
    }

    /// Counts a transaction that had to begin anew.
    pub(super) fn count_conflict(&self) {
        self.shared.metrics.conflicts.inc();
    }

    async fn client(&self) -> Result<Client, CatalogError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => {
                self.shared.metrics.pool_timeouts.inc();
                CatalogError::Unavailable("every connection is in use".to_owned())
            }
            PoolError::Backend(error) => CatalogError::Unavailable(chain(&error)),
            other => CatalogError::Unavailable(chain(&other)),
        })
    }

    async fn limited(
        &self,
        client: Client,
        route: &'static str,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let _in_use = InUse::count(&self.shared.metrics.pool_in_use);
        self.shared.metrics.statement(route);
        match self.in_time(route, self.run(&client, sql, params)).await {
            Some(result) => Ok(result?.into_iter().map(Row::Postgres).collect()),
            None => {
                self.cancel(client);
                Err(self.timeout(route))
            }
        }
    }

    /// What the server answers within the time of a statement.
    async fn in_time<T>(
        &self,
        route: &'static str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Option<Result<T, Failure>> {
        let answer = tokio::time::timeout(self.shared.statement_timeout, answer).await.ok()?;
        Some(answer.map_err(|error| match error.is_closed() {
            true => Failure::Broken(chain(&error)),
            false => Failure::Answered(CatalogError::from_postgres(route, &error)),
        }))
    }

    fn timeout(&self, route: &'static str) -> Failure {
        let limit_ms = self.shared.statement_timeout.as_millis();
        Failure::Answered(CatalogError::Timeout { route, limit_ms })
    }

    async fn run(
        &self,
        client: &Client,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(Param::postgres).collect();
        if !self.shared.prepared {
            return client.query_typed(sql, &typed).await;
        }
        let types: Vec<Type> = typed.iter().map(|(_, ty)| ty.clone()).collect();
        let statement = client.prepare_typed_cached(sql, &types).await?;
        let values: Vec<&(dyn ToSql + Sync)> = typed.iter().map(|(value, _)| *value).collect();
        client.query(&statement, &values).await
    }

    /// Closes the connection and asks the server to stop what it was doing there.
    fn cancel(&self, client: Client) {
        let token = client.cancel_token();
        let tls = self.shared.tls.clone();
        drop(Client::take(client));
        tokio::spawn(async move {
            let asked = async {
                match tls {
                    Some(tls) => token.cancel_query(tls).await,
                    None => token.cancel_query(NoTls).await,
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), asked).await;
        });
    }
}

/// A transaction on a connection of its own. One that is dropped is rolled back by the server, whose
/// connection it takes along.
pub(super) struct Transaction {
    /// Gone once a statement took too long, and after the end.
    client: Option<Client>,
    postgres: Postgres,
    route: &'static str,
    _in_use: InUse,
}

impl Transaction {
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let Some(client) = &self.client else { return Err(ended()) };
        self.postgres.shared.metrics.statement(self.route);
        let answer = self.postgres.run(client, sql, params);
        match self.postgres.in_time(self.route, answer).await {
            Some(Ok(rows)) => Ok(rows.into_iter().map(Row::Postgres).collect()),
            Some(Err(failure)) => Err(failure.into_error()),
            None => Err(self.give_up().into_error()),
        }
    }

    pub(super) async fn commit(mut self) -> Result<(), CatalogError> {
        let result = self.command("COMMIT").await;
        self.give_back(result.is_ok());
        result.map_err(Failure::into_error)
    }

    pub(super) async fn rollback(mut self) {
        let result = self.command("ROLLBACK").await;
        self.give_back(result.is_ok());
    }

    async fn command(&mut self, command: &str) -> Result<(), Failure> {
        let Some(client) = &self.client else { return Err(Failure::Answered(ended())) };
        match self.postgres.in_time(self.route, client.batch_execute(command)).await {
            Some(result) => result,
            None => Err(self.give_up()),
        }
    }

    fn give_up(&mut self) -> Failure {
        self.client.take().into_iter().for_each(|client| self.postgres.cancel(client));
        self.postgres.timeout(self.route)
    }

    /// To the pool, where nothing is left open on it.
    fn give_back(&mut self, ended: bool) {
        if let Some(client) = self.client.take().filter(|_| !ended) {
            drop(Client::take(client));
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.give_back(false);
    }
}

fn ended() -> CatalogError {
    CatalogError::Unavailable("the transaction has ended".to_owned())
}

fn pool(shared: &Arc<Shared>, size: usize) -> Result<Pool, CatalogError> {
    let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match &shared.tls {
        Some(tls) => Manager::from_config(shared.config.clone(), tls.clone(), fast),
        None => Manager::from_config(shared.config.clone(), NoTls, fast),
    };
    Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(shared.wait))
        .create_timeout(Some(shared.wait))
        .recycle_timeout(Some(shared.wait))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| CatalogError::Unavailable(chain(&error)))
}

fn postgres(database: &Database) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&database.user)
        .dbname(&database.dbname)
        .connect_timeout(database.connect_timeout)
        .application_name(database.application_name.as_deref().unwrap_or("quay-sidecar"))
        .ssl_mode(match database.tls.mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Allow | SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            _ => tokio_postgres::config::SslMode::Require,
        });
    config.keepalives(database.keepalives.is_some());
    if let Some(keepalives) = &database.keepalives {
        // What is not set stays the system's own.
        keepalives.idle.map(|idle| config.keepalives_idle(idle));
        keepalives.interval.map(|interval| config.keepalives_interval(interval));
        keepalives.count.map(|count| config.keepalives_retries(count));
    }
    database.tcp_user_timeout.map(|timeout| config.tcp_user_timeout(timeout));
    config.target_session_attrs(match database.target {
        Target::Any => TargetSessionAttrs::Any,
        Target::ReadWrite => TargetSessionAttrs::ReadWrite,
        Target::ReadOnly => TargetSessionAttrs::ReadOnly,
    });
    for (host, port) in &database.hosts {
        match host {
            Host::Tcp(name) => config.host(name),
            Host::UnixDir(path) => config.host_path(path),
        };
        config.port(*port);
    }
    if let Some(password) = &database.password {
        config.password(password.expose());
    }
    if let Some(options) = &database.options {
        config.options(options);
    }
    config
}

enum Failure {
    /// The connection was dead: the statement may not have run.
    Broken(String),
    Answered(CatalogError),
}

impl Failure {
    fn into_error(self) -> CatalogError {
        match self {
            Self::Broken(reason) => CatalogError::Unavailable(reason),
            Self::Answered(error) => error,
        }
    }
}
