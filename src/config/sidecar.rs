//! Our own settings: the `QUAY_SIDECAR:` map in `config.yaml`, which Python ignores.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::reader::{Parsed, Reader, Show, Wrong, flag, number, one_of, text};
use super::report::Severity;

/// The `QUAY_SIDECAR:` map; every key is optional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// `db_pool_size`: database connections of the whole process; default 16, from 2 to 200.
    pub db_pool_size: usize,
    /// `db_wait_ms`: the longest wait for a free connection; default 2000 ms.
    pub db_wait: Duration,
    /// `db_statement_timeout_ms`: the longest run of one statement; default 5000 ms.
    pub db_statement_timeout: Duration,
    /// `db_prepared_statements`: default true; false behind a pgbouncer in transaction mode.
    pub db_prepared_statements: bool,
    /// `audit_queue`: action log rows that may wait for a commit; default 4096.
    pub audit_queue: usize,
    /// `audit_timeout_ms`: the longest wait for that commit; default 5000 ms.
    pub audit_timeout: Duration,
    /// `drain_s`: how long a stop waits for requests in flight; default 8 s, within the ten that
    /// podman gives a container.
    pub drain: Duration,
    /// `workers`: server threads; by default the caller counts the cores.
    pub workers: Option<usize>,
    /// `max_connections`: client connections at one time; default 10000.
    pub max_connections: usize,
    /// `password_hashers`: bcrypt computations at one time; default 2.
    pub password_hashers: usize,
    /// `repo_mirror_engine`: `native` (default), or `skopeo` to compare with, or for what native
    /// mirroring does not copy.
    pub mirror_engine: MirrorEngine,
    /// `repo_mirror_lease_s`: default 120 s. A sync whose worker has died goes on after this time.
    pub mirror_lease: Duration,
    /// `repo_mirror_at_once`: repositories that are filled at the same time; default 2.
    pub mirrors_at_once: usize,
    /// `repo_mirror_referrers`: default false. Signatures, attestations and whatever else refers to
    /// an image come along, which costs a request for each image.
    pub mirror_referrers: bool,
    /// `repo_mirror_admin`: where the worker has `/metrics` and `/mirrors`; default
    /// 127.0.0.1:9194. `,public` after it lets other machines connect.
    pub mirror_admin: SocketAddr,
}

/// What copies images into mirrors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MirrorEngine {
    /// This program.
    #[default]
    Native,
    /// skopeo, once for each tag, as in Quay.
    Skopeo,
}

impl Show for MirrorEngine {
    fn show(&self) -> String {
        let word = match self {
            Self::Native => "native",
            Self::Skopeo => "skopeo",
        };
        word.to_owned()
    }
}

impl Show for SocketAddr {
    fn show(&self) -> String {
        self.to_string()
    }
}

const MAP: &str = "QUAY_SIDECAR";

pub(super) fn read(r: &mut Reader<'_>) -> Sidecar {
    let empty = Map::new();
    let map = match r.source.get(MAP) {
        None | Some(ValueKind::Nil) => &empty,
        Some(ValueKind::Table(map)) => map,
        Some(other) => {
            r.error(MAP, Wrong::kind("a map", other));
            &empty
        }
    };
    let mut own = Own { r, map, known: Vec::new() };
    let sidecar = Sidecar {
        db_pool_size: own.setting("db_pool_size", 16, count(2..=200)),
        db_wait: own.setting("db_wait_ms", Duration::from_secs(2), millis(1..=60_000)),
        db_statement_timeout: own.setting(
            "db_statement_timeout_ms",
            Duration::from_secs(5),
            millis(100..=600_000),
        ),
        db_prepared_statements: own.setting("db_prepared_statements", true, switch),
        audit_queue: own.setting("audit_queue", 4096, count(1..=1_000_000)),
        audit_timeout: own.setting(
            "audit_timeout_ms",
            Duration::from_secs(5),
            millis(100..=60_000),
        ),
        drain: own.setting("drain_s", Duration::from_secs(8), seconds(0..=3600)),
        workers: own.setting("workers", None, |value| match value {
            ValueKind::Nil => Ok(None),
            value => count(1..=1024)(value).map(Some),
        }),
        max_connections: own.setting("max_connections", 10_000, count(16..=1_000_000)),
        password_hashers: own.setting("password_hashers", 2, count(1..=64)),
        mirror_engine: own.setting("repo_mirror_engine", MirrorEngine::Native, |value| {
            Ok(match one_of(&["native", "skopeo"])(value)?.as_str() {
                "skopeo" => MirrorEngine::Skopeo,
                _ => MirrorEngine::Native,
            })
        }),
        mirror_lease: own.setting(
            "repo_mirror_lease_s",
            Duration::from_secs(120),
            seconds(2..=43_200),
        ),
        mirrors_at_once: own.setting("repo_mirror_at_once", 2, count(1..=64)),
        mirror_referrers: own.setting("repo_mirror_referrers", false, switch),
        mirror_admin: own.setting(
            "repo_mirror_admin",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 9194)),
            listener,
        ),
    };
    own.refuse_unknown();
    sidecar
}

