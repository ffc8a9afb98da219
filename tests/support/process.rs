//! Whatever a test process starts or creates outside itself goes away with it, however it ends.
//!
//! `Drop` covers the ordinary ways. For the others (a static, a SIGKILL, ctrl-c) there is the
//! janitor: one small shell, in a process group of its own, that holds the reading end of a pipe
//! from us. When we are gone the pipe closes, and it runs the clean-up commands it was last told.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may take that ought to be quick.
pub const PATIENCE: Duration = Duration::from_secs(30);

const FOLDER_PREFIX: &str = "quay-sidecar-test-";

/// Waits until `attempt` gives a value; panics with what `explain` says when that takes too long.
pub fn eventually<T>(
    mut attempt: impl FnMut() -> Option<T>,
    explain: impl FnOnce() -> String,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        if Instant::now() > deadline {
            panic!("after {PATIENCE:?}: {}", explain());
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at a condition")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A shell command to be run after our own end, unless this guard is dropped before.
pub struct AtExit(u32);

impl AtExit {
    pub fn run(command: String) -> AtExit {
        let id = unique();
        Janitor::tell(|commands| commands.insert(id, command));
        AtExit(id)
    }
}

impl Drop for AtExit {
    fn drop(&mut self) {
        Janitor::tell(|commands| commands.remove(&self.0));
    }
}

/// A fresh folder that everybody may enter, removed on drop.
pub struct Folder {
    path: PathBuf,
    kept: Vec<Folder>,
    _at_exit: AtExit,
}

impl Folder {
    pub fn new() -> Folder {
        static SWEPT: LazyLock<()> = LazyLock::new(sweep);
        LazyLock::force(&SWEPT);
        let name = format!("{FOLDER_PREFIX}{}-{}", std::process::id(), unique());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let _at_exit =
            AtExit::run(format!("rm -rf '{0}' || {{ sleep 1; rm -rf '{0}'; }}", path.display()));
        Folder { path, kept: Vec::new(), _at_exit }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another folder, to be removed together with this one.
    pub fn keep(&mut self, other: Folder) {
        self.kept.push(other);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Sends a signal by name, as `kill -NAME` does.
pub fn signal(child: &Child, name: &str) {
    let script = format!("kill -{name} {}", child.id());
    let sent = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
    assert!(sent.success(), "{script}: {sent}");
}

/// Waits for a process to end by itself.
pub fn wait(child: &mut Child, what: &str) -> ExitStatus {
    eventually(|| child.try_wait().expect("our own child"), || format!("{what} has not ended"))
}

pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A test that panicked elsewhere is no reason to fail this one too.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Janitor {
    commands: BTreeMap<u32, String>,
    shell: Child,
}

impl Janitor {
    /// Changes the list of commands and hands over all of it, in one line.
    fn tell<T>(change: impl FnOnce(&mut BTreeMap<u32, String>) -> T) {
        static JANITOR: LazyLock<Mutex<Janitor>> = LazyLock::new(|| Mutex::new(Janitor::hire()));
        let mut janitor = lock(&JANITOR);
        change(&mut janitor.commands);
        // The newest first, as drops go: a process ends before its folder is removed.
        let mut line = janitor.commands.values().rev().cloned().collect::<Vec<_>>().join("; ");
        line.push('\n');
        let pipe = janitor.shell.stdin.as_mut().expect("piped");
        pipe.write_all(line.as_bytes()).expect("the janitor listens");
    }

    fn hire() -> Janitor {
        let script =
            "trap '' INT TERM HUP; while read -r line; do last=$line; done; eval \"$last\"";
        let shell = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        Janitor { commands: BTreeMap::new(), shell }
    }
}

/// Removes what earlier runs left behind whose process, and janitor, were killed with the machine.
/// A PostgreSQL that still runs in such a folder notices that its lock file is gone, and stops.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX));
        let Some(pid) = owner.and_then(|owner| owner.split('-').next()) else {
            continue;
        };
        if Path::new("/proc/self").exists() && !Path::new("/proc").join(pid).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
