//! What nobody should send, all of it to one registryd: nothing breaks it, nothing leaks.

mod authorization;
mod client;
mod configuration;
mod names;
mod parity;
mod ranges;
mod raw;
mod unread;
mod wire;

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::test_runner::Config;
use raw::Raw;
use serde_json::Value;

use crate::support::images::OCI_MANIFEST;
use crate::support::process::{lock, unique};
use crate::support::{Login, Registryd, World, eventually};

/// Peak memory that nothing here may reach.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

/// The registryd that all these tests share. It logs all it ever logs.
struct Target {
    world: World,
    registryd: Registryd,
    secrets: Mutex<BTreeSet<String>>,
}

/// A request that is not malformed in itself.
#[derive(Clone, Default)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
}

fn get(path: &str) -> Request<'_> {
    Request { method: "GET", path, headers: vec![("Accept", OCI_MANIFEST.as_bytes())] }
}

impl<'a> Request<'a> {
    fn with(mut self, name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.headers.push((name, value.as_ref()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nHost: x\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", *value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

fn check(request: &[u8], answer: &Raw) {
    let request = request[..request.len().min(300)].escape_ascii();
    assert!(answer.status < 500, "{request}: {answer:?}");
    answer.check().unwrap_or_else(|problem| panic!("{request}: {problem}: {answer:?}"));
}

impl Target {
    fn get() -> &'static Target {
        static TARGET: LazyLock<Target> = LazyLock::new(|| {
            let world = World::new();
            let registryd = Registryd::start_with(&world.conf, &[], &[("DEBUGLOG", "true")]);
            let secrets = ["SECRET_KEY", "DATABASE_SECRET_KEY"]
                .map(|key| world.settings[key].as_str().unwrap().to_owned());
            let secrets = Mutex::new(BTreeSet::from(secrets));
            Target { world, registryd, secrets }
        });
        &TARGET
    }

    /// Sends bytes; no answer at all is right for those that are no request, two never are.
    fn send(&self, bytes: &[u8]) -> Option<Raw> {
        let answer = self.exchange(bytes)?;
        check(bytes, &answer);
        Some(answer)
    }

    /// Sends bytes that may be several requests, which are answered one after the other.
    fn send_several(&self, bytes: &[u8]) {
        let mut next = self.exchange(bytes);
        while let Some(mut answer) = next {
            next = answer.split_off_next();
            check(bytes, &answer);
        }
    }

    fn exchange(&self, bytes: &[u8]) -> Option<Raw> {
        raw::exchange(self.registryd.base().strip_prefix("http://").unwrap(), bytes)
    }

    #[track_caller]
    fn ask(&self, request: &Request<'_>) -> Raw {
        let answer = self.send(&request.bytes());
        answer.unwrap_or_else(|| panic!("no answer: {} {}", request.method, request.path))
    }

    /// A header value that must never be seen in the log.
    fn secret(&self, value: String) -> String {
        let token = value.rsplit(' ').next().unwrap_or_default();
        for part in token.split('.').chain([token]).filter(|part| part.len() > 20) {
            lock(&self.secrets).insert(part.to_owned());
        }
        value
    }

    fn bearer(&self, token: &str) -> String {
        self.secret(format!("Bearer {token}"))
    }

    /// A token to pull from here, of somebody or nobody.
    fn token(&self, who: Option<&Login>, repo: &str) -> String {
        self.bearer(&self.world.token(who, repo, &["pull"]))
    }

    fn basic(&self, username: &str, password: &str) -> String {
        if password.len() > 10 {
            self.secret(password.to_owned());
        }
        self.secret(format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
    }

    /// That nothing has happened to it, and that its log is one.
    fn assert_well(&self) {
        let ready = self.registryd.admin_get("/readyz");
        assert!(ready.as_ref().is_some_and(|(status, _)| *status == 200), "{ready:?}");
        let peak = self.registryd.metric("process_resident_memory_peak_bytes");
        assert!(peak < MEMORY, "{peak} bytes");
        let last = format!("last-{}", unique());
        self.ask(&get("/v2/").with("X-Request-Id", &last));
        let logs = eventually(
            || Some(self.registryd.logs()).filter(|logs| logs.contains(&last)),
            || "it has not logged the last request".to_owned(),
        );
        let mut before = "";
        for line in logs.lines() {
            assert!(line.starts_with("20"), "a line without a date: {line:?} after {before:?}");
            before = line;
            assert!(!line.contains(" panicked "), "{line}");
        }
        for secret in lock(&self.secrets).iter() {
            assert!(!logs.contains(secret.as_str()), "in the log: {secret}");
        }
        let answered = self.registryd.metric("http_requests_total");
        assert!(logs.contains(" DEBUG ") && answered > 0.0, "it does not log all it could");
    }
}

/// Random input by the hundred; a failing one is printed, not kept in a file.
fn some_hundred() -> Config {
    Config { cases: 200, failure_persistence: None, ..Config::default() }
}

/// The newest row of the action log: address and metadata.
fn last_row(world: &World) -> (String, Value) {
    let row =
        world.database.sql("SELECT ip, metadata_json FROM logentry3 ORDER BY id DESC LIMIT 1");
    let (ip, metadata) = row.split_once('|').expect("a row");
    (ip.to_owned(), serde_json::from_str(metadata).expect("JSON"))
}
