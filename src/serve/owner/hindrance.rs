//! Why a capability cannot be ours, for reasons that hold for the whole process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::guard::Health;
use crate::blobs::Uploads;
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

const ALL: [&str; 4] = ["V2_PULL", "V2_PUSH", "V2_AUTH", "V2_BASE"];

/// What the configuration rules out.
pub(super) fn of_config(config: Option<&Config>) -> Reasons {
    let mut reasons = Reasons::new();
    let Some(config) = config else {
        reasons.extend(ALL.map(|name| (name.to_owned(), "config_invalid".to_owned())));
        return reasons;
    };
    let unsupported = |location: &Location| matches!(location, Location::Unsupported { .. });
    let first =
        config.storage.preference.first().and_then(|name| config.storage.locations.get(name));
    if config.audit.logs_model != "database" {
        reasons
            .extend(["V2_PULL", "V2_PUSH"].map(|name| (name.to_owned(), "logs_model".to_owned())));
    }
    if config.storage.locations.values().any(unsupported) {
        reasons.insert("V2_PULL".to_owned(), "storage_driver".to_owned());
    }
    if !first.is_some_and(Uploads::are_built_for) {
        reasons.insert("V2_PUSH".to_owned(), "storage_driver".to_owned());
    }
    if config.model_cache == ModelCache::Unreached {
        reasons.insert("V2_DELETE".to_owned(), "model_cache".to_owned());
    }
    if config.testing {
        reasons.extend(ALL.map(|name| (name.to_owned(), "testing".to_owned())));
    }
    reasons
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
    hindered.0.extend(ALL.map(|name| (name.to_owned(), "canary_users".to_owned())));
}

/// All of them together; of several reasons the most lasting is named.
pub(super) fn together(config: &Reasons, schema: Option<&Reasons>, health: Health) -> Hindrances {
    let mut all = Hindrances::of_this_machine();
    if health != Health::Ready {
        all.0.extend(ALL.map(|name| (name.to_owned(), health.as_str().to_owned())));
    }
    match schema {
        Some(schema) => all.0.extend(schema.clone()),
        None => all.0.extend(ALL.map(|name| (name.to_owned(), "schema_unknown".to_owned()))),
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
            assert_eq!(of(&lines).get("V2_PUSH").map(String::as_str), reason, "{lines}");
        }
    }
}
