//! `nginx -t`, for as long as we care to wait.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What nginx says of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// It refuses it.
    #[error("nginx -t refuses {config}: {says}")]
    Refused {
        /// The file.
        config: PathBuf,
        /// Its last words.
        says: String,
    },
    /// It says nothing.
    #[error("nginx -t took longer than {0:?}")]
    Slow(Duration),
    /// It cannot be run.
    #[error("cannot run {program}: {source}")]
    Missing {
        /// What was run.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Has nginx read a configuration.
///
/// # Errors
/// When nginx refuses it, is not there, or does not answer in time.
pub fn nginx_test(nginx: &Path, config: &Path, limit: Duration) -> Result<(), GateError> {
    let missing = |source| GateError::Missing { program: nginx.to_owned(), source };
    let (mut reader, writer) = io::pipe().map_err(missing)?;
    let mut child = Command::new(nginx)
        .arg("-t")
        .arg("-c")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(OwnedFd::from(writer))
        .spawn()
        .map_err(missing)?;
    // Its end closes the pipe, so the wait for the text is the wait for the process.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut says = Vec::new();
        let read = reader.by_ref().take(64 * 1024).read_to_end(&mut says);
        // Nobody listens any more once the limit has passed.
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&says).into_owned()));
    });
    let Ok(says) = receiver.recv_timeout(limit) else {
        // It may have ended just now; either way it must not be left behind.
        let _ = child.kill();
        let _ = child.wait();
        return Err(GateError::Slow(limit));
    };
    let status = child.wait().map_err(missing)?;
    if status.success() {
        return Ok(());
    }
    let says = says.unwrap_or_default();
    let last: Vec<&str> = says.lines().filter(|line| line.contains("[emerg]")).collect();
    let says = if last.is_empty() { says.trim().to_owned() } else { last.join("; ") };
    Err(GateError::Refused { config: config.to_owned(), says })
}
