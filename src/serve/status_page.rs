//! The page for people on the admin listeners: who owns what, how it got there, what is handed back.
//!
//! It shows what the watcher's status file and `/metrics` say, which is why nothing on it is secret;
//! no script, no inline style, and no word of others that is not escaped.

mod timeline;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::header;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;
use chrono::{DateTime, Utc};

use super::health::Health;
use super::owner::{Line, Status};
use super::repomirror::{Running, ask};
use crate::config::Config;
use crate::mirroring::Snapshot;
use timeline::Timeline;

/// A style sheet of our own, and nothing else of anybody's.
const CSP: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                   frame-ancestors 'none'";

/// How many of the last flips are listed as text.
const LISTED: usize = 12;

/// Where the page finds what it shows.
pub(super) struct Source {
    /// The run folder, with the watcher's status.
    pub(super) run: Option<PathBuf>,
    /// registryd, where this is its listener.
    pub(super) health: Option<Health>,
    /// Who fills mirrors.
    pub(super) mirrors: Mirrors,
    /// When the process began.
    pub(super) began: Instant,
}

/// Where it is known how syncs of mirrors go.
pub(super) enum Mirrors {
    /// There are none.
    None,
    /// In this process.
    Here(Running),
    /// In a worker, where one runs.
    At(SocketAddr),
}

impl Mirrors {
    /// Where the worker of a Quay with this configuration is asked.
    pub(super) fn of(config: Option<&Config>) -> Self {
        match config.filter(|config| config.mirroring.enabled) {
            Some(config) => Self::At(config.sidecar.mirror_admin),
            None => Self::None,
        }
    }

    async fn look(&self) -> Option<Vec<Sync>> {
        let snapshots = match self {
            Self::None => return None,
            Self::Here(running) => running.snapshots(),
            Self::At(address) => ask(*address).await.ok()?,
        };
        Some(snapshots.into_iter().map(Sync::from).collect())
    }
}

/// Registers `/`, `/status` and what they need; [`Source`] has to be in the application's data.
pub(super) fn configure(service: &mut ServiceConfig) {
    service
        .route("/", web::get().to(page))
        .route("/status", web::get().to(page))
        .route("/status.css", web::get().to(style));
}

#[derive(Template)]
#[template(path = "status.html")]
struct Page {
    version: &'static str,
    now: String,
    up: String,
    watcher: Option<Watcher>,
    /// Whether this Quay has a watcher that could run.
    watched: bool,
    registryd: Option<Registryd>,
    /// Where a worker has said so.
    syncs: Option<Vec<Sync>>,
}

/// A mirror that is being filled.
struct Sync {
    now: Snapshot,
    bytes: String,
    rate: String,
    left: String,
}

impl From<Snapshot> for Sync {
    fn from(now: Snapshot) -> Self {
        let [bytes, expected] =
            [now.bytes, now.expected_bytes].map(|bytes| mebibytes(bytes as f64));
        let left = now.seconds_left.filter(|left| left.is_finite() && *left >= 0.0);
        Self {
            bytes: format!("{bytes} of {expected}"),
            rate: format!("{}/s", mebibytes(now.rate())),
            left: left.map_or("–".to_owned(), |left| duration(Duration::from_secs(left as u64))),
            now,
        }
    }
}

struct Watcher {
    status: Status,
    propagation: String,
    /// Those that are not as they would be without us, or could be ours.
    owners: Vec<Line>,
    /// Everything else.
    others: Vec<Line>,
    timeline: Timeline,
    flips: Vec<Listed>,
}

struct Listed {
    at: String,
    id: String,
    owner: String,
    reason: String,
}

struct Registryd {
    problems: Vec<String>,
    figures: Vec<(&'static str, String)>,
    declines: Vec<Decline>,
}

struct Decline {
    capability: String,
    reason: String,
    count: u64,
}

impl Page {
    /// What an owner looks like; anybody's word may stand for one.
    fn class(&self, owner: &str) -> &'static str {
        match owner {
            "rust" => "rust",
            "off" => "off",
            _ => "python",
        }
    }
}

async fn page(source: web::Data<Source>) -> HttpResponse {
    let now = SystemTime::now();
    let status = source.run.as_ref().and_then(|run| Status::read(run));
    let registryd = match &source.health {
        Some(health) => {
            let problems = health.problems().await;
            Some(Registryd::new(problems, &health.shared.metrics.text()))
        }
        None => None,
    };
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        now: time(now),
        up: duration(source.began.elapsed()),
        watcher: status.map(|status| Watcher::new(status, now)),
        watched: source.run.is_some(),
        registryd,
        syncs: source.mirrors.look().await,
    };
    match page.render() {
        Ok(html) => guarded(HttpResponse::Ok()).content_type("text/html; charset=utf-8").body(html),
        Err(error) => {
            tracing::error!(%error, "status page not rendered");
            HttpResponse::InternalServerError().finish()
        }
    }
}

async fn style() -> HttpResponse {
    let css = include_str!("../../templates/status.css");
    guarded(HttpResponse::Ok()).content_type("text/css; charset=utf-8").body(css)
}

fn guarded(mut response: HttpResponseBuilder) -> HttpResponseBuilder {
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, CSP))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

