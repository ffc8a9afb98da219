//! What Python keeps between two requests: `DATA_MODEL_CACHE_CONFIG` (contract §3.10).

use std::path::PathBuf;

use config::{Map, Value, ValueKind};

use super::reader::{Parsed, Reader, Show, Wrong, text};
use super::redis::{self, Redis};

/// Where Python keeps answers that a write of ours makes stale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ModelCache {
    /// Nowhere, or where no other process can reach it: `noop`, `inmemory`, or a memcached that
    /// Python itself cannot reach.
    #[default]
    Private,
    /// The memcached of Quay's container.
    Memcached(MemcachedAddress),
    /// The `primary` of a Redis.
    Redis(Redis),
    /// Somewhere that this program cannot clear. What would have to be cleared stays with Python,
    /// which would serve what is gone for up to 300 s: deletes, and pushes of manifests that refer
    /// to another.
    Unreached,
}

/// Where a memcached listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemcachedAddress {
    /// Quay's default is 127.0.0.1, port 18080.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Show for ModelCache {
    fn show(&self) -> String {
        match self {
            Self::Private => "(nothing to clear)".to_owned(),
            Self::Memcached(MemcachedAddress::Tcp(host, port)) => {
                format!("memcached {host}:{port}")
            }
            Self::Memcached(MemcachedAddress::Unix(path)) => format!("memcached {}", path.show()),
            Self::Redis(redis) => redis.show(),
            Self::Unreached => "(not cleared)".to_owned(),
        }
    }
}

const KEY: &str = "DATA_MODEL_CACHE_CONFIG";

/// None of this is needed to serve, so what cannot be used is left out with a warning.
pub(super) fn model_cache(r: &mut Reader<'_>) -> ModelCache {
    let cache = match r.source.get(KEY) {
        None => Ok(ModelCache::Memcached(MemcachedAddress::Tcp("127.0.0.1".to_owned(), 18080))),
        Some(value) => parse(value),
    };
    let cache = cache.unwrap_or_else(|Wrong { reason, remedy }| {
        let stays = "deletes, and pushes of manifests with a subject, stay with Python";
        r.warn(KEY, format!("{reason}, so this cache cannot be cleared: {stays}"), remedy);
        ModelCache::Unreached
    });
    if cache == ModelCache::Private && names_an_endpoint(r) {
        r.warn(
            KEY,
            "endpoint: Python takes only the path of a socket from here, so its cache is off",
            "leave endpoint out for the memcached of Quay's container",
        );
    }
    r.show(KEY, cache.show(), r.source.place(KEY));
    cache
}

fn names_an_endpoint(r: &Reader<'_>) -> bool {
    matches!(r.source.get(KEY), Some(ValueKind::Table(map)) if map.contains_key("endpoint"))
}

fn parse(value: &ValueKind) -> Parsed<ModelCache> {
    let ValueKind::Table(map) = value else { return Err(Wrong::kind("a map", value)) };
    let engine = match map.get("engine") {
        None => "noop".to_owned(),
        Some(engine) => text(&engine.kind).map_err(|wrong| within("engine", wrong))?,
    };
    match engine.as_str() {
        "noop" | "inmemory" => Ok(ModelCache::Private),
        "memcached" => memcached(map),
        "redis" => primary(map).map(ModelCache::Redis),
        "rediscluster" => Err(Wrong::new(
            "engine: rediscluster is not built",
            "use the engine redis to have them here",
        )),
        other => Err(Wrong::new(
            format!("engine: {} is not known", other.escape_debug()),
            "set it to noop, inmemory, memcached, redis or rediscluster, as Quay wants it",
        )),
    }
}

/// Of what YAML can say, Python's client (pymemcache 3.0) takes a text, as the path of a socket;
/// with a list every call fails, in silence.
fn memcached(map: &Map<String, Value>) -> Parsed<ModelCache> {
    match map.get("endpoint").map(|endpoint| &endpoint.kind) {
        Some(ValueKind::String(path)) if path.starts_with('/') => {
            Ok(ModelCache::Memcached(MemcachedAddress::Unix(path.into())))
        }
        Some(ValueKind::String(_) | ValueKind::Array(_)) => Ok(ModelCache::Private),
        Some(ValueKind::Nil) | None => Err(Wrong::new(
            "endpoint: missing, and Quay does not start without it",
            format!("leave {KEY} out for the memcached of Quay's container"),
        )),
        Some(other) => Err(within("endpoint", Wrong::kind("a list of host and port", other))),
    }
}

fn primary(map: &Map<String, Value>) -> Parsed<Redis> {
    let inner =
        |map: &Map<String, Value>, name: &str| map.get(name).map(|value| value.kind.clone());
    let primary = match inner(map, "redis_config") {
        Some(ValueKind::Table(config)) => inner(&config, "primary"),
        _ => None,
    };
    let Some(primary) = primary else {
        let remedy = "name the server there, as {primary: {host: NAME}}";
        return Err(Wrong::new("redis_config: it has no primary", remedy));
    };
    redis::parse(&primary).map_err(|wrong| within("redis_config.primary", wrong))
}

fn within(name: &str, Wrong { reason, remedy }: Wrong) -> Wrong {
    Wrong { reason: format!("{name}: {reason}"), remedy }
}