fn count(range: std::ops::RangeInclusive<i64>) -> impl Fn(&ValueKind) -> Parsed<usize> {
    move |value| Ok(usize::try_from(number(range.clone())(value)?).unwrap_or(usize::MAX))
}

fn millis(range: std::ops::RangeInclusive<i64>) -> impl Fn(&ValueKind) -> Parsed<Duration> {
    move |value| Ok(Duration::from_millis(number(range.clone())(value)?.unsigned_abs()))
}

fn seconds(range: std::ops::RangeInclusive<i64>) -> impl Fn(&ValueKind) -> Parsed<Duration> {
    move |value| Ok(Duration::from_secs(number(range.clone())(value)?.unsigned_abs()))
}

/// `IP:PORT` of this machine, or with `,public` after it of any.
fn listener(value: &ValueKind) -> Parsed<SocketAddr> {
    let text = text(value)?;
    let (address, public) = match text.strip_suffix(",public") {
        Some(address) => (address, true),
        None => (text.as_str(), false),
    };
    let remedy = "write IP:PORT, as 127.0.0.1:9194";
    let address: SocketAddr =
        address.parse().map_err(|_| Wrong::new("it is no address to listen on", remedy))?;
    match public || address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => Err(Wrong::new(
            "it is open to other machines",
            format!("write {address},public if it is meant to be"),
        )),
    }
}

/// A flag that also takes the words which YAML 1.1 reads as one, but our parser leaves as text.
fn switch(value: &ValueKind) -> Parsed<bool> {
    match value {
        ValueKind::String(text) if ["yes", "on"].contains(&text.to_ascii_lowercase().as_str()) => {
            Ok(true)
        }
        ValueKind::String(text) if ["no", "off"].contains(&text.to_ascii_lowercase().as_str()) => {
            Ok(false)
        }
        other => flag(other),
    }
}

/// Reads one setting after another and remembers which there are.
struct Own<'r, 'a, 'm> {
    r: &'r mut Reader<'a>,
    map: &'m Map<String, Value>,
    known: Vec<&'static str>,
}

impl Own<'_, '_, '_> {
    fn setting<T: Show>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&ValueKind) -> Parsed<T>,
    ) -> T {
        self.known.push(name);
        let key = format!("{MAP}.{name}");
        let found = self.map.get(name).map(|value| parse(&value.kind));
        let place = if found.is_some() { self.r.source.place(MAP) } else { "default".into() };
        let value = match found {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(wrong)) => {
                self.r.problem(Severity::Error, &key, place.clone(), wrong);
                default
            }
        };
        self.r.show(&key, value.show(), place);
        value
    }

    /// This map is ours, so a name that we do not know is a misspelt one.
    fn refuse_unknown(self) {
        let mut unknown: Vec<&String> =
            self.map.keys().filter(|name| !self.known.contains(&name.as_str())).collect();
        unknown.sort();
        for name in unknown {
            let nearest = self.known.iter().min_by_key(|known| distance(known, name));
            let remedy = match nearest.filter(|known| distance(known, name) <= 3) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("the settings are {}", self.known.join(", ")),
            };
            let (key, place) = (format!("{MAP}.{}", name.show()), self.r.source.place(MAP));
            self.r.problem(
                Severity::Error,
                &key,
                place,
                Wrong::new("there is no such setting", remedy),
            );
        }
    }
}

/// How many characters have to change to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let table =
            [("", "", 0), ("abc", "", 3), ("drain_s", "drain_ms", 1), ("kitten", "sitting", 3)];
        for (a, b, expected) in table {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
