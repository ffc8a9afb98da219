//! The lock that pushes share with Quay's garbage collector, so that the bytes of a blob are not
//! removed between the moment a push finds them and the moment its rows say so (contract §4.2.1).
//!
//! The keys and their use are those of python-redis-lock 4.0.0. The garbage collector gives a blob
//! up for the time being when it does not get this lock.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use redis::{ExistenceCheck, Pipeline, SetExpiry, SetOptions};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::connection::{Link, Shared};
use super::health::Health;
use super::own_lock::{OwnLock, OwnLocks};
use crate::config;
use crate::oci::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Lock;

/// How long a lock holds by itself, as of Quay's pushes.
const TTL_S: u64 = 30;
const TTL: Duration = Duration::from_secs(TTL_S);

/// How long to wait for whoever holds it. Quay's client gives up a single wait after as long; by
/// the defaults of redis-py 7 it then waits three times more.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Between two looks at a lock that somebody holds, the first and the longest. Looking also finds
/// what has run out, and takes nobody's wake-up call as a BLPOP of ours might before its request
/// is cancelled.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));

/// KEYS: lock, signal. ARGV: our id, how long the signal lasts in ms. Wakes one who waits.
const RELEASE_SCRIPT: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[2], 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
return 1";

/// KEYS: lock. ARGV: our id, seconds from now.
const EXTEND_SCRIPT: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('EXPIRE', KEYS[1], ARGV[2])";

/// The locks around blobs. Cheap to clone.
#[derive(Clone)]
pub struct BlobLocks(Kept);

#[derive(Clone)]
enum Kept {
    Nowhere,
    Redis(Arc<Server>),
    Here(OwnLocks),
}

struct Server {
    redis: Arc<Shared>,
    metrics: Arc<Metrics>,
}

/// What came of asking for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It is ours.
    Held,
    /// There is no Redis that can be used, or it does not answer. Quay's commit goes on without the lock.
    NoRedis,
    /// Somebody else held it all the while. Here too Quay's commit goes on without the lock, after
    /// a second wait where the blob has no row yet. It may be the garbage collector, about to
    /// remove bytes that are there now: write them rather than rely on them, and look for them
    /// again after the rows are committed.
    Busy,
}

/// A lock, or the place of one that was not to be had. Released when it is dropped.
#[must_use = "dropping it releases the lock"]
pub struct BlobLock {
    server: Option<Arc<Server>>,
    name: Name,
    state: LockState,
    /// Until when nobody else can have it.
    until: Instant,
    /// Where Redis may have been told that it is ours.
    used: Option<Link>,
    /// Where there is no Redis to tell.
    own: Option<OwnLock>,
}

#[derive(Clone)]
struct Name {
    lock: String,
    signal: String,
    id: String,
}

impl BlobLocks {
    /// Kept where [`config::Events::blob_locks`] says.
    pub fn new(locks: &config::Locks, metrics: &Arc<Metrics>) -> Self {
        Self(match locks {
            config::Locks::Nowhere => Kept::Nowhere,
            config::Locks::Here => Kept::Here(OwnLocks::default()),
            config::Locks::Redis(redis) => {
                let health = Health::new("blob_locks", "pushes take no lock");
                let shared = Shared::new(redis, ANSWER, health);
                let server = |redis| Arc::new(Server { redis, metrics: metrics.clone() });
                shared.map_or(Kept::Nowhere, |redis| Kept::Redis(server(redis)))
            }
        })
    }

    /// Asks for the lock of a blob, and waits at most 5 s for another to release it.
    ///
    /// Take it before looking whether the blob's bytes are in storage already, and keep it until
    /// the rows that name them are committed.
    pub async fn hold(&self, digest: &Digest) -> BlobLock {
        let mut lock = BlobLock {
            server: None,
            name: Name::new(digest),
            state: LockState::NoRedis,
            until: Instant::now(),
            used: None,
            own: None,
        };
        match &self.0 {
            Kept::Nowhere => {}
            Kept::Here(locks) => {
                lock.own = timeout(PATIENCE, locks.hold(digest.as_str())).await.ok();
                lock.state = if lock.own.is_some() { LockState::Held } else { LockState::Busy };
            }
            Kept::Redis(server) => {
                lock.server = Some(server.clone());
                // Whatever it was last is what it is.
                let _ = timeout(PATIENCE, lock.acquire(server)).await;
                server.count(match lock.state {
                    LockState::Held => "held",
                    LockState::NoRedis => "no_redis",
                    LockState::Busy => "busy",
                });
            }
        }
        lock
    }
}

