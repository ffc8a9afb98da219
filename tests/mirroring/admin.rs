//! What a worker tells, and where nobody can ask it.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::{Mirrored, text};
use crate::support::eventually;
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::process::{AtExit, signal, wait};
use crate::support::registryd::program;

/// A port that is taken costs the numbers, not the mirrors; and whoever asks there is told.
#[test]
fn mirrors_are_filled_by_a_worker_that_cannot_be_asked() {
    let mirrored = Mirrored::new(&["*"]);
    let layer = Blob::layer(OCI_LAYER, &[("hello", "world")]);
    mirrored.source.push("a", &Manifest::oci("amd64", vec![layer]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut worker = Command::new(program())
        .args(["worker", "repomirror", "--admin-listen", &address, "--config"])
        .arg(&mirrored.world.conf)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary of this build");
    let _at_exit = AtExit::run(format!("kill -KILL {}", worker.id()));
    let filled = || (mirrored.state() == "1|3").then_some(());
    eventually(filled, || format!("it is {}, {:?}", mirrored.state(), mirrored.log()));
    // It answers nothing.
    let status = mirrored.quay(&["status"], &["--worker", &address]);
    let (told, complaint) = (text(&status.stdout), text(&status.stderr));
    assert!(status.status.success() && told.starts_with("demo/mirror  SUCCESS  "), "{told}");
    let silent = format!("no worker answers at {address} within 1s: ");
    assert!(complaint.starts_with(&silent) && complaint.lines().count() == 1, "{complaint}");
    drop(taken);
    let status = mirrored.quay(&["status"], &["--worker", &address, "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(line["progress"].is_null(), "{line}");
    let refused = text(&status.stderr);
    assert!(refused.starts_with(&format!("no worker answers at {address}: ")), "{refused}");
    signal(&worker, "TERM");
    assert!(wait(&mut worker, "the worker").success());
}
