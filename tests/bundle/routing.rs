//! Who answers what, by method, path, flag and canary.

use std::fs;
use std::process::Command;

use quay_sidecar::bundle::{Canary, Rule, RuleOwner, When};

use super::backend::{ACCEL, Backend};
use super::http::{Client, send};
use super::nginx::Nginx;
use super::quay::{Quay, Variant};
use crate::support::eventually;

const DIGEST: &str = "sha256:0a0a";

/// Target, methods, and whose flag moves it.
fn requests() -> Vec<(String, &'static [&'static str], &'static str)> {
    let mut all: Vec<(String, &[&str], &str)> = vec![
        ("/v2/_catalog".to_owned(), &["GET", "HEAD"], "v2_pull"),
        ("/v2/auth?service=q".to_owned(), &["GET", "HEAD"], "v2_auth"),
        ("/v2/".to_owned(), &["GET", "HEAD"], "v2_base"),
        ("/v2".to_owned(), &["GET"], ""),
        ("/v1/users/".to_owned(), &["GET", "POST"], ""),
        ("/v2/a/b/manifests/t%0A".to_owned(), &["GET"], ""),
        ("/v2/a/b/manifests/".to_owned(), &["GET"], ""),
        ("/v2/a/b/tags/list/x".to_owned(), &["GET"], ""),
    ];
    for name in ["a", "a/b", "a/b/c/d", "a%2Fb", "a//b"] {
        let at = |path: &str| format!("/v2/{name}/{path}");
        all.extend([
            (at("manifests/latest"), &["GET", "HEAD"] as &[_], "v2_pull"),
            (at(&format!("manifests/{DIGEST}?x=1")), &["GET", "HEAD"], "v2_pull"),
            (at(&format!("blobs/{DIGEST}")), &["GET", "HEAD"], "v2_pull"),
            (at(&format!("referrers/{DIGEST}")), &["GET", "HEAD"], "v2_pull"),
            (at("tags/list"), &["GET", "HEAD"], "v2_pull"),
            (at("manifests/latest"), &["PUT", "DELETE"], "v2_push"),
            (at(&format!("blobs/{DIGEST}")), &["DELETE"], "v2_push"),
            (at("blobs/uploads/"), &["POST", "GET"], "v2_push"),
            (at("blobs/uploads/5b1"), &["GET", "HEAD", "PATCH", "PUT", "DELETE"], "v2_push"),
            (at("manifests/latest"), &["OPTIONS", "POST"], ""),
            (at("other"), &["GET"], ""),
        ]);
    }
    all
}

fn owners(quay: &Quay, on: &[&str]) {
    for flag in ["v2_pull", "v2_push", "v2_auth", "v2_base"] {
        quay.flag(flag, on.contains(&flag));
    }
    for (target, methods, flag) in requests() {
        let expected = if on.contains(&flag) { "rust" } else { "python" };
        for method in methods {
            let answer = send(quay.port, method, &target, &[]);
            let seen = (answer.status, answer.by(), answer.owner());
            assert_eq!(seen, (200, expected, expected), "{on:?}: {method} {target}");
            // The raw target, whatever nginx made of it to choose.
            if *method != "HEAD" {
                let said = answer.text();
                assert!(said.starts_with(&format!("{expected} {method} {target} ")), "{said}");
            }
        }
    }
}

fn every_request_has_the_owner_of_its_flag(variant: Variant) {
    let quay = Quay::new(variant);
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    owners(&quay, &[]);
    owners(&quay, &["v2_pull"]);
    owners(&quay, &["v2_push", "v2_auth"]);
    owners(&quay, &["v2_pull", "v2_push", "v2_auth", "v2_base"]);
    owners(&quay, &[]);
    let log = fs::read_to_string(quay.root().join("access.log")).unwrap();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap().to_owned();
    assert!(line("POST /v1/users/").ends_with(" python"), "{}", line("POST /v1/users/"));
    assert!(log.lines().any(|line| line.ends_with(" rust")));
}

#[test]
fn with_workers_of_our_own_user() {
    let variant = Variant { same_user: true, ..Variant::default() };
    every_request_has_the_owner_of_its_flag(variant);
}

#[test]
fn with_workers_of_another_user() {
    every_request_has_the_owner_of_its_flag(Variant::default());
}

