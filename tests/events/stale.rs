//! The keys that Python's caches lose, in a real Redis and a real memcached.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use quay_sidecar::config::{MemcachedAddress, ModelCache};
use quay_sidecar::events::StaleCaches;
use quay_sidecar::telemetry::Metrics;
use redis::Commands;

use super::Redis;
use crate::support::process::{AtExit, signal, wait};
use crate::support::{Folder, eventually, free_port};

const DIGEST: &str = "sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";
const TYPE: &str = "application/vnd.example.sbom.v1+json";

/// As Python calls them: of repository 6, and of others.
const MANIFEST: &str = "repository_manifest__6_sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";
const TAGS: &str = "repo_active_tags_gen__6";
const REFERRERS: &str =
    "manifest_referrers__6_sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";
const REFERRERS_OF_TYPE: &str = "manifest_referrers__6_sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b_artifact_type_eae2fc388dba2958a80b9f5cc0e125e4ac70946d4e1f72b1337ca23a7e799600";
const OTHER_REPOSITORY: &str = "repo_active_tags_gen__66";
const KEYS: [&str; 5] = [MANIFEST, TAGS, REFERRERS, REFERRERS_OF_TYPE, OTHER_REPOSITORY];

struct Memcached {
    port: u16,
    child: Child,
    _at_exit: AtExit,
}

