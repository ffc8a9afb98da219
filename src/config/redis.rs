//! Where Quay's Redis is, as its maps say: they are arguments of redis-py (contract 6).

use std::path::PathBuf;

use config::{Map, Value, ValueKind};

use super::reader::{Parsed, Reader, Show, Wrong, feature, number, secret, text};
use super::secret::Secret;

/// What is shared with the rest of Quay through Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// `USER_EVENTS_REDIS`, default `localhost`; `None` unless `FEATURE_USER_EVENTS` (default true).
    pub user_events: Option<Redis>,
    /// `USER_EVENTS_REDIS` again, whatever that feature is: Quay's locks are there too.
    pub blob_locks: Locks,
    /// `PULL_METRICS_REDIS`, default database 1 of `localhost`; `None` unless
    /// `FEATURE_IMAGE_PULL_STATS` (default false).
    pub pull_stats: Option<Redis>,
}

/// Where the locks around blobs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Locks {
    /// There are none: what is configured cannot be used, and Quay's processes have theirs.
    #[default]
    Nowhere,
    /// In Redis, for all who have the storage.
    Redis(Redis),
    /// In this process, which has the storage for itself.
    Here,
}

/// A Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// `host` and `port`, or `unix_socket_path`
    pub address: RedisAddress,
    /// `db`
    pub db: i64,
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<Secret>,
}

/// How to connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// In the clear.
    Tcp(String, u16),
    /// `ssl: true`: the certificate is for this host, and by one of `ssl_ca_certs` or, without
    /// that, of the machine.
    Tls(String, u16, Option<PathBuf>),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Redis {
    fn local(db: i64) -> Self {
        let address = RedisAddress::Tcp("localhost".to_owned(), 6379);
        Self { address, db, username: None, password: None }
    }
}

impl Show for Redis {
    fn show(&self) -> String {
        let at = match &self.address {
            RedisAddress::Tcp(host, port) => format!("redis://{host}:{port}"),
            RedisAddress::Tls(host, port, _) => format!("rediss://{host}:{port}"),
            RedisAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        format!("{at}/{}", self.db).show()
    }
}

pub(super) fn events(r: &mut Reader<'_>) -> Events {
    let user_events = r.setting("FEATURE_USER_EVENTS", true, feature);
    let pull_stats = r.setting("FEATURE_IMAGE_PULL_STATS", false, feature);
    let quay = server(r, "USER_EVENTS_REDIS", 0, "nothing is sent there, and pushes take no lock");
    Events {
        user_events: quay.clone().filter(|_| user_events),
        blob_locks: quay.map_or(Locks::Nowhere, Locks::Redis),
        pull_stats: pull_stats
            .then(|| server(r, "PULL_METRICS_REDIS", 1, "nothing is sent there"))
            .flatten(),
    }
}

/// None of this is needed to serve, so what cannot be used is left out with a warning.
fn server(r: &mut Reader<'_>, key: &str, default_db: i64, without: &str) -> Option<Redis> {
    let redis = match r.source.get(key) {
        None => Ok(Redis::local(default_db)),
        Some(value) => parse(value),
    };
    match redis {
        Ok(redis) => {
            r.show(key, redis.show(), r.source.place(key));
            Some(redis)
        }
        Err(Wrong { reason, remedy }) => {
            r.show(key, "(not used)".to_owned(), r.source.place(key));
            r.warn(key, format!("{reason}; {without}"), remedy);
            None
        }
    }
}

pub(super) fn parse(value: &ValueKind) -> Parsed<Redis> {
    let ValueKind::Table(map) = value else { return Err(Wrong::kind("a map", value)) };
    let params = Params(map);
    params.refuse_unbuilt()?;
    let port = params.get("port", number(1..=65535))?.unwrap_or(6379);
    let port = u16::try_from(port).unwrap_or_default();
    let socket = params.get("unix_socket_path", text)?;
    let host = params.get("host", text)?;
    let address = match (socket, host) {
        (Some(path), _) => RedisAddress::Unix(path.into()),
        (None, Some(host)) if params.get("ssl", feature)? == Some(true) => {
            let authorities = params.get("ssl_ca_certs", text)?;
            RedisAddress::Tls(host, port, authorities.map(PathBuf::from))
        }
        (None, Some(host)) => RedisAddress::Tcp(host, port),
        (None, None) => return Err(Wrong::new("it has no host", "add host to the map")),
    };
    Ok(Redis {
        address,
        db: params.get("db", number(0..=i64::from(u16::MAX)))?.unwrap_or(0),
        username: params.get("username", text)?,
        password: params.get("password", secret)?,
    })
}

struct Params<'a>(&'a Map<String, Value>);

impl Params<'_> {
    /// Null is Python's None: as if it were not there.
    fn get<T>(&self, name: &str, parse: impl FnOnce(&ValueKind) -> Parsed<T>) -> Parsed<Option<T>> {
        let value = self.0.get(name).filter(|value| !matches!(value.kind, ValueKind::Nil));
        value.map(|value| parse(&value.kind)).transpose().map_err(|wrong| Wrong {
            reason: format!("{name}: {}", wrong.reason),
            remedy: wrong.remedy,
        })
    }

    /// Certificates that are not checked, or of our own.
    fn refuse_unbuilt(&self) -> Parsed<()> {
        let unchecked = self.get("ssl_cert_reqs", text).is_ok_and(|reqs| {
            reqs.is_some_and(|reqs| {
                ["none", "optional"].contains(&reqs.to_ascii_lowercase().as_str())
            })
        });
        if unchecked {
            let remedy = "name the server's authority in ssl_ca_certs instead";
            return Err(Wrong::new("ssl_cert_reqs: servers without a good certificate", remedy));
        }
        if self.0.contains_key("ssl_certfile") || self.0.contains_key("ssl_keyfile") {
            let reason = "ssl_certfile: certificates of clients are not built";
            return Err(Wrong::new(reason, "nothing to do: only what Python serves is sent"));
        }
        Ok(())
    }
}