/// Manifests of 4 MiB, wherever Quay's locations send them, to whomever they belong.
#[test]
fn manifests_are_not_too_large_for_nginx() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    for owner in ["python", "rust"] {
        quay.flag("v2_push", owner == "rust");
        for path in ["/v2/a/manifests/t", "/v2/a/b/manifests/t", "/v2/a/b/c/manifests/t"] {
            let put = |length| {
                let body = vec![b' '; length];
                Client::new(quay.port).send("PUT", path, &[], Some(&body)).unwrap()
            };
            let answer = put(4 << 20);
            assert_eq!((answer.status, answer.by()), (200, owner), "{path}");
            assert!(answer.text().ends_with("body=4194304"), "{}", answer.text());
            assert_eq!(put(6 << 20).status, 413, "{path}");
        }
    }
}

#[test]
fn what_is_not_the_registry_says_nothing_of_it() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _web = Backend::start("web", &quay.root().join("gunicorn_web.sock"));
    let _nginx = Nginx::start(&quay);
    assert_eq!(send(quay.port, "GET", "/api/v1/x", &[]).owner(), "python");
    let page = send(quay.port, "GET", "/organization", &[]);
    assert_eq!((page.owner(), page.text().as_str()), ("", "the user interface"));
}

#[test]
fn connections_to_us_are_kept_and_to_python_closed_as_before() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    let said = |quay: &Quay| send(quay.port, "GET", "/v2/a/b/manifests/t", &[]).text();
    assert!(said(&quay).contains("connection=close host=registry.example"), "{}", said(&quay));
    quay.flag("v2_pull", true);
    assert!(said(&quay).contains("connection=- host=registry.example"), "{}", said(&quay));
}

#[test]
fn declined_requests_are_answered_by_python() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    quay.flag("v2_push", true);
    let decline = [(ACCEL, "@quay_python")];
    let mut client = Client::new(quay.port);
    for (method, target, body) in [
        ("GET", "/v2/a%2Fb/manifests/t?x=%20", None),
        ("HEAD", "/v2/a/b/manifests/t", None),
        ("DELETE", "/v2/a/b/manifests/t", None),
        ("POST", "/v2/a/b/blobs/uploads/", None),
        ("PUT", "/v2/a/b/manifests/t", Some(b"manifest".as_slice())),
        ("GET", "/v2/a/b/tags/list", None),
    ] {
        let answer = client.send(method, target, &decline, body).unwrap();
        let seen = (answer.status, answer.by(), answer.owner());
        assert_eq!(seen, (200, "python", "python"), "{method} {target}");
        let length = body.map_or(0, <[u8]>::len);
        if method != "HEAD" {
            let said = answer.text();
            assert!(said.starts_with(&format!("python {method} {target} ")), "{said}");
            assert!(said.ends_with(&format!("host=registry.example body={length}")), "{said}");
        }
    }
}

/// The same over HTTP/2, where nginx reads a body differently.
#[test]
fn declined_over_http_2() {
    let quay = Quay::new(Variant { tls: true, ..Variant::default() });
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    quay.flag("v2_push", true);
    for (method, more) in [
        ("GET", &[] as &[&str]),
        ("HEAD", &["-I", "-o", "/dev/null"]),
        ("DELETE", &["-X", "DELETE"]),
        ("PUT", &["-X", "PUT", "--data-binary", "manifest"]),
    ] {
        let ran = Command::new("curl")
            .args(["-sk", "--http2", "-D", "-", "-H", &format!("{ACCEL}: @quay_python")])
            .args(more)
            .arg(format!("https://127.0.0.1:{}/v2/a/b/manifests/t", quay.port))
            .output()
            .expect("curl runs: install the package curl");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(said.starts_with("HTTP/2 200"), "{method}: {said}");
        assert!(said.contains("x-quay-owner: python"), "{method}: {said}");
        assert!(method == "HEAD" || said.contains(&format!("python {method} /v2/a/b/")), "{said}");
        assert!(method != "PUT" || said.ends_with("body=8"), "{said}");
    }
}

#[test]
fn without_registryd_python_answers() {
    let quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    quay.flag("v2_push", true);
    let by = |method| send(quay.port, method, "/v2/a/b/blobs/uploads/5b1", &[]).by().to_owned();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE"] {
        assert_eq!(by(method), "python", "never started: {method}");
    }
    let rust = Backend::start("rust", &quay.rust_socket());
    assert_eq!(by("GET"), "rust", "asked first as soon as it is there");
    rust.kill();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE"] {
        assert_eq!(by(method), "python", "killed: {method}");
    }
}

