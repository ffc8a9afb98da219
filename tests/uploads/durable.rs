//! Bytes are on the disk before anybody is told that they are: as the kernel saw it. A kill shows
//! nothing of that, for the page cache outlives it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::StatusCode;

use super::Pusher;
use super::crashes::blob;
use crate::support::images::digest_of;
use crate::support::registryd::program;
use crate::support::{Folder, Registryd, World, eventually, left_out, on_sqlite};

/// System calls of one process, in the order in which they were done.
struct Calls(Vec<String>);

/// Registryd, and where its system calls are written to. It is our own child, and dies as such.
fn watched(world: &World, folder: &Folder) -> Option<(Registryd, PathBuf)> {
    let tried = Command::new("strace").args(["-qq", "true"]).output().unwrap();
    if !tried.status.success() {
        left_out("system calls cannot be watched here");
        return None;
    }
    let log = folder.path().join("calls");
    let calls = "trace=fsync,fdatasync,pwrite64,rename,renameat,renameat2,linkat,sendto,writev";
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-y", "-s", "40", "-e", calls, "-o"]).arg(&log);
    command.args([&program(), "serve", "registryd", "--port", "0"]);
    command.args(["--admin-listen", "127.0.0.1:0", "--config"]).arg(&world.conf);
    let registryd = Registryd::try_run(command).unwrap_or_else(|(_, log)| panic!("{log}"));
    registryd.wait_until_ready();
    Some((registryd, log))
}

impl Calls {
    fn read(log: &Path) -> Calls {
        let (mut begun, mut done) = (HashMap::new(), Vec::new());
        for line in std::fs::read_to_string(log).unwrap().lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            if let Some(start) = call.trim().strip_suffix("<unfinished ...>") {
                begun.insert(thread.to_owned(), start.to_owned());
            } else if call.trim().starts_with("<... ") {
                done.extend(begun.remove(thread));
            } else {
                done.push(call.trim().to_owned());
            }
        }
        Calls(done)
    }

    /// Where the first such call after `after` is.
    fn next(&self, after: usize, what: &str, wanted: impl Fn(&str) -> bool) -> usize {
        let found = self.0.iter().enumerate().skip(after + 1).find(|(_, call)| wanted(call));
        let all = || self.0.get(after..).unwrap_or_default().join("\n");
        found.unwrap_or_else(|| panic!("{what} is missing after call {after}:\n{}", all())).0
    }
}

fn is_flush(call: &str) -> bool {
    call.starts_with("fsync(") || call.starts_with("fdatasync(")
}

fn is_move(call: &str) -> bool {
    call.starts_with("rename") || call.starts_with("linkat(")
}

fn is_answer(call: &str) -> bool {
    call.contains("HTTP/1.1 201")
}

/// Whether the file came by one process, or is copied as it is read again.
async fn is_durable_before_it_is_told(carried: bool) {
    let (world, folder) = (World::with_own_storage(), Folder::new());
    let Some((registryd, log)) = watched(&world, &folder) else { return };
    let other = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let begins =
        if carried { Pusher::new(&registryd, &world) } else { Pusher::new(&other, &world) };
    let blob = blob();
    let (uuid, digest) = (begins.start().await, digest_of(&blob));
    begins.patch(&uuid, blob).await;
    let end = pusher.finish(&uuid, &digest, "").await;
    assert_eq!(end.status(), StatusCode::CREATED);

    // It is written down after the client has it.
    let calls = eventually(
        || Some(Calls::read(&log)).filter(|calls| calls.0.iter().any(|call| is_answer(call))),
        || std::fs::read_to_string(&log).unwrap(),
    );
    let hex = digest.strip_prefix("sha256:").unwrap();
    let place = format!("sha256/{}/{hex}\"", &hex[..2]);
    let parent = format!("sha256/{}>", &hex[..2]);
    let moved = calls.next(0, "the move", |call| is_move(call) && call.contains(&place));
    let written = |call: &String| call.starts_with("pwrite64(") && call.contains("/uploads/");
    let written = calls.0[..moved].iter().rposition(written).expect("it is written");
    let flushed = calls
        .next(written, "the file's flush", |call| is_flush(call) && call.contains("/uploads/"));
    assert!(flushed < moved, "flushed after it was moved");
    let mut last =
        calls.next(moved, "the folder's flush", |call| is_flush(call) && call.contains(&parent));
    if !on_sqlite() {
        last = calls.next(last, "the commit", |call| call.contains("COMMIT"));
    }
    calls.next(last, "the answer", is_answer);
}

#[tokio::test]
async fn a_blob_is_on_the_disk_before_its_rows_are_committed() {
    is_durable_before_it_is_told(true).await;
}

#[tokio::test]
async fn a_copy_is_on_the_disk_before_its_rows_are_committed() {
    is_durable_before_it_is_told(false).await;
}