impl Watcher {
    fn new(status: Status, now: SystemTime) -> Self {
        // What this binary cannot serve and no switch has stopped is Python's, always.
        let is_said = |line: &Line| {
            line.owner != "python"
                || !["unsupported_capability", "default", "pinned"].contains(&line.reason.as_str())
                || (line.kind == "capability" && line.reason == "default")
        };
        let (owners, others) = status.owners.iter().cloned().partition(is_said);
        let flips = status.flips.iter().rev().take(LISTED).map(|flip| Listed {
            at: time(flip.at()),
            id: flip.id.clone(),
            owner: flip.owner.clone(),
            reason: flip.reason.clone(),
        });
        Self {
            propagation: status.propagation_s.map_or("–".to_owned(), |s| format!("{s:.1} s")),
            flips: flips.collect(),
            timeline: Timeline::new(&status, now),
            owners,
            others,
            status,
        }
    }

    fn applied(&self) -> String {
        self.status.applied.map_or("none".to_owned(), |version| version.to_string())
    }

    fn seen(&self) -> String {
        self.status.seen.map_or("none".to_owned(), |version| version.to_string())
    }
}

impl Registryd {
    fn new(problems: Vec<String>, metrics: &str) -> Self {
        let total = |name| sum(samples(metrics, name));
        let class = |first: char| {
            let of_class = |(labels, _): &(&str, f64)| {
                label(labels, "status").is_some_and(|status| status.starts_with(first))
            };
            sum(samples(metrics, "http_requests_total").filter(of_class))
        };
        let figures = vec![
            ("requests answered", format!("{:.0}", total("http_requests_total"))),
            ("of them 4xx", format!("{:.0}", class('4'))),
            ("of them 5xx", format!("{:.0}", class('5'))),
            ("in flight", format!("{:.0}", total("http_requests_in_flight"))),
            ("database connections in use", format!("{:.0}", total("db_pool_connections_in_use"))),
            ("action log rows waiting", format!("{:.0}", total("audit_queue_length"))),
            ("highest memory", mebibytes(total("process_resident_memory_peak_bytes"))),
        ];
        let mut declines: Vec<Decline> = samples(metrics, "quay_declined_total")
            .map(|(labels, count)| Decline {
                capability: label(labels, "capability").unwrap_or_default().to_owned(),
                reason: label(labels, "reason").unwrap_or_default().to_owned(),
                count: count as u64,
            })
            .collect();
        declines.sort_by_key(|decline| std::cmp::Reverse(decline.count));
        Self { problems, figures, declines }
    }
}

/// Labels and values of a family in the text of `/metrics`.
fn samples<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let whole = labels.is_empty() || labels.starts_with('{');
        whole.then_some((labels, value.parse().ok()?))
    })
}

/// Of nothing it is 0, not -0.
fn sum<'t>(samples: impl Iterator<Item = (&'t str, f64)>) -> f64 {
    samples.fold(0.0, |sum, (_, value)| sum + value)
}

/// Our labels come from closed sets of plain words.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let mut pairs = labels.trim_matches(['{', '}']).split(',').filter_map(|p| p.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"'))
}

fn time(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn duration(passed: Duration) -> String {
    let minutes = passed.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => format!("{} s", passed.as_secs()),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1048576.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::owner::Flip;

    #[test]
    fn metrics_are_read_as_they_are_written() {
        let text = "# TYPE quay_declined counter\nquay_declined_total{capability=\"V2_PULL\",\
                    reason=\"schema1\"} 7\nquay_declined_total_not{a=\"b\"} 3\naudit 2\n";
        let found: Vec<_> = samples(text, "quay_declined_total").collect();
        assert_eq!(found.len(), 1);
        assert_eq!((label(found[0].0, "reason"), found[0].1), (Some("schema1"), 7.0));
        assert_eq!(samples(text, "audit").next(), Some(("", 2.0)));
        assert_eq!(format!("{:.0}", sum(samples(text, "nothing"))), "0");
    }

    fn sync(words: &str) -> Sync {
        Sync::from(Snapshot {
            repository: words.to_owned(),
            tags: 50,
            done: 21,
            unchanged: 3,
            failed: 1,
            bytes: 3 << 20,
            expected_bytes: 8 << 20,
            linked_bytes: 0,
            seconds: 6.0,
            seconds_left: Some(f64::INFINITY),
            doing: words.to_owned(),
        })
    }

    #[test]
    fn words_of_others_are_escaped() {
        let now = SystemTime::now();
        let hostile = "<script>alert(1)</script>\"'&";
        let line = |owner: &str| Line {
            kind: "capability".to_owned(),
            id: hostile.to_owned(),
            owner: owner.to_owned(),
            reason: hostile.to_owned(),
            gated: true,
        };
        let status = Status {
            problems: vec![hostile.to_owned()],
            map_problem: Some(hostile.to_owned()),
            registryd: hostile.to_owned(),
            standing: hostile.to_owned(),
            owners: vec![line("rust"), line(hostile)],
            flips: vec![Flip::now(hostile, hostile, hostile)],
            ..Status::default()
        };
        let registryd = Registryd::new(vec![hostile.to_owned()], "");
        let page = Page {
            version: "1",
            now: time(now),
            up: duration(Duration::from_secs(90_000)),
            watcher: Some(Watcher::new(status, now)),
            watched: true,
            registryd: Some(registryd),
            syncs: Some(vec![sync(hostile)]),
        };
        let html = page.render().unwrap();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.matches("&#60;script&#62;").count() >= 8, "{html}");
        assert!(!html.contains(" style="), "the policy forbids it");
        assert!(html.contains("1 d 1 h"), "{html}");
    }
}
