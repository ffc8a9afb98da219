//! Log lines on standard error, JSON or text by Quay's own `JSONLOG` and `DEBUGLOG`.
//!
//! One name per field everywhere: `request_id`, `route`, `repo`, `reference`, `status`,
//! `duration_ms`, `error`. Never logged: Authorization headers, tokens, passwords, query strings.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::ChronoUtc;

/// Starts logging for the process. Later calls change nothing.
pub fn start(json: bool, debug: bool) {
    let filter = EnvFilter::new(match debug {
        true => "warn,quay=debug,quay_sidecar=debug",
        false => "warn,quay=info,quay_sidecar=info",
    });
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(ChronoUtc::rfc_3339())
        .with_writer(std::io::stderr);
    // A second start is a test's; the first one stays.
    let _ = if json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(false).try_init()
    };
}
