//! The lock around a blob, with Redis commands of the test's own in the part of Quay's processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use quay_sidecar::config;
use quay_sidecar::events::{BlobLock, BlobLocks, LockState};
use quay_sidecar::oci::Digest;
use quay_sidecar::telemetry::Metrics;
use redis::Commands;
use tokio::runtime::Handle;
use tokio::task::{block_in_place, spawn_blocking};

use super::Redis;
use crate::support::eventually;
use crate::support::process::signal;

const DIGEST: &str = "sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";
const KEY: &str =
    "lock:BLOB_DELETE_sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";
const SIGNAL: &str = "lock-signal:BLOB_DELETE_sha256:010c78ef04792763b93e5df60805869cc5469ff816837791217349e2bc4dbc3b";

/// Another process that wants the lock, or holds it.
const OTHER: &str = "SkhaAzJYH7doKu+KNfvoworH";

struct Locks {
    locks: BlobLocks,
    metrics: Arc<Metrics>,
}

impl Locks {
    fn on(redis: &Redis) -> Locks {
        let metrics = Arc::default();
        Locks { locks: BlobLocks::new(&config::Locks::Redis(redis.server()), &metrics), metrics }
    }

    async fn hold(&self) -> BlobLock {
        self.locks.hold(&digest()).await
    }

    /// Where waiting for a condition must not stop what it waits for.
    fn hold_blocking(&self) -> BlobLock {
        block_in_place(|| Handle::current().block_on(self.hold()))
    }

