//! Why a capability cannot be ours, for reasons that hold for the whole process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::guard::Health;
use crate::blobs::Uploads;
use crate::bundle::{Ini, PYTHONS_MIRROR_WORKER as MIRRORS};
use crate::catalog::{Catalog, schema};
use crate::config::{Config, Location, ModelCache};
use crate::switches::Hindrances;
use crate::telemetry::Metrics;

/// How often the schema is looked at: an upgrade of Quay restarts us anyway.
const INTERVAL: Duration = Duration::from_secs(30);

/// Until the database has answered once.
const FIRST: Duration = Duration::from_secs(1);

/// Capabilities with a word for the reason.
pub(super) type Reasons = BTreeMap<String, String>;

/// Nothing is known of the tables yet.
pub(super) const SCHEMA_UNKNOWN: &str = "schema_unknown";

const CAPABILITIES: [&str; 4] = ["V2_PULL", "V2_PUSH", "V2_AUTH", "V2_BASE"];

/// The capabilities, and the worker: it serves no request, so registryd's health is nothing to it.
const ALL: [&str; 5] = ["V2_PULL", "V2_PUSH", "V2_AUTH", "V2_BASE", MIRRORS];

fn each(names: &[&str], reason: &str) -> impl Iterator<Item = (String, String)> {
    names.iter().map(move |name| ((*name).to_owned(), reason.to_owned()))
}

/// What the configuration rules out.
pub(super) fn of_config(config: Option<&Config>) -> Reasons {
    let mut reasons = Reasons::new();
    let Some(config) = config else {
        reasons.extend(each(&ALL, "config_invalid"));
        return reasons;
    };
    let unsupported = |location: &Location| matches!(location, Location::Unsupported { .. });
    let first =
        config.storage.preference.first().and_then(|name| config.storage.locations.get(name));
    if config.audit.logs_model != "database" {
        reasons.extend(each(&["V2_PULL", "V2_PUSH", MIRRORS], "logs_model"));
    }
    if config.storage.locations.values().any(unsupported) {
        reasons.insert("V2_PULL".to_owned(), "storage_driver".to_owned());
    }
    if !first.is_some_and(Uploads::are_built_for) {
        reasons.extend(each(&["V2_PUSH", MIRRORS], "storage_driver"));
    }
    if config.model_cache == ModelCache::Unreached {
        reasons.insert("V2_DELETE".to_owned(), "model_cache".to_owned());
    }
    if config.testing {
        reasons.extend(each(&ALL, "testing"));
    }
    reasons
}

/// Where Quay does nothing but mirror, nobody asks for anything.
pub(super) fn of_programs(quay: &Ini) -> Reasons {
    match quay.only_mirrors() {
        true => each(&CAPABILITIES, "no_nginx").collect(),
        false => Reasons::new(),
    }
}