impl Memcached {
    fn start(socket: Option<&Path>) -> Memcached {
        let port = free_port();
        let mut command = Command::new("memcached");
        match socket {
            Some(path) => command.arg("-s").arg(path),
            None => command.args(["-l", "127.0.0.1", "-p", &port.to_string()]),
        };
        // It wants to be told so by root, and by nobody else.
        let child =
            command.args(["-u", "root"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("memcached runs: scripts/test installs it");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let memcached = Memcached { port, child, _at_exit };
        let listens = || match socket {
            // The path is there before anybody listens on it.
            Some(path) => UnixStream::connect(path).map(drop),
            None => TcpStream::connect(("127.0.0.1", port)).map(drop),
        };
        eventually(|| listens().ok(), || "memcached does not listen".to_owned());
        memcached
    }

    fn address(&self) -> ModelCache {
        ModelCache::Memcached(MemcachedAddress::Tcp("127.0.0.1".to_owned(), self.port))
    }

    /// What it says to a command.
    fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    fn fill(&self) {
        for key in KEYS {
            let stored = self.say(&format!("set data_model_cache__{key} 2 0 2\r\n{{}}\r\n"));
            assert_eq!(stored, "STORED\r\n", "{key}");
        }
    }

    fn left(&self) -> Vec<&'static str> {
        let has = |key: &&str| self.say(&format!("get data_model_cache__{key}\r\n")) != "END\r\n";
        KEYS.into_iter().filter(has).collect()
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        signal(&self.child, "CONT");
        signal(&self.child, "TERM");
        wait(&mut self.child, "memcached");
    }
}

fn caches(cache: &ModelCache) -> (StaleCaches, Arc<Metrics>) {
    let metrics = Arc::default();
    (StaleCaches::new(cache, &metrics), metrics)
}

#[track_caller]
fn assert_counted(metrics: &Metrics, change: &str, outcome: &str, keys: u32) {
    let labels = format!("change=\"{change}\",outcome=\"{outcome}\"");
    let line = format!("model_cache_changes_total{{{labels}}} {keys}\n");
    assert!(metrics.text().contains(&line), "no {line} in {}", metrics.text());
}

#[tokio::test]
async fn memcached_loses_what_quay_would_delete() {
    let memcached = Memcached::start(None);
    let (stale, metrics) = caches(&memcached.address());
    memcached.fill();
    stale.manifest_gone(6, DIGEST).await;
    assert_eq!(memcached.left(), [REFERRERS, REFERRERS_OF_TYPE, OTHER_REPOSITORY]);
    stale.subject_pushed(6, DIGEST, None).await;
    assert_eq!(memcached.left(), [REFERRERS_OF_TYPE, OTHER_REPOSITORY]);
    stale.subject_pushed(6, DIGEST, Some(TYPE)).await;
    assert_eq!(memcached.left(), [OTHER_REPOSITORY]);
    // What is not there is not there.
    stale.manifest_gone(6, DIGEST).await;
    assert_counted(&metrics, "delete", "ok", 7);

    // No key, and no command either.
    memcached.fill();
    stale.subject_pushed(6, "x\r\nflush_all\r\n", None).await;
    stale.manifest_gone(6, &"d".repeat(300)).await;
    assert_eq!(memcached.left(), [MANIFEST, REFERRERS, REFERRERS_OF_TYPE, OTHER_REPOSITORY]);
    // The modification tracker is for Redis alone.
    stale.repository_modified("acme", "app").await;
    assert!(!metrics.text().contains("change=\"mark\""));
}

#[tokio::test]
async fn memcached_on_a_socket() {
    let folder = Folder::new();
    let path = folder.path().join("memcached.sock");
    let _memcached = Memcached::start(Some(&path));
    let (stale, metrics) = caches(&ModelCache::Memcached(MemcachedAddress::Unix(path)));
    stale.manifest_gone(6, DIGEST).await;
    assert_counted(&metrics, "delete", "ok", 2);
}

#[tokio::test]
async fn redis_loses_what_quay_would_delete() {
    let redis = Redis::start();
    let mut connection = redis.connect(0);
    let (stale, metrics) = caches(&ModelCache::Redis(redis.server()));
    let mut left = || {
        let has = |key: &&str| connection.exists::<_, bool>(*key).unwrap();
        KEYS.into_iter().filter(has).collect::<Vec<_>>()
    };
    let mut other = redis.connect(0);
    for key in KEYS {
        other.set::<_, _, ()>(key, "{}").unwrap();
    }
    stale.manifest_gone(6, DIGEST).await;
    assert_eq!(left(), [REFERRERS, REFERRERS_OF_TYPE, OTHER_REPOSITORY]);
    stale.subject_pushed(6, DIGEST, Some(TYPE)).await;
    assert_eq!(left(), [OTHER_REPOSITORY]);
    assert_counted(&metrics, "delete", "ok", 4);
}

#[tokio::test]
async fn a_modified_repository_is_marked_with_the_time_of_redis() {
    let redis = Redis::start();
    let mut connection = redis.connect(0);
    let (stale, metrics) = caches(&ModelCache::Redis(redis.server()));
    stale.repository_modified("acme", "tools/app").await;
    let key = "quay:repo_content_tracker:repo_modified:acme:tools/app";
    let time: String = connection.get(key).unwrap();
    let (seconds, microseconds) = time.split_once('.').unwrap();
    let age = Utc::now().timestamp() - seconds.parse::<i64>().unwrap();
    assert!((0..60).contains(&age) && microseconds.len() == 6, "{time}");
    let ttl: i64 = connection.ttl(key).unwrap();
    assert!((200..=300).contains(&ttl), "{ttl} s");
    let keys: Vec<String> = connection.keys("*").unwrap();
    assert_eq!(keys, [key]);
    assert_counted(&metrics, "mark", "ok", 1);
}

#[tokio::test]
async fn nothing_is_cleared_where_nothing_can_be() {
    for cache in [ModelCache::Private, ModelCache::Unreached] {
        let (stale, metrics) = caches(&cache);
        stale.manifest_gone(6, DIGEST).await;
        stale.repository_modified("acme", "app").await;
        assert!(!metrics.text().contains("model_cache_changes_total{"));
    }
}

/// Nobody waits for long: a server that is stuck, one that is not there, and then all is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_does_not_answer() {
    let (redis, memcached) = (Redis::start(), Memcached::start(None));
    for (cache, child) in
        [(ModelCache::Redis(redis.server()), &redis.child), (memcached.address(), &memcached.child)]
    {
        let (stale, metrics) = caches(&cache);
        stale.manifest_gone(6, DIGEST).await;
        signal(child, "STOP");
        let start = Instant::now();
        stale.manifest_gone(6, DIGEST).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_counted(&metrics, "delete", "failed", 2);
        signal(child, "CONT");
        let clear = || {
            let once = stale.manifest_gone(6, DIGEST);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(once));
            metrics.text().contains("outcome=\"ok\"} 4\n").then_some(())
        };
        eventually(clear, || metrics.text());
    }
    let nobody = MemcachedAddress::Tcp("127.0.0.1".to_owned(), free_port());
    let (stale, metrics) = caches(&ModelCache::Memcached(nobody));
    stale.manifest_gone(6, DIGEST).await;
    assert_counted(&metrics, "delete", "failed", 2);
}
