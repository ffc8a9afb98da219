//! What a real Quay answered, asked again of the real binary. The recordings are not in this
//! repository: without them these tests say so and pass.

mod audit;
mod changes;
mod columns;
mod compare;
mod images;
mod installation;
mod mid_upload;
mod mirrors;
mod pages;
mod plan;
mod recording;
mod tokens;
mod unrecorded;
mod uploads;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use installation::Installation;
use recording::Exchange;
use uploads::Uploads;
use wire::Answer;

use crate::support::{Registryd, eventually};

/// Every exchange is answered as recorded, handed back to Python, or listed with its reason.
#[test]
fn recorded_exchanges() {
    let Some(installation) = Installation::restore() else { return };
    let mut exchanges = recording::exchanges(&installation.data);
    exchanges.retain(|exchange| !plan::NOT_THE_REGISTRY.contains(&exchange.seq));
    assert!(!exchanges.is_empty(), "a folder of recordings, but no exchange in it");
    answer_as_unspoilt(&mut exchanges);

    let mut tally = Tally::new();
    for (settings, exchanges) in by_settings(&exchanges) {
        let registryd = installation.registryd(&[], settings);
        let mut client = Client::new(&installation, &registryd);
        let mut declined = registryd.metric("quay_declined_total");
        for exchange in exchanges {
            let answer = client.ask(exchange);
            let differences = compare::differences(exchange, &answer, &installation.signer);
            let decline = plan::decline(exchange);
            declined += if decline.is_some() { 1.0 } else { 0.0 };
            let counted = registryd.metric("quay_declined_total");
            if counted != declined {
                tally.fail(exchange, &[format!("quay_declined_total: {counted} not {declined}")]);
                declined = counted;
            }
            tally.note(exchange, decline, &answer, &differences);
        }
    }
    tally.finish();
}

/// What registryd leaves to Python, nginx is told to ask Python.
#[test]
fn declines_behind_nginx() {
    let Some(installation) = Installation::restore() else { return };
    let exchanges = recording::exchanges(&installation.data);
    let registryd = installation.registryd(&["--behind-nginx"], None);
    let mut client = Client::new(&installation, &registryd);
    let mut seen = BTreeSet::new();
    for exchange in exchanges.iter().filter(|exchange| exchange.settings().is_none()) {
        let Some(decline) = plan::decline(exchange) else { continue };
        if !seen.insert((decline, exchange.request.method.as_str())) {
            continue;
        }
        let answer = client.ask(exchange);
        let sent = (answer.status, answer.header("X-Accel-Redirect"), answer.text());
        let expected = (200, Some("@quay_python"), String::new());
        assert_eq!(sent, expected, "{:03} {}: {decline}", exchange.seq, exchange.name);
    }
    assert!(!seen.is_empty(), "nothing is declined any more: this test can go");
}

/// Exchanges by the settings they were recorded under, in order.
fn by_settings(exchanges: &[Exchange]) -> BTreeMap<Option<&str>, Vec<&Exchange>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for exchange in exchanges {
        groups.entry(exchange.settings()).or_default().push(exchange);
    }
    groups
}

fn answer_as_unspoilt(exchanges: &mut [Exchange]) {
    let (spoilt, clean) = plan::SPOILT;
    let of = |seq| exchanges.iter().position(|exchange| exchange.seq == seq).expect("a recording");
    let (spoilt, clean) = (of(spoilt), of(clean));
    assert_eq!(exchanges[spoilt].request.path, exchanges[clean].request.path);
    exchanges[spoilt].response = exchanges[clean].response.clone();
}

const THROTTLED: u16 = 429;

/// Asks what was recorded, with tokens of today.
struct Client<'a> {
    installation: &'a Installation,
    registryd: &'a Registryd,
    /// Who gave a wrong password, and may be throttled.
    suspects: BTreeSet<String>,
    uploads: Uploads,
}

impl<'a> Client<'a> {
    fn new(installation: &'a Installation, registryd: &'a Registryd) -> Self {
        let (suspects, uploads) = Default::default();
        Self { installation, registryd, suspects, uploads }
    }

    fn ask(&mut self, exchange: &Exchange) -> Answer {
        unrecorded::prepare(self.installation, exchange);
        let login = exchange.request.login();
        let suspect = login.as_deref().filter(|login| self.suspects.contains(*login));
        let answer = match suspect {
            // It was recorded within the throttle's window, which may be over by now.
            Some(login) if exchange.response.status == THROTTLED => {
                self.fail_again(login);
                self.send(exchange)
            }
            // And this one after it.
            Some(_) => eventually(
                || Some(self.send(exchange)).filter(|answer| answer.status != THROTTLED),
                || format!("{:03} {}: throttled", exchange.seq, exchange.name),
            ),
            None => self.send(exchange),
        };
        if let Some(login) = login {
            match answer.status {
                401 | THROTTLED => self.suspects.insert(login),
                _ => self.suspects.remove(&login),
            };
        }
        answer
    }

