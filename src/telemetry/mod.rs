//! What operators see: logs, metrics, request ids.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
