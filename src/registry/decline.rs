//! Handing a request back to Python, untouched (contract §8).

use super::App;
use super::error::{ApiError, unsupported};
use crate::telemetry::metrics::Decline;

impl App {
    /// Python answers instead where it can be reached, through nginx or by us; elsewhere the client
    /// is told what is missing.
    pub fn decline(&self, capability: &'static str, reason: &'static str) -> ApiError {
        self.shared.metrics.declines.get_or_create(&Decline { capability, reason }).inc();
        if self.behind_nginx || self.python.is_some() {
            return ApiError::Python;
        }
        unsupported(format!("not served by quay-sidecar yet: {reason} ({capability})"))
    }

    /// Reasons that hold for every request of a capability.
    pub fn check_capability(&self, capability: &'static str) -> Result<(), ApiError> {
        if self.shared.config.testing {
            return Err(self.decline(capability, "testing"));
        }
        let broken = self.shared.broken.load();
        if broken.iter().any(|broken| broken == capability) {
            return Err(self.decline(capability, "schema_contract"));
        }
        Ok(())
    }
}