    /// Makes the last wrong password one of just now.
    fn fail_again(&self, login: &str) {
        self.installation.database.sql(&format!(
            "UPDATE \"user\" SET last_invalid_login = '{}'
             WHERE username = '{login}' AND invalid_login_attempts > 0",
            chrono::Utc::now().naive_utc()
        ));
    }

    fn send(&mut self, exchange: &Exchange) -> Answer {
        let request = &exchange.request;
        let mut headers = request.headers.clone();
        if let Some(authorization) = headers.get_mut("Authorization") {
            let date = exchange.response.header("Date");
            *authorization = self.installation.signer.renew(authorization, date);
        }
        // A body that was not recorded cannot be sent: those of declined requests.
        let mut body = request.body.as_ref().and_then(|body| body.bytes()).unwrap_or_default();
        if headers.contains_key("Transfer-Encoding") {
            let size = format!("{:x}\r\n", body.len());
            body = [size.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        } else if headers.contains_key("Content-Length") || !body.is_empty() {
            headers.insert("Content-Length".to_owned(), body.len().to_string());
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let target = self.uploads.ours(&pages::renewed(&request.path));
        let base = self.registryd.base();
        let answer = wire::send(base, &request.method, &target, headers, &body);
        self.uploads.recorded(exchange, answer)
    }
}

/// What became of each exchange.
struct Tally {
    deviations: BTreeSet<u16>,
    counts: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn new() -> Self {
        let counts = BTreeMap::new();
        Self { deviations: plan::deviations(), counts, failures: Vec::new() }
    }

    fn note(
        &mut self,
        exchange: &Exchange,
        decline: Option<&str>,
        answer: &Answer,
        differences: &[String],
    ) {
        let needs_writes = plan::needs_writes(exchange);
        let deviating = self.deviations.remove(&exchange.seq);
        let mut count = |kind| *self.counts.entry(kind).or_default() += 1;
        match decline {
            Some(decline) => {
                count("declined");
                let problems = decline_problems(decline, answer);
                self.fail(exchange, &problems);
                if needs_writes || deviating {
                    self.fail(exchange, &["listed, but it is declined".to_owned()]);
                }
            }
            None if needs_writes && deviating => {
                self.fail(exchange, &["listed twice, for two reasons".to_owned()]);
            }
            None if needs_writes || deviating => {
                count(if deviating { "deviating" } else { "needs-writes" });
                if differences.is_empty() {
                    self.fail(exchange, &["listed, but answered as recorded".to_owned()]);
                }
            }
            None => {
                count("same");
                self.fail(exchange, differences);
            }
        }
    }

    fn fail(&mut self, exchange: &Exchange, problems: &[String]) {
        if problems.is_empty() {
            return;
        }
        let (seq, name, request) = (exchange.seq, &exchange.name, &exchange.request);
        let (method, path) = (&request.method, &request.path);
        let problems = problems.join("\n      ");
        self.failures.push(format!("{seq:03} {name} ({method} {path})\n      {problems}"));
    }

    fn finish(mut self) {
        for unknown in std::mem::take(&mut self.deviations) {
            self.failures.push(format!("{unknown:03} in README.md: no such exchange"));
        }
        let failed: BTreeSet<&str> = self.failures.iter().map(|text| &text[..3]).collect();
        let replayed: usize = self.counts.values().sum();
        let of = |kind| self.counts.get(kind).copied().unwrap_or_default();
        println!(
            "replayed {replayed}: same {}, declined {}, deviating {}, needs-writes {}",
            of("same"),
            of("declined"),
            of("deviating"),
            of("needs-writes"),
        );
        assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), self.failures.join("\n"));
    }
}

/// Our decline names its reason, where the method has a body to say so.
fn decline_problems(decline: &str, answer: &Answer) -> Vec<String> {
    let message = format!("not served by quay-sidecar yet: {decline}");
    let error = serde_json::json!({"code": "UNSUPPORTED", "detail": {}, "message": message});
    let expected = format!("{{\"errors\":[{error}]}}\n");
    let length = expected.len().to_string();
    let body = if answer.body.is_empty() { String::new() } else { expected };
    match (answer.status, answer.header("Content-Length"), answer.text()) {
        (405, Some(ours), text) if ours == length && text == body => Vec::new(),
        (status, _, text) => vec![format!("{status} {text:?} instead of the decline {message:?}")],
    }
}