impl BlobLock {
    /// What came of asking for it.
    pub fn state(&self) -> LockState {
        self.state
    }

    /// Whether it is ours, and has not run out meanwhile.
    pub fn is_held(&self) -> bool {
        self.own.is_some() || (self.state == LockState::Held && Instant::now() < self.until)
    }

    /// Makes it last for another 30 s, and returns whether it is still ours. Where it is not, what
    /// was found under it has to be looked at again.
    pub async fn extend(&mut self) -> bool {
        let (Some(server), true) = (self.server.clone(), self.state == LockState::Held) else {
            return false;
        };
        let asked = Instant::now();
        match server.redis.ask(&self.name.extend(), &mut self.used).await {
            Ok((true,)) => self.until = asked + TTL,
            Ok((false,)) => {
                self.until = asked;
                self.used = None;
                server.lost(&self.name);
            }
            Err(_) => {}
        }
        self.is_held()
    }

    /// Does `work` that may take longer than 30 s, extending the lock every 10 s.
    /// Ask [`BlobLock::is_held`] after it.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let extended = async {
            loop {
                sleep(TTL / 3).await;
                if !self.extend().await {
                    return pending().await;
                }
            }
        };
        tokio::select! {
            done = work => done,
            done = extended => done,
        }
    }

    /// Releases it and waits for that, at most 2 s. Dropping it does the same in the background.
    pub async fn release(mut self) {
        if let Some(released) = self.release_in_background() {
            let _ = released.await;
        }
    }

    async fn acquire(&mut self, server: &Server) {
        let (mut look, longest) = LOOKS;
        loop {
            let asked = Instant::now();
            match server.redis.ask(&self.name.acquire(), &mut self.used).await {
                Ok((Some(owner),)) if self.name.id == owner => {
                    self.state = LockState::Held;
                    self.until = asked + TTL;
                    return;
                }
                Ok::<(Option<String>,), _>(_) => {
                    self.state = LockState::Busy;
                    self.used = None;
                }
                Err(_) => {
                    self.state = LockState::NoRedis;
                    return;
                }
            }
            sleep(look).await;
            look = longest.min(look * 2);
        }
    }

    /// A task of its own, so that it is done even when the request is cancelled. On the connection
    /// that asked for the lock, so that a question still on its way is undone as well.
    fn release_in_background(&mut self) -> Option<JoinHandle<()>> {
        let (server, mut used) = (self.server.clone()?, Some(self.used.take()?));
        let (name, was_held) = (self.name.clone(), self.state == LockState::Held);
        let release = async move {
            let released = server.redis.ask(&name.release(), &mut used).await;
            if was_held && matches!(released, Ok((false,))) {
                server.lost(&name);
            }
        };
        Some(Handle::try_current().ok()?.spawn(release))
    }
}

impl Drop for BlobLock {
    fn drop(&mut self) {
        self.release_in_background();
    }
}

impl Server {
    fn count(&self, outcome: &'static str) {
        self.metrics.blob_locks.get_or_create(&Lock { outcome }).inc();
    }

    fn lost(&self, name: &Name) {
        self.count("lost");
        tracing::warn!(
            lock = name.lock,
            "a lock ran out, or was taken from us, before its release"
        );
    }
}

impl Name {
    fn new(digest: &Digest) -> Self {
        // Two, as Quay's ids are longer than one.
        let random = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        Self {
            lock: format!("lock:BLOB_DELETE_{digest}"),
            signal: format!("lock-signal:BLOB_DELETE_{digest}"),
            id: BASE64_STANDARD.encode(&random[..18]),
        }
    }

    /// Sets the lock unless it is set, and asks whose it is: ours too where an answer was lost.
    /// (Python asks before; a fresh id cannot be there.)
    fn acquire(&self) -> Pipeline {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::EX(TTL_S));
        let mut acquire = redis::pipe();
        acquire.set_options(&self.lock, &self.id, options).ignore().get(&self.lock);
        acquire
    }

    fn extend(&self) -> Pipeline {
        let mut extend = redis::pipe();
        extend.cmd("EVAL").arg(EXTEND_SCRIPT).arg(1).arg(&self.lock).arg(&self.id).arg(TTL_S);
        extend
    }

    fn release(&self) -> Pipeline {
        let mut release = redis::pipe();
        let keys = release.cmd("EVAL").arg(RELEASE_SCRIPT).arg(2).arg(&self.lock).arg(&self.signal);
        keys.arg(&self.id).arg(1000);
        release
    }
}
