//! What Python would go on serving from its cache after a write of ours (contract §3.10, §3.11).
//!
//! Call these after the commit and before the answer: then the next request finds nothing stale on
//! Python either. They take a second at most, and a failure is logged and counted, no more: what
//! is stale expires, after 300 s at the latest.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::connection::Shared;
use super::health::Health;
use super::memcached::Memcached;
use crate::config::ModelCache;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{CacheChange, outcome};

const PATIENCE: Duration = Duration::from_secs(1);

/// How long Quay remembers that a repository was modified.
const MODIFIED_S: u64 = 300;

/// KEYS: what to mark. ARGV: how long, in s. By the clock of Redis, on which all machines agree.
const MARK_SCRIPT: &str = "\
local now = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%d.%06d', now[1], now[2]), 'EX', ARGV[1])";

/// The cache that Python reads. Cheap to clone.
#[derive(Clone)]
pub struct StaleCaches {
    cache: Cache,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
enum Cache {
    None,
    Memcached(Arc<Memcached>),
    Redis(Arc<Shared>),
}

impl StaleCaches {
    /// Connects when there is something to clear.
    pub fn new(cache: &ModelCache, metrics: &Arc<Metrics>) -> Self {
        let health =
            || Health::new("model_cache", "Python may serve what was deleted until it expires");
        let cache = match cache {
            ModelCache::Private | ModelCache::Unreached => Cache::None,
            ModelCache::Memcached(address) => {
                Cache::Memcached(Arc::new(Memcached::new(address.clone(), health())))
            }
            ModelCache::Redis(redis) => {
                Shared::new(redis, PATIENCE, health()).map_or(Cache::None, Cache::Redis)
            }
        };
        Self { cache, metrics: metrics.clone() }
    }

    /// A tag was deleted, or all tags of a manifest: `digest` is of the manifest. Of several tags
    /// that share one manifest, once is enough.
    pub async fn manifest_gone(&self, repository_id: i32, digest: &str) {
        self.delete(&[
            format!("repository_manifest__{repository_id}_{digest}"),
            format!("repo_active_tags_gen__{repository_id}"),
        ])
        .await;
    }

    /// A manifest was pushed that names `subject`, a digest, and has this `artifactType`, if any.
    pub async fn subject_pushed(
        &self,
        repository_id: i32,
        subject: &str,
        artifact_type: Option<&str>,
    ) {
        let all = format!("manifest_referrers__{repository_id}_{subject}");
        let of_type = artifact_type.map(|artifact_type| {
            let hash = Sha256::digest(artifact_type);
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{all}_artifact_type_{hash}")
        });
        let keys: Vec<String> = [Some(all), of_type].into_iter().flatten().collect();
        self.delete(&keys).await;
    }

    /// A tag of the repository was made or moved: for a while Python reads its permissions from
    /// the primary database for those who lost theirs. Does something on Redis alone.
    ///
    /// Python's own pushes leave the repository out of the key, so that nobody reads it.
    pub async fn repository_modified(&self, namespace: &str, repository: &str) {
        let Cache::Redis(redis) = &self.cache else { return };
        let key = format!("quay:repo_content_tracker:repo_modified:{namespace}:{repository}");
        let mut mark = redis::pipe();
        mark.cmd("EVAL").arg(MARK_SCRIPT).arg(1).arg(&key).arg(MODIFIED_S).ignore();
        self.count("mark", redis.ask::<()>(&mark, &mut None).await.is_ok(), 1);
    }

    async fn delete(&self, keys: &[String]) {
        let deleted = match &self.cache {
            Cache::None => return,
            Cache::Memcached(memcached) => memcached.delete(keys, PATIENCE).await,
            Cache::Redis(redis) => {
                let mut delete = redis::pipe();
                delete.del(keys).ignore();
                redis.ask::<()>(&delete, &mut None).await.is_ok()
            }
        };
        self.count("delete", deleted, keys.len());
    }

    fn count(&self, change: &'static str, ok: bool, keys: usize) {
        let label = CacheChange { change, outcome: outcome(ok).outcome };
        self.metrics.model_cache.get_or_create(&label).inc_by(keys as u64);
    }
}