    #[track_caller]
    fn assert_counted(&self, outcome: &str, times: u32) {
        let line = format!("blob_locks_total{{outcome=\"{outcome}\"}} {times}\n");
        let text = self.metrics.text();
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

fn digest() -> Digest {
    Digest::parse(DIGEST).unwrap()
}

fn owner(other: &mut redis::Connection) -> Option<String> {
    other.get(KEY).unwrap()
}

/// Waits for the seconds that the lock has left.
fn wait_for_ttl(other: &mut redis::Connection, enough: i64) {
    let mut ttl = || other.ttl::<_, i64>(KEY).unwrap();
    eventually(|| (ttl() > enough).then_some(()), || "it is not extended".to_owned());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_looks_like_one_of_quay_and_wakes_who_waits_for_it() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    let mut other = redis.connect(0);
    let lock = locks.hold().await;
    assert!(lock.is_held());
    let id = owner(&mut other).unwrap();
    assert_eq!((id.len(), BASE64_STANDARD.decode(&id).unwrap().len()), (24, 18), "{id}");
    let ttl: i64 = other.ttl(KEY).unwrap();
    assert!((1..=30).contains(&ttl), "{ttl} s");

    let mut waiter = redis.connect(0);
    let woken = spawn_blocking(move || waiter.blpop::<_, (String, String)>(SIGNAL, 30.0).unwrap());
    let mut waits = || {
        let info: String = redis::cmd("INFO").arg("clients").query(&mut other).unwrap();
        info.contains("blocked_clients:1").then_some(())
    };
    eventually(&mut waits, || "nobody waits".to_owned());
    lock.release().await;
    assert_eq!(woken.await.unwrap(), (SIGNAL.to_owned(), "1".to_owned()));
    assert_eq!(owner(&mut other), None);

    // Where nobody waits, what would wake them does not stay for long.
    locks.hold().await.release().await;
    let left: i64 = other.pttl(SIGNAL).unwrap();
    assert!(left <= 1000 && left != -1, "{left} ms");
    locks.assert_counted("held", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_waits_for_the_first() {
    let redis = Redis::start();
    let mut other = redis.connect(0);
    let start = |locks: Locks| {
        let before = redis.calls("set");
        let waiting = tokio::spawn(async move { locks.hold().await.state() });
        eventually(
            || (redis.calls("set") > before + 3).then_some(()),
            || "it does not look again".to_owned(),
        );
        waiting
    };

    // Released, as Quay does.
    other.set::<_, _, ()>(KEY, OTHER).unwrap();
    let waiting = start(Locks::on(&redis));
    redis::pipe().lpush(SIGNAL, 1).pexpire(SIGNAL, 1000).del(KEY).exec(&mut other).unwrap();
    assert_eq!(waiting.await.unwrap(), LockState::Held);
    // It took nobody's wake-up call.
    assert!(redis.calls("blpop") == 0 && redis.calls("lpop") == 0);

    // Expired, as after the end of a process that held it.
    eventually(|| owner(&mut other).is_none().then_some(()), || "not released".to_owned());
    other.set::<_, _, ()>(KEY, OTHER).unwrap();
    let waiting = start(Locks::on(&redis));
    other.pexpire::<_, ()>(KEY, 1).unwrap();
    assert_eq!(waiting.await.unwrap(), LockState::Held);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_long() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    let mut other = redis.connect(0);
    other.set::<_, _, ()>(KEY, OTHER).unwrap();
    let start = Instant::now();
    let lock = locks.hold().await;
    let took = start.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!((lock.state(), lock.is_held()), (LockState::Busy, false));
    lock.release().await;
    assert_eq!((owner(&mut other).as_deref(), redis.calls("eval")), (Some(OTHER), 0));
    locks.assert_counted("busy", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time() {
    let redis = Redis::start();
    let (locks, inside) = (Locks::on(&redis), AtomicU32::new(0));
    join_all((0..8).map(|_| async {
        let lock = locks.hold().await;
        assert!(lock.is_held());
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
        tokio::task::yield_now().await;
        inside.fetch_sub(1, Ordering::SeqCst);
        lock.release().await;
    }))
    .await;
    locks.assert_counted("held", 8);
    // Another blob is another lock.
    let here = locks.hold().await;
    let there = Digest::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap();
    assert!(locks.locks.hold(&there).await.is_held() && here.is_held());
}

/// It ran out, and somebody else has it: theirs is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_somebody_else_is_not_released() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    let mut other = redis.connect(0);
    let mut lock = locks.hold().await;
    other.set::<_, _, ()>(KEY, OTHER).unwrap();
    assert!(!lock.extend().await && !lock.is_held());
    lock.release().await;
    other.del::<_, ()>(KEY).unwrap();

    let lock = locks.hold().await;
    other.set::<_, _, ()>(KEY, OTHER).unwrap();
    lock.release().await;
    assert_eq!(owner(&mut other).as_deref(), Some(OTHER));
    assert!(!other.exists::<_, bool>(SIGNAL).unwrap(), "nobody is to be woken");
    locks.assert_counted("lost", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_keeps_its_lock() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    let mut other = redis.connect(0);
    let mut lock = locks.hold().await;
    other.pexpire::<_, ()>(KEY, 9_000).unwrap();
    assert!(lock.extend().await && lock.is_held());
    wait_for_ttl(&mut other, 20);

    // The first time after 10 s.
    other.pexpire::<_, ()>(KEY, 20_000).unwrap();
    let work = spawn_blocking(move || {
        wait_for_ttl(&mut other, 20);
        other
    });
    let mut other = lock.during(work).await.unwrap();
    assert!(lock.is_held());
    lock.release().await;
    assert_eq!(owner(&mut other), None);
    locks.assert_counted("held", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_no_lock() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    let mut other = redis.connect(0);
    let request = tokio::spawn(async move {
        let _lock = locks.hold().await;
        std::future::pending::<()>().await;
    });
    eventually(|| owner(&mut other), || "it is not held".to_owned());
    request.abort();
    eventually(|| owner(&mut other).is_none().then_some(()), || "it stays".to_owned());
}

/// The question was sent, and no answer came in time: Redis executes it when it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_came_too_late_is_released() {
    let redis = Redis::start();
    let locks = Locks::on(&redis);
    locks.hold().await.release().await;
    let before = redis.calls("set");
    signal(&redis.child, "STOP");
    let start = Instant::now();
    let lock = locks.hold().await;
    assert_eq!(lock.state(), LockState::NoRedis);
    // For a moment it is not even tried.
    assert_eq!(locks.hold().await.state(), LockState::NoRedis);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    lock.release().await;
    signal(&redis.child, "CONT");
    let mut other = redis.connect(0);
    eventually(|| (redis.calls("set") > before).then_some(()), || "it never came".to_owned());
    eventually(|| (redis.calls("eval") >= 2).then_some(()), || "it is not released".to_owned());
    assert_eq!(owner(&mut other), None);
    locks.assert_counted("no_redis", 2);
    eventually(|| locks.hold_blocking().is_held().then_some(()), || "no way back".to_owned());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_on_without_redis() {
    let metrics = Arc::default();
    // Where there is one that we cannot use, others have their locks there.
    let digest = digest();
    let nowhere = BlobLocks::new(&config::Locks::Nowhere, &metrics).hold(&digest).await;
    assert_eq!((nowhere.state(), nowhere.is_held()), (LockState::NoRedis, false));
    let unreadable = config::RedisAddress::Tls("localhost".to_owned(), 6379, Some("/none".into()));
    let unusable = config::Redis { address: unreadable, db: 0, username: None, password: None };
    let nowhere = BlobLocks::new(&config::Locks::Redis(unusable), &metrics).hold(&digest).await;
    assert_eq!((nowhere.state(), nowhere.is_held()), (LockState::NoRedis, false));
    // With the storage for itself the lock is one of this process.
    let own = BlobLocks::new(&config::Locks::Here, &metrics);
    let lock = own.hold(&digest).await;
    assert_eq!((lock.state(), lock.is_held()), (LockState::Held, true));
    let waits = own.hold(&digest);
    let released = async { lock.release().await };
    assert!(futures_util::future::join(waits, released).await.0.is_held());

    let redis = Redis::start();
    let (locks, port) = (Locks::on(&redis), redis.port);
    let mut lock = locks.hold().await;
    drop(redis);
    // As far as anybody knows it is still ours.
    assert!(lock.extend().await);
    lock.release().await;
    assert_eq!(locks.hold().await.state(), LockState::NoRedis);

    let redis = Redis::start_at(port, &[]);
    eventually(|| locks.hold_blocking().is_held().then_some(()), || "no way back".to_owned());
    // Of a connection that died unused nobody notices anything.
    drop(redis);
    let _redis = Redis::start_at(port, &[]);
    assert!(locks.hold().await.is_held());
}
