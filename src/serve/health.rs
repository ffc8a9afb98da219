//! Is everything there that requests need?

use std::sync::Arc;
use std::time::Duration;

use crate::auth::VerificationKeys;
use crate::catalog::{Catalog, schema};
use crate::registry::Shared;

/// How long a look may take: whoever asks for readiness asks again soon.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the schema is looked at until the database answers for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Looks after the things below the handlers.
#[derive(Clone)]
pub struct Health {
    pub(super) catalog: Catalog,
    pub(super) keys: Arc<VerificationKeys>,
    pub(super) shared: Arc<Shared>,
}

impl Health {
    /// Everything that is not as it should be; nothing when requests can be served.
    pub async fn problems(&self) -> Vec<String> {
        if self.shared.in_flight.is_draining() {
            return vec!["stopping".to_owned()];
        }
        match tokio::time::timeout(PATIENCE, self.look()).await {
            Ok(problems) => problems,
            Err(_) => vec![format!("no answer from database or storage within {PATIENCE:?}")],
        }
    }

    /// Waits until the database can be asked for its schema. Until then requests fail by
    /// themselves; from then on a capability whose tables are not what we know is declined.
    pub async fn first_look(self) {
        while let Err(error) = self.check_schema().await {
            tracing::warn!(error, "database not checked yet");
            tokio::time::sleep(FIRST_LOOK).await;
        }
    }

    async fn look(&self) -> Vec<String> {
        let mut problems = self.shared.storage.unusable().await;
        match self.check_schema().await {
            Ok(drifts) => problems.extend(drifts),
            Err(error) => {
                problems.push(format!("database: {error}"));
                return problems;
            }
        }
        match self.shared.instance_key.kid() {
            Err(error) => problems.push(format!("instance key: {error}")),
            Ok(kid) => match self.keys.knows(&self.catalog, &kid).await {
                Ok(true) => {}
                Ok(false) => problems.push(format!(
                    "instance key: no approved, unexpired row of servicekey has kid {kid}"
                )),
                Err(error) => problems.push(format!("instance key: {error}")),
            },
        }
        problems
    }

    /// Whether the database has the instance key, at this moment.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) async fn has_instance_key(&self) -> Result<bool, String> {
        let kid = self.shared.instance_key.kid().map_err(|error| error.to_string())?;
        let keys = self.catalog.session("health");
        let keys = keys.service_keys(&self.shared.config.keys.service).await;
        let keys = keys.map_err(|error| error.to_string())?;
        Ok(keys.iter().any(|key| key.kid == kid))
    }

    async fn check_schema(&self) -> Result<Vec<String>, String> {
        let live = self.catalog.session("health").live_columns().await;
        let mut drifts =
            schema::compare(schema::contract(), &live.map_err(|error| error.to_string())?);
        // What only the worker that fills mirrors needs keeps no request from us.
        drifts.retain(|drift| drift.capabilities != [schema::MIRRORING]);
        let mut broken: Vec<String> =
            drifts.iter().flat_map(|drift| drift.capabilities.iter().cloned()).collect();
        broken.sort();
        broken.dedup();
        self.shared.broken.store(Arc::new(broken));
        Ok(drifts.iter().map(|drift| format!("schema: {drift}")).collect())
    }
}
