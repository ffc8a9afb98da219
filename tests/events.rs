//! What the rest of Quay hears through Redis, and that nobody waits for it; the lock and the caches
//! that are shared with it.

mod lock;
mod stale;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quay_sidecar::config;
use redis::Commands;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::process::{AtExit, signal, wait};
use crate::support::{Folder, HOSTNAME, Login, Registryd, World, eventually, free_port, http};

/// A Redis of our own.
pub(crate) struct Redis {
    port: u16,
    child: Child,
    _folder: Folder,
    _at_exit: AtExit,
}

impl Redis {
    pub(crate) fn start() -> Redis {
        Redis::start_at(free_port(), &[])
    }

    fn start_at(port: u16, options: &[&str]) -> Redis {
        let folder = Folder::new();
        let child = Command::new("redis-server")
            .args(["--save", "", "--bind", "127.0.0.1", "--dir"])
            .arg(folder.path())
            .args(match options.contains(&"--tls-port") {
                true => vec!["--port".to_owned(), "0".to_owned()],
                false => vec!["--port".to_owned(), port.to_string()],
            })
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: scripts/test installs it");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let redis = Redis { port, child, _folder: folder, _at_exit };
        eventually(
            || std::net::TcpStream::connect(("127.0.0.1", port)).ok(),
            || "redis-server does not listen".to_owned(),
        );
        redis
    }

    pub(crate) fn connect(&self, db: u8) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/{db}", self.port)).unwrap();
        eventually(|| client.get_connection().ok(), || "Redis does not answer".to_owned())
    }

    /// As the library wants it.
    fn server(&self) -> config::Redis {
        let address = config::RedisAddress::Tcp("127.0.0.1".to_owned(), self.port);
        config::Redis { address, db: 0, username: None, password: None }
    }

    /// How often a command was executed.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let info: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.connect(0)).unwrap();
        let start = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    pub(crate) fn map(&self, db: u8) -> Value {
        json!({"host": "127.0.0.1", "port": self.port, "db": db})
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        signal(&self.child, "CONT");
        signal(&self.child, "TERM");
        wait(&mut self.child, "redis-server");
    }
}

fn told(redis: &Redis) -> World {
    let mut world = World::new();
    world.configure("FEATURE_USER_EVENTS", true.into());
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    world.configure("PULL_METRICS_REDIS", redis.map(1));
    world.configure("FEATURE_IMAGE_PULL_STATS", true.into());
    world
}

async fn pull(registryd: &Registryd, world: &World, who: Option<&Login>, reference: &str) {
    let response = http()
        .get(registryd.url(&format!("/v2/demo/private/manifests/{reference}")))
        .header("Accept", "application/vnd.oci.image.manifest.v1+json")
        .bearer_auth(world.token(who, "demo/private", &["pull"]))
        .send();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK, "{reference}");
}

async fn log_in(registryd: &Registryd, who: Option<&Login>, scopes: &str) {
    let url = registryd.url(&format!("/v2/auth?service={HOSTNAME}{scopes}"));
    let mut request = http().get(url);
    if let Some(login) = who {
        request = request.basic_auth(&login.username, Some(&login.password));
    }
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "{scopes}");
}

fn messages(registryd: &Registryd, sink: &str, outcome: &str) -> f64 {
    let (sink, outcome) = (format!("sink=\"{sink}\""), format!("outcome=\"{outcome}\""));
    registryd.metric(&format!("redis_messages_total{{{sink},{outcome}}}"))
}

#[tokio::test]
async fn browsers_are_told_as_quay_tells_them() {
    let redis = Redis::start();
    let world = told(&redis);
    let mut connection = redis.connect(0);
    let mut browser = connection.as_pubsub();
    browser.psubscribe("*").unwrap();
    browser.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut heard = || {
        let message = browser.get_message().unwrap();
        (message.get_channel_name().to_owned(), message.get_payload::<String>().unwrap())
    };
    let registryd = world.registryd();
    let (ada, puller) = (&world.ada, &world.puller);
    let private = "&scope=repository:demo/private:pull";
    let pulled = r#"{"action": "pull_repo", "repository": "private", "namespace": "demo"}"#;
    let start = r#"{"action": "pull_start", "namespace": "demo", "repository": "private"}"#;
    let nothing = r#"{"action": "login", "namespace": "demo", "repository": "nope"}"#;

    // Neither somebody without a name nor a robot's pull is heard of: ada's comes next.
    log_in(&registryd, None, private).await;
    pull(&registryd, &world, Some(puller), "latest").await;
    pull(&registryd, &world, None, "latest").await;
    let to = |who: &Login| format!("user/{}/events/docker-cli", who.username);
    pull(&registryd, &world, Some(ada), "latest").await;
    assert_eq!(heard(), (to(ada), pulled.to_owned()));
    pull(&registryd, &world, Some(ada), &world.private.manifest.digest).await;
    assert_eq!(heard(), (to(ada), pulled.to_owned()));
    log_in(&registryd, Some(ada), "").await;
    assert_eq!(heard(), (to(ada), r#"{"action": "login"}"#.to_owned()));
    log_in(&registryd, Some(ada), private).await;
    assert_eq!(heard(), (to(ada), start.to_owned()));
    log_in(&registryd, Some(puller), "&scope=repository:demo/nope:pull").await;
    assert_eq!(heard(), (to(puller), nothing.to_owned()));
    log_in(&registryd, Some(puller), &format!("{private}&scope=repository:demo/nope:pull")).await;
    assert_eq!(heard(), (to(puller), start.to_owned()));
    assert_eq!(messages(&registryd, "user_events", "lost"), 0.0);
}

#[tokio::test]
async fn pulls_are_counted_as_quay_counts_them() {
    let redis = Redis::start();
    let world = told(&redis);
    let mut registryd = world.registryd();
    let digest = &world.private.manifest.digest;
    for _ in 0..3 {
        pull(&registryd, &world, None, "latest").await;
    }
    pull(&registryd, &world, None, digest).await;
    // What was answered is counted, also when the end comes right after it.
    assert!(registryd.terminate().success());

    let (id, mut connection) = (world.private.repo_id.to_string(), redis.connect(1));
    let mut keys: Vec<String> = connection.keys("*").unwrap();
    keys.sort();
    let tag = format!("pull_events:repo:{id}:tag:latest:{digest}");
    let by_digest = format!("pull_events:repo:{id}:digest:{digest}");
    assert_eq!(keys, [by_digest.clone(), tag.clone()]);
    for (key, expected) in [
        (
            tag,
            [
                ("repository_id", id.as_str()),
                ("tag_name", "latest"),
                ("manifest_digest", digest.as_str()),
                ("pull_count", "3"),
                ("pull_method", "tag"),
            ],
        ),
        (
            by_digest,
            [
                ("repository_id", id.as_str()),
                ("manifest_digest", digest.as_str()),
                ("pull_count", "1"),
                ("pull_method", "digest"),
                ("tag_name", ""),
            ],
        ),
    ] {
        let mut fields: BTreeMap<String, String> = connection.hgetall(&key).unwrap();
        let last = fields.remove("last_pull_timestamp").unwrap();
        let age = chrono::Utc::now().timestamp() - last.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age} s");
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields, BTreeMap::from(expected), "{key}");
        assert_eq!(connection.ttl::<_, i64>(&key).unwrap(), -1, "it must not expire");
    }
}