/// Tells of tables that are not what we rely on, for as long as anybody listens. Until the
/// database has answered, nothing is known and nothing is ours.
pub(super) async fn watch_schema(config: Config, reasons: watch::Sender<Option<Reasons>>) {
    let metrics = Arc::new(Metrics::default());
    let Ok(catalog) = Catalog::new(&config.database, &config.sidecar, 1, metrics) else { return };
    while !reasons.is_closed() {
        let wait = match catalog.session("health").live_columns().await {
            Ok(live) => {
                let found = broken(&live);
                reasons.send_if_modified(|known| {
                    known.replace(found.clone()).is_none_or(|before| before != found)
                });
                INTERVAL
            }
            Err(error) => {
                tracing::warn!(%error, "database not checked");
                FIRST
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn broken(live: &[schema::LiveColumn]) -> Reasons {
    let drifts = schema::compare(schema::contract(), live);
    for drift in &drifts {
        tracing::error!(%drift, "schema contract broken");
    }
    let capabilities = drifts.into_iter().flat_map(|drift| drift.capabilities);
    capabilities.map(|name| (name, "schema".to_owned())).collect()
}

/// A registryd elsewhere cannot be told whose requests are its: the cohort is a file beside its socket.
pub(super) fn of_users(hindered: &mut Hindrances) {
    hindered.0.extend(each(&CAPABILITIES, "canary_users"));
}

/// All of them together; of several reasons the most lasting is named.
pub(super) fn together(config: &Reasons, schema: Option<&Reasons>, health: Health) -> Hindrances {
    let mut all = Hindrances::of_this_machine();
    if health != Health::Ready {
        all.0.extend(each(&CAPABILITIES, health.as_str()));
    }
    match schema {
        Some(schema) => all.0.extend(schema.clone()),
        None => all.0.extend(each(&ALL, SCHEMA_UNKNOWN)),
    }
    all.0.extend(config.clone());
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// What was deleted would be served from there.
    #[test]
    fn deletes_are_pythons_where_its_cache_cannot_be_cleared() {
        let cluster =
            of("DISTRIBUTED_STORAGE_CONFIG: {one: [LocalStorage, {storage_path: /data}]}\n\
            DATA_MODEL_CACHE_CONFIG: {engine: rediscluster}");
        assert_eq!(cluster, Reasons::from([("V2_DELETE".to_owned(), "model_cache".to_owned())]));
    }

    fn of(lines: &str) -> Reasons {
        let dir = tempfile::tempdir().unwrap();
        let least = "TESTING: false\nSERVER_HOSTNAME: quay.example\nDB_URI: postgresql://q@db/quay\n\
                     DATABASE_SECRET_KEY: key\nDISTRIBUTED_STORAGE_PREFERENCE: [one]\n";
        std::fs::write(dir.path().join("config.yaml"), format!("{least}{lines}\n")).unwrap();
        of_config(Some(&Config::load(dir.path(), &HashMap::new()).unwrap().config))
    }

    /// What holds for every push is no reason to decline each.
    #[test]
    fn pushes_are_pythons_where_none_could_be_ours() {
        let local = "DISTRIBUTED_STORAGE_CONFIG: {one: [LocalStorage, {storage_path: /data}]}";
        let swift = "DISTRIBUTED_STORAGE_CONFIG: {one: [SwiftStorage, {}]}";
        for (lines, reason) in [
            (local.to_owned(), None),
            (format!("{local}\nFEATURE_QUOTA_MANAGEMENT: true"), None),
            (format!("{local}\nLOGS_MODEL: elasticsearch"), Some("logs_model")),
            (swift.to_owned(), Some("storage_driver")),
        ] {
            // The worker that fills mirrors pushes what it fetches.
            for name in ["V2_PUSH", MIRRORS] {
                assert_eq!(of(&lines).get(name).map(String::as_str), reason, "{name}: {lines}");
            }
        }
    }

    #[test]
    fn workers_wait_for_no_registryd() {
        let known = Reasons::new();
        let hindered = together(&Reasons::new(), Some(&known), Health::Down);
        assert_eq!(hindered.0.get("V2_PUSH").map(String::as_str), Some("down"));
        assert_eq!(hindered.0.get(MIRRORS), None);
        let unknown = together(&Reasons::new(), None, Health::Ready);
        assert_eq!(unknown.0.get(MIRRORS).map(String::as_str), Some(SCHEMA_UNKNOWN));
        let quay = |nginx: bool, mirrors: bool| {
            let program = |name, on| format!("[program:{name}]\ncommand=x\nautostart={on}\n");
            Ini::parse(&(program("nginx", nginx) + &program(MIRRORS, mirrors))).unwrap()
        };
        let reasons = of_programs(&quay(false, true));
        assert!(reasons.contains_key("V2_PULL") && !reasons.contains_key(MIRRORS));
        for (nginx, mirrors) in [(true, true), (true, false), (false, false)] {
            assert_eq!(of_programs(&quay(nginx, mirrors)), Reasons::new());
        }
    }
}
