//! The dashboard and the alerts in conf/: every metric and label that they use is one that registryd
//! or the watcher tells, and Prometheus itself can read and judge them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Output};
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use regex::Regex;
use serde_json::Value;

use super::{ACCEPT, Booted, PATH, PULL};
use crate::bundle::http::Client;
use crate::support::Folder;

const ALERTS: &str = "conf/prometheus-alerts.yaml";
const DASHBOARD: &str = "conf/grafana-dashboard.json";

/// Labels that Prometheus itself puts on what it reads.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

/// Every metric, with the labels that its series have.
type Exposed = BTreeMap<String, BTreeSet<String>>;

fn exposed(text: &str, into: &mut Exposed) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a series and its value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = into.entry(name.to_owned()).or_default();
        known.extend(NAME_OF_LABEL.captures_iter(labels).map(|found| found[1].to_owned()));
    }
}

static NAME_OF_LABEL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).unwrap());

/// Metrics of an expression, each with the labels that are asked of it; and those that results are
/// grouped by, which have to be some metric's.
fn used(expression: &str) -> (Vec<(String, BTreeSet<String>)>, BTreeSet<String>) {
    let grouped = Regex::new(r"\b(?:by|ignoring|on|without)\s*\(([^)]*)\)").unwrap();
    let groups = grouped
        .captures_iter(expression)
        .flat_map(|found| {
            found[1].split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let rest = grouped.replace_all(expression, "");
    let selector = Regex::new(r"\b([a-z][a-z_]*_[a-z_]*|up)\b\s*(\{[^}]*\})?(\(?)").unwrap();
    let in_braces = Regex::new(r"\{[^}]*\}").unwrap();
    // What stands in braces is no metric.
    let outside =
        |at: usize| !in_braces.find_iter(&rest).any(|braces| braces.range().contains(&at));
    let metrics = selector
        .captures_iter(&rest)
        .filter(|found| found[3].is_empty() && outside(found.get(1).unwrap().start()))
        .map(|found| {
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            let labels = NAME_OF_LABEL.captures_iter(labels).map(|label| label[1].to_owned());
            (found[1].to_owned(), labels.collect())
        });
    (metrics.collect(), groups)
}

fn alerts() -> Vec<String> {
    let alerts: Value = serde_saphyr::from_str(&fs::read_to_string(ALERTS).unwrap()).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect()
}

/// Expressions of the dashboard, with what they are called in its legends.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    targets.map(|target| (text(&target["expr"]), text(&target["legendFormat"]))).collect()
}

#[test]
fn every_metric_and_label_is_one_that_we_tell() {
    let booted = Booted::of_our_user();
    let pulls = format!("{PULL}=rust");
    // A canary is a new map for nginx, and no canary another one.
    for switch in
        [&*pulls, "ROUTE_CANARY_ORGS=[x]", "ROUTE_CANARY_ORGS=", "ROUTE_OWNER_CAP_V2_AUTH=rust"]
    {
        assert!(booted.set(switch).status.success(), "{switch}");
    }
    booted.eventually("rust", || booted.owner() == "rust");
    // A worker that changes hands.
    assert!(booted.set("WORKER_OWNER_PULLSTATSREDISFLUSHWORKER=off").status.success());
    let mut client = Client::new(booted.quay.port);
    let mut get = |path: &str, authorization: Option<String>| {
        let mut headers = ACCEPT.to_vec();
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        client.send("GET", path, &headers, None).unwrap()
    };
    // One of each: a pull with a token, a login that fails, and a request that is handed back.
    let token = booted.world.token(None, "demo/public", &["pull"]);
    assert_eq!(get(PATH, Some(format!("Bearer {token}"))).status, 200);
    let wrong = BASE64_STANDARD.encode("nobody:wrong");
    get("/v2/auth?service=registry.example", Some(format!("Basic {wrong}")));
    Client::new(booted.quay.port).send("GET", PATH, &[], None).unwrap();

    let mut known = Exposed::new();
    exposed(&booted.metrics_of("registryd"), &mut known);
    exposed(&booted.metrics_of("owner-switch"), &mut known);
    known.insert("up".to_owned(), BTreeSet::new());
    let all: BTreeSet<&String> = known.values().flatten().collect();
    let legend = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    let expressions: Vec<(String, String)> =
        panels().into_iter().chain(alerts().into_iter().map(|e| (e, String::new()))).collect();
    let mut checked = 0;
    for (expression, called) in &expressions {
        let (metrics, mut groups) = used(expression);
        assert!(!metrics.is_empty(), "no metric in {expression}");
        for (metric, labels) in metrics {
            let has = known.get(&metric);
            let has =
                has.unwrap_or_else(|| panic!("{metric} of {expression} is not told: {known:#?}"));
            for label in labels.iter().filter(|label| !OF_PROMETHEUS.contains(&label.as_str())) {
                assert!(has.contains(label), "{metric} has no label {label}: {has:?}");
                checked += 1;
            }
        }
        groups.extend(legend.captures_iter(called).map(|found| found[1].to_owned()));
        for label in groups.iter().filter(|label| !OF_PROMETHEUS.contains(&label.as_str())) {
            assert!(all.contains(label), "nothing has a label {label}: {expression} {called}");
        }
    }
    assert!(expressions.len() > 30 && checked > 20, "{} {checked}", expressions.len());
}

fn promtool(arguments: &[&str], file: &str) -> Output {
    let ran = Command::new("promtool").args(arguments).arg(file).output();
    ran.expect("promtool runs: install the package prometheus")
}

#[test]
fn prometheus_can_read_them() {
    let checked = promtool(&["check", "rules"], ALERTS);
    assert!(checked.status.success(), "{checked:?}");
    // A dashboard's expressions as rules: then the same parser reads them.
    let rules: Vec<Value> = panels()
        .iter()
        .enumerate()
        .map(|(n, (expr, _))| {
            let expr = expr.replace("$registryd", "a").replace("$watcher", "b");
            serde_json::json!({"record": format!("panel:{n}"), "expr": expr})
        })
        .collect();
    let groups = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
    let folder = Folder::new();
    let file = folder.path().join("panels.yaml");
    fs::write(&file, groups.to_string()).unwrap();
    let checked = promtool(&["check", "rules"], file.to_str().unwrap());
    assert!(checked.status.success(), "{checked:?}");
}

/// What the alerts are for makes them fire, and good days do not.
#[test]
fn alerts_fire_for_what_they_are_meant_for() {
    let folder = Folder::new();
    let rules = fs::canonicalize(ALERTS).unwrap();
    let test = r#"
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'http_requests_total{job="quay-registryd",instance="a",status="200"}', values: '0+100x20'}
      - {series: 'http_requests_total{job="quay-registryd",instance="a",status="503"}', values: '0x10 5+5x10'}
      - {series: 'quay_owner_snapshot_version{job="quay-owner-switch",instance="a",state="seen"}', values: '3x10 4x10'}
      - {series: 'quay_owner_snapshot_version{job="quay-owner-switch",instance="a",state="applied"}', values: '3x20'}
      - {series: 'quay_owner_propagation_seconds_count{job="quay-owner-switch",instance="a"}', values: '1x10 2x10'}
      - {series: 'quay_owner_propagation_seconds_bucket{job="quay-owner-switch",instance="a",le="30.0"}', values: '1x20'}
      - {series: 'quay_owner_nginx_reloads_total{job="quay-owner-switch",instance="a",result="failed"}', values: '0x10 1x10'}
      - {series: 'quay_owner_registryd_kills_total{job="quay-owner-switch",instance="a"}', values: '0x20'}
      - {series: 'quay_owner_worker_transitions_total{job="quay-owner-switch",instance="a",program="repomirrorworker",from="python",to="rust",result="failed"}', values: '0x10 1x10'}
    alert_rule_test:
      - {eval_time: 9m, alertname: QuayRegistrydErrors, exp_alerts: []}
      - {eval_time: 9m, alertname: QuaySwitchNotInEffect, exp_alerts: []}
      - {eval_time: 9m, alertname: QuaySwitchSlow, exp_alerts: []}
      - {eval_time: 9m, alertname: QuayNginxRefused, exp_alerts: []}
      - {eval_time: 20m, alertname: QuayRegistrydHung, exp_alerts: []}
      - {eval_time: 9m, alertname: QuayWorkerNotMoved, exp_alerts: []}
      - eval_time: 13m
        alertname: QuayWorkerNotMoved
        exp_alerts: [{exp_labels: {severity: ticket, instance: a, job: quay-owner-switch, program: repomirrorworker, from: python, to: rust, result: failed}, exp_annotations: {
          summary: 'repomirrorworker of a could not be moved from python to rust',
          remedy: '`quay switch show` says why, and whose it is'}}]
      - eval_time: 20m
        alertname: QuayRegistrydErrors
        exp_alerts: [{exp_labels: {severity: page, instance: a}, exp_annotations: {
          summary: '4.762% of the answers of a are errors of the server',
          remedy: 'its log names each; `quay switch set MIGRATION_FORCE_PYTHON=true` gives everything back to Python'}}]
      - eval_time: 13m
        alertname: QuaySwitchNotInEffect
        exp_alerts: [{exp_labels: {severity: page, instance: a, job: quay-owner-switch}, exp_annotations: {
          summary: 'version 4 of the switches of a was read a minute ago and is not in effect',
          remedy: '`quay switch show` says what it waits for: registryd, or nginx''s test of the map'}}]
      - eval_time: 13m
        alertname: QuaySwitchSlow
        exp_alerts: [{exp_labels: {severity: ticket, instance: a, job: quay-owner-switch}, exp_annotations: {
          summary: 'a switch of a took longer than the thirty seconds that are promised',
          remedy: 'the watcher''s log has `switches applied` with the seconds'}}]
      - eval_time: 13m
        alertname: QuayNginxRefused
        exp_alerts: [{exp_labels: {severity: page, instance: a, job: quay-owner-switch, result: failed}, exp_annotations: {
          summary: 'nginx of a does not accept its files, and may not start again',
          remedy: '`nginx -t`, `quay bundle doctor`'}}]
"#;
    let file = folder.path().join("test.yaml");
    fs::write(&file, test.replace("RULES", rules.to_str().unwrap())).unwrap();
    let judged = promtool(&["test", "rules"], file.to_str().unwrap());
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}
