//! Where a push may be cut off: tests end the process at each of these points.

/// Every point of an upload, in the order in which it comes by.
pub const STEPS: [&str; 10] = [
    "post: room made",
    "post: row written",
    "body: some bytes stored",
    "patch: bytes stored",
    "patch: row written",
    "put: bytes stored",
    "put: bytes settled",
    "put: in place",
    "put: committed",
    "cancel: bytes gone",
];

/// Those of manifests, pushed and deleted.
pub const MANIFEST_STEPS: [&str; 3] = ["manifest: checked", "manifest: stored", "delete: done"];

/// Ends the process here, as `kill -9` does, if `QUAY_SIDECAR_DIE_AT` names this step. Waits here if
/// `QUAY_SIDECAR_WAIT_AT` is `<step>=<FIFO>`, as long as somebody has that FIFO open. Not in release
/// builds.
pub(super) fn step(name: &str) {
    let tested = STEPS.contains(&name) || MANIFEST_STEPS.contains(&name);
    debug_assert!(tested, "{name} is not among the steps that are tested");
    die_at(name);
    #[cfg(debug_assertions)]
    if let Ok(wait) = std::env::var("QUAY_SIDECAR_WAIT_AT")
        && let Some((step, fifo)) = wait.split_once('=')
        && step == name
    {
        let _ = std::fs::read(fifo);
    }
}

/// The same end for steps of others, who know which of theirs are tested.
pub(crate) fn die_at(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("QUAY_SIDECAR_DIE_AT").is_ok_and(|step| step == name) {
        use rustix::process::{Signal, getpid, kill_process};
        let _ = kill_process(getpid(), Signal::KILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