#[tokio::test]
async fn nothing_is_told_where_that_is_switched_off() {
    let redis = Redis::start();
    let mut world = told(&redis);
    world.configure("FEATURE_USER_EVENTS", false.into());
    world.configure("FEATURE_IMAGE_PULL_STATS", false.into());
    let mut registryd = world.registryd();
    pull(&registryd, &world, Some(&world.ada), "latest").await;
    let sent = registryd.metric("redis_messages_total");
    assert!(registryd.terminate().success());
    let keys: Vec<String> = redis.connect(1).keys("*").unwrap();
    assert_eq!((sent, keys), (0.0, Vec::new()));
}

/// Away, back, stuck: every pull is answered, and the log says it once each time.
#[tokio::test]
async fn nobody_waits_for_redis() {
    let redis = Redis::start();
    let world = told(&redis);
    let port = redis.port;
    drop(redis);
    let mut registryd = world.registryd();
    let lost = || messages(&registryd, "pull_stats", "lost");
    for count in 1..=3 {
        pull(&registryd, &world, Some(&world.ada), "latest").await;
        eventually(|| (lost() >= f64::from(count)).then_some(()), || format!("{} lost", lost()));
    }
    let complaints = |of: &str| registryd.logs().matches(of).count();
    // One of each queue.
    eventually(|| (complaints("Redis is away") == 2).then_some(()), || registryd.logs());

    let redis = Redis::start_at(port, &[]);
    pull(&registryd, &world, Some(&world.ada), "latest").await;
    let sent = || messages(&registryd, "pull_stats", "sent");
    eventually(|| (sent() >= 1.0).then_some(()), || "it does not come back".to_owned());

    signal(&redis.child, "STOP");
    for _ in 0..3 {
        pull(&registryd, &world, Some(&world.ada), "latest").await;
    }
    eventually(|| (lost() > 3.0).then_some(()), || "it waits for a stuck Redis".to_owned());
    assert!(registryd.terminate().success());
}

/// `ssl`, a user with a password, and an authority of the operator's own.
#[tokio::test]
async fn a_redis_that_wants_a_password_and_tls() {
    let folder = Folder::new();
    let file = |name: &str| folder.path().join(name).display().to_string();
    make_certificate(folder.path());
    let port = free_port();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("cert.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("cert.pem"),
        "--tls-auth-clients",
        "no",
        "--user",
        "quay",
        "on",
        ">a-redis-password",
        "allkeys",
        "allchannels",
        "+@all",
        "--user",
        "default",
        "off",
    ];
    let redis = Redis::start_at(port, &options);
    let mut world = told(&redis);
    let mut map = json!({"host": "localhost", "port": port, "ssl": true, "db": 1,
        "ssl_ca_certs": file("cert.pem"), "username": "quay", "password": "a-redis-password"});
    world.configure("PULL_METRICS_REDIS", map.clone());
    let registryd = world.registryd();
    pull(&registryd, &world, None, "latest").await;
    let sent = || messages(&registryd, "pull_stats", "sent");
    eventually(|| (sent() >= 1.0).then_some(()), || registryd.logs());

    // With the wrong password nothing else goes wrong, and it is not in the log.
    map["password"] = "another-password".into();
    world.configure("PULL_METRICS_REDIS", map);
    let registryd = world.registryd();
    pull(&registryd, &world, None, "latest").await;
    let lost = || messages(&registryd, "pull_stats", "lost");
    eventually(|| (lost() >= 1.0).then_some(()), || registryd.logs());
    let logs = registryd.logs();
    assert!(logs.contains("Redis is away") && !logs.contains("another-password"), "{logs}");
}

fn make_certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output();
    assert!(made.expect("openssl runs").status.success());
}