/// A route's own owner comes before that of its capability, in both directions.
#[test]
fn the_first_rule_decides() {
    let mut quay = Quay::new(Variant::default());
    let rule = |methods: &str, path: &str, owner| Rule {
        methods: vec![methods.to_owned()],
        path: path.to_owned(),
        owner,
    };
    let own = RuleOwner::Flag { flag: "route_0337".to_owned(), gated: false };
    let first = [rule("GET", "^/v2/_catalog$", RuleOwner::Python), rule("GET", "^/v2/auth$", own)];
    quay.bundle.routing.rules.splice(0..0, first);
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);
    for (flag, catalog, auth) in [
        ("v2_pull", ["python", "rust"], ["python", "python"]),
        ("v2_auth", ["python", "rust"], ["python", "rust"]),
        ("route_0337", ["python", "rust"], ["rust", "rust"]),
    ] {
        quay.flag(flag, true);
        for (method, at) in [("GET", 0), ("HEAD", 1)] {
            let by = |target| send(quay.port, method, target, &[]).by().to_owned();
            assert_eq!(by("/v2/_catalog"), catalog[at], "{flag} {method}");
            assert_eq!(by("/v2/auth"), auth[at], "{flag} {method}");
        }
    }
}

/// Flags, canary and the map that they need: rendered again, tested, reloaded.
#[test]
fn canary_by_name_and_percent() {
    let mut quay = Quay::new(Variant::default());
    quay.boot();
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let nginx = Nginx::start(&quay);
    quay.flag("v2_pull", true);
    assert_eq!(by(&quay, "other/x/manifests/t"), "rust");

    for rule in &mut quay.bundle.routing.rules {
        if let RuleOwner::Flag { gated, .. } = &mut rule.owner {
            *gated = true;
        }
    }
    let canary = Canary {
        organizations: vec!["mirror".to_owned(), "library".to_owned()],
        repositories: vec!["my.org/a-b".to_owned()],
        percent: 0,
        by_user: false,
        library: Some("library".to_owned()),
    };
    quay.bundle.routing.canary = canary.clone();
    let applied = quay.bundle.apply(When::Live);
    assert!(applied.is_done(), "{applied}");
    nginx.reload();
    eventually(
        || (by(&quay, "other/x/manifests/t") == "python").then_some(()),
        || "the old map stays".to_owned(),
    );
    for (name, owner) in [
        ("mirror/x", "rust"),
        ("mirror/x/y", "rust"),
        ("mirrors/x", "python"),
        ("MIRROR/x", "python"),
        ("my.org/a-b", "rust"),
        ("myxorg/a-b", "python"),
        ("my.org/a-b/c", "python"),
        ("busybox", "rust"),
    ] {
        assert_eq!(by(&quay, &format!("{name}/manifests/t")), owner, "{name}");
    }
    // Without a repository in it, a request is in no cohort.
    quay.flag("v2_base", true);
    assert_eq!(send(quay.port, "GET", "/v2/", &[]).by(), "python");
    quay.flag("v2_pull", false);
    assert_eq!(by(&quay, "mirror/x/manifests/t"), "python", "a flag still is enough to go back");
    quay.flag("v2_pull", true);

    quay.bundle.routing.canary = Canary { percent: 50, ..Canary::default() };
    let applied = quay.bundle.apply(When::Live);
    assert!(applied.is_done(), "{applied}");
    nginx.reload();
    eventually(
        || (0..20).any(|n| by(&quay, &format!("o/{n}/manifests/t")) == "rust").then_some(()),
        || "nothing moves".to_owned(),
    );
    let owners: Vec<String> = (0..40).map(|n| by(&quay, &format!("o/{n}/manifests/t"))).collect();
    let ours = owners.iter().filter(|owner| *owner == "rust").count();
    assert!((8..=32).contains(&ours), "{ours} of 40");
    for (n, owner) in owners.iter().enumerate() {
        assert_eq!(&by(&quay, &format!("o/{n}/blobs/{DIGEST}")), owner, "one pull, one owner");
    }

    for (percent, by_user) in [(100, false), (0, true)] {
        quay.bundle.routing.canary = Canary { percent, by_user, ..Canary::default() };
        let applied = quay.bundle.apply(When::Live);
        assert!(applied.is_done(), "{applied}");
        nginx.reload();
        eventually(
            || (0..20).all(|n| by(&quay, &format!("o/{n}/manifests/t")) == "rust").then_some(()),
            || format!("not all: {percent} {by_user}"),
        );
    }
    eventually(
        || (by(&quay, "") == "rust").then_some(()),
        || "registryd decides by user, nginx sends it everything".to_owned(),
    );
}

fn by(quay: &Quay, path: &str) -> String {
    send(quay.port, "GET", &format!("/v2/{path}"), &[]).by().to_owned()
}
