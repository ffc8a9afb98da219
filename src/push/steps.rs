//! Where a push may be cut off: tests end the process at each of these points.

/// Ends the process here, as `kill -9` does, if `QUAY_SIDECAR_DIE_AT` names this step. Not in
/// release builds.
pub(super) fn step(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::LazyLock;
        static DIE_AT: LazyLock<Option<String>> =
            LazyLock::new(|| std::env::var("QUAY_SIDECAR_DIE_AT").ok());
        if DIE_AT.as_deref() == Some(name) {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
