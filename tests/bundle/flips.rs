//! Owners change under load, and no request fails.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quay_sidecar::bundle::nginx_test;

use super::backend::Backend;
use super::http::{Client, send};
use super::nginx::Nginx;
use super::quay::{Quay, Variant};
use crate::support::eventually;

const MANIFEST: &str = "/v2/a/b/manifests/t";
/// Its location closes each connection, so clients connect again and again.
const BLOB: &str = "/v2/a/b/blobs/sha256:0a0a";

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    python: AtomicUsize,
    rust: AtomicUsize,
}

impl Seen {
    fn of(&self, owner: &str) -> &AtomicUsize {
        match owner {
            "python" => &self.python,
            "rust" => &self.rust,
            other => panic!("answered by {other:?}"),
        }
    }

    fn load(&self, port: u16, target: &str) {
        let mut client = Client::new(port);
        while !self.stop.load(Ordering::Relaxed) {
            let answer = client.send("GET", target, &[], None).expect("no request fails");
            assert_eq!((answer.status, answer.by()), (200, answer.owner()));
            self.of(answer.owner()).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Until this owner has answered so many more.
    fn wait_for(&self, owner: &str, more: usize) {
        let start = self.of(owner).load(Ordering::Relaxed);
        eventually(
            || (self.of(owner).load(Ordering::Relaxed) >= start + more).then_some(()),
            || format!("{owner} is not asked"),
        );
    }
}

struct StopAtEnd<'a>(&'a Seen);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn under_load(quay: &Quay, act: impl FnOnce(&Seen)) {
    let seen = Seen::default();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let target = if client % 2 == 0 { MANIFEST } else { BLOB };
            scope.spawn(|| seen.load(quay.port, target));
        }
        let _stop = StopAtEnd(&seen);
        act(&seen);
    });
    let (python, rust) = (seen.python.into_inner(), seen.rust.into_inner());
    println!("{} requests, 0 failed: {python} by python, {rust} by rust", python + rust);
}

#[test]
fn flips_under_load_fail_nothing() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    under_load(&quay, |seen| {
        for flip in 0..40 {
            let on = flip % 2 == 0;
            quay.flag("v2_pull", on);
            // The very next request moves, whatever connection it comes on.
            let owner = if on { "rust" } else { "python" };
            assert_eq!(send(quay.port, "GET", MANIFEST, &[]).owner(), owner);
            seen.wait_for(owner, 30);
        }
    });
}

#[test]
fn registryd_killed_under_load_fails_no_read() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let mut rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    under_load(&quay, |seen| {
        for _ in 0..5 {
            seen.wait_for("rust", 30);
            rust.kill();
            seen.wait_for("python", 30);
            rust = Backend::start("rust", &quay.rust_socket());
        }
    });
}

#[test]
fn the_way_back_does_not_depend_on_nginx_accepting_its_files() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    assert_eq!(send(quay.port, "GET", MANIFEST, &[]).owner(), "rust");
    let conf = quay.bundle.tree.nginx_conf();
    let mut file = OpenOptions::new().append(true).open(&conf).unwrap();
    file.write_all(b"\nssl_certificate /nowhere;\n").unwrap();
    nginx_test(&quay.bundle.nginx, &conf, quay.bundle.nginx_limit).unwrap_err();
    nginx.hang_up();
    quay.flag("v2_pull", false);
    assert_eq!(send(quay.port, "GET", MANIFEST, &[]).owner(), "python");
    // A boot clears what an earlier life left, even where it can do nothing else.
    quay.flag("v2_pull", true);
    fs::write(&conf, "http {").unwrap();
    let applied = quay.bundle.apply(quay_sidecar::bundle::When::Boot);
    assert!(!applied.is_done() && applied.can_boot(), "{applied}");
    assert!(!quay.run().flag("v2_pull").exists());
}

/// Quay's certificate is gone, so nginx would not start again: the flags still lead back.
#[test]
fn the_way_back_does_not_depend_on_the_certificate() {
    let quay = Quay::new(Variant { tls: true, ..Variant::default() });
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    assert_eq!(over_tls(&quay), "rust");
    fs::remove_file(quay.conf("stack/ssl.cert")).unwrap();
    let conf = quay.bundle.tree.nginx_conf();
    nginx_test(&quay.bundle.nginx, &conf, quay.bundle.nginx_limit).unwrap_err();
    nginx.hang_up();
    quay.flag("v2_pull", false);
    assert_eq!(over_tls(&quay), "python");
}

fn over_tls(quay: &Quay) -> String {
    let url = format!("https://127.0.0.1:{}{MANIFEST}", quay.port);
    let mut curl = Command::new("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%header{x-quay-owner}", &url]);
    let ran = curl.output();
    String::from_utf8(ran.expect("curl runs: install the package curl").stdout).unwrap()
}
