//! Other programs, for as long as we care to wait.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than podman ever takes to answer a question.
const LIMIT: Duration = Duration::from_secs(60);

/// More than this of what a program says is not looked at.
const SAYS: u64 = 1024 * 1024;

/// Runs a command line, as another user where one is named. Returns what it printed.
///
/// # Errors
/// With the command and its words, when it cannot be run, fails, or takes too long.
pub(super) fn run(words: &[String], user: Option<(u32, u32)>) -> Result<String, String> {
    let shown = words.join(" ");
    let [program, arguments @ ..] = words else { return Ok(String::new()) };
    let failed = |error: io::Error| format!("{shown}: {error}");
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(OwnedFd::from(writer.try_clone().map_err(failed)?));
    command.stderr(OwnedFd::from(writer));
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    let child = command.spawn();
    // It holds the writing ends of the pipe.
    drop(command);
    let mut child = child.map_err(failed)?;
    // Its end closes the pipe, so the wait for the text is the wait for the process.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut says = Vec::new();
        let read = reader.by_ref().take(SAYS).read_to_end(&mut says);
        // Nobody listens any more once the limit has passed.
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&says).into_owned()));
    });
    let Ok(says) = receiver.recv_timeout(LIMIT) else {
        // It may have ended just now; either way it must not be left behind.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{shown}: took longer than {LIMIT:?}"));
    };
    let status = child.wait().map_err(failed)?;
    let says = says.unwrap_or_default();
    match status.success() {
        true => Ok(says),
        false => Err(format!("{shown}: {status}: {}", says.trim())),
    }
}
