//! Which bytes of Quay's files change, when, and how they come back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use quay_sidecar::bundle::{
    BundleError, Canary, Outcome, QuayNginx, RuleOwner, SpliceError, When, splice,
};

use super::quay::{Quay, Variant};

#[test]
fn nginx_accepts_every_variant() {
    let tls = Variant { tls: true, ..Variant::default() };
    for (variant, times) in [
        (Variant::default(), 1),
        (Variant { rate_limits: true, same_user: true, ..Variant::default() }, 1),
        (tls, 2),
        (Variant { v1_domain: true, rate_limits: true, ..tls }, 4),
    ] {
        let quay = Quay::new(variant);
        let applied = quay.boot();
        assert_eq!(
            quay.read("nginx/nginx.conf").matches("include server-base.conf").count(),
            times
        );
        let notices: Vec<&String> = applied.notices.iter().collect();
        assert_eq!(notices.len(), 1, "{applied}");
        assert!(notices[0].contains("ip-resolver-update-worker"), "{applied}");
        for check in quay.bundle.doctor() {
            let down = ["Python's socket", "registryd's socket", "supervisord"];
            assert_eq!(check.result.is_err(), down.contains(&check.name), "{check}");
        }
    }
}

/// Our edits, taken out again as text, leave what Quay wrote.
#[test]
fn all_else_stays_byte_for_byte() {
    let quay = Quay::new(Variant { rate_limits: true, ..Variant::default() });
    let [http, server, supervisord] = quay.edited();
    quay.boot();
    let [new_http, new_server, new_supervisord] = quay.edited();
    let mut back = new_server.clone();
    for (ours, theirs, times) in [
        ("include quay-sidecar-server.conf; # quay-sidecar\n", "", 1),
        ("http://$quay_registry_upstream", "http://registry_app_server", 7),
        (" proxy_set_header Connection $quay_connection;", "", 6),
        ("if ($quay_owner = rust) { gzip off; } ", "", 2),
        (" client_max_body_size 0;", "", 1),
        (" client_max_body_size 5m;", "", 2),
    ] {
        assert_eq!(back.matches(ours).count(), times, "{ours}");
        back = back.replace(ours, theirs);
    }
    // The comment that names the upstream was never touched.
    assert_eq!(new_server.matches("# proxy_pass http://registry_app_server;").count(), 1);
    assert_eq!(back, server);
    let back = new_http
        .replace("\ninclude quay-sidecar-http.conf; # quay-sidecar\n", "")
        .replace(" ' $quay_answered_by'", "");
    assert_eq!(back, http);
    assert!(new_supervisord.starts_with(&format!("{supervisord}\n\n; quay-sidecar")));
}

#[test]
fn a_second_run_changes_no_byte_and_a_restart_begins_anew() {
    let variant = Variant::default();
    let quay = Quay::new(variant);
    let pristine = quay.edited();
    quay.boot();
    let ours =
        || ["nginx/quay-sidecar-http.conf", "nginx/quay-sidecar-server.conf"].map(|n| quay.read(n));
    let (edited, included) = (quay.edited(), ours());
    let again = quay.boot();
    assert!(matches!(again.outcome, Outcome::Done { changed: false }), "{again}");
    assert_eq!((quay.edited(), ours()), (edited.clone(), included.clone()));
    // Quay generates its files at each start.
    quay.generate(variant);
    assert_eq!(quay.edited(), pristine);
    quay.boot();
    assert_eq!((quay.edited(), ours()), (edited, included));
    let mode = fs::metadata(quay.conf("nginx/quay-sidecar-server.conf")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "it names the secret part of blob paths");
    quay.flag("v2_pull", true);
    assert_eq!(quay.bundle.revert().unwrap().len(), 3);
    assert_eq!(quay.edited(), pristine);
    assert!(!quay.run().flag("v2_pull").exists());
    assert!(!quay.conf("nginx/quay-sidecar-http.conf").exists());
    assert!(!quay.conf(".quay-sidecar-pristine").exists());
    assert_eq!(quay.bundle.revert().unwrap().len(), 0, "nothing left to do");
}

#[test]
fn another_quay_is_left_alone() {
    for (file, from, to, says) in [
        (
            "nginx/server-base.conf",
            "location /v1/ {",
            "location /v1/ { proxy_pass http://registry_app_server; } location /v3/ {",
            "8 proxy_pass",
        ),
        ("nginx/server-base.conf", "http://registry_app_server", "http://registry", "0 proxy_pass"),
        (
            "nginx/http-base.conf",
            "upstream registry_app_server",
            "upstream registry",
            "no upstream",
        ),
        (
            "nginx/server-base.conf",
            "keepalive_timeout 5;",
            "keepalive_timeout 5; }",
            "closes nothing",
        ),
        ("nginx/http-base.conf", "sendfile on;", "open_file_cache max=10;", "open_file_cache"),
        ("nginx/nginx.conf", "include server-base.conf;", "", "no server"),
        ("supervisord.conf", "[program:nginx]", "[program:registryd]", "registryd"),
        ("supervisord.conf", "[supervisord]", "[supervisord", "without its ]"),
    ] {
        let quay = Quay::new(Variant::default());
        let changed = quay.read(file).replace(from, to);
        fs::write(quay.conf(file), changed).unwrap();
        let before = quay.edited();
        let applied = quay.bundle.apply(When::Boot);
        assert!(matches!(applied.outcome, Outcome::Untouched(_)), "{from}: {applied}");
        assert!(applied.to_string().contains(says), "{from}: {applied}");
        assert_eq!(quay.edited(), before, "{from}");
        assert!(!quay.conf("nginx/quay-sidecar-http.conf").exists());
    }
}

#[test]
fn optional_edits_are_skipped_with_a_notice() {
    let quay = Quay::new(Variant::default());
    for (file, from, to) in [
        ("nginx/server-base.conf", "location = /502.html", "location = /error.html"),
        ("nginx/server-base.conf", "if ($request_method = HEAD)", "if ($request_method = HEADS)"),
        ("nginx/server-base.conf", "proxy_set_header Host $http_host;", ""),
        ("nginx/http-base.conf", "lb_logs", "logs"),
        ("nginx/nginx.conf", "lb_logs", "logs"),
    ] {
        let changed = quay.read(file).replace(from, to);
        fs::write(quay.conf(file), changed).unwrap();
    }
    let applied = quay.boot();
    for anchor in ["/502.html", "HEAD", "proxy_set_header Host", "lb_logs"] {
        assert!(applied.notices.iter().any(|notice| notice.contains(anchor)), "{applied}");
    }
    let server = quay.read("nginx/server-base.conf");
    assert_eq!(server.matches("$quay_registry_upstream").count(), 7);
}

#[test]
fn servers_that_add_different_headers_get_no_blob_location() {
    let quay = Quay::new(Variant { tls: true, ..Variant::default() });
    let main = quay.read("nginx/nginx.conf").replacen("63072000", "1", 1);
    fs::write(quay.conf("nginx/nginx.conf"), main).unwrap();
    let applied = quay.boot();
    assert!(applied.to_string().contains("different headers"), "{applied}");
    assert!(!quay.read("nginx/quay-sidecar-server.conf").contains("disable_symlinks"));
}

#[test]
fn what_nginx_refuses_is_put_back() {
    let quay = Quay::new(Variant::default());
    let before = quay.edited();
    // Read by nginx only, so nothing but its test can find it.
    fs::write(
        quay.conf("nginx/rate-limiting.conf"),
        "map $uri $quay_owner { default x; }\nnonsense;",
    )
    .unwrap();
    let applied = quay.bundle.apply(When::Boot);
    assert!(matches!(applied.outcome, Outcome::Restored(BundleError::Gate(_))), "{applied}");
    assert!(applied.to_string().contains("without our edits too"), "{applied}");
    assert_eq!(quay.edited(), before);
    assert!(!quay.conf("nginx/quay-sidecar-http.conf").exists());

    // Live, what was there before is put back: our earlier edits, and not Quay's own files.
    let mut quay = Quay::new(Variant::default());
    quay.boot();
    let before = quay.edited();
    let map = quay.read("nginx/quay-sidecar-http.conf");
    quay.flag("v2_pull", true);
    quay.bundle.nginx = "false".into();
    quay.bundle.routing.rules.truncate(3);
    let applied = quay.bundle.apply(When::Live);
    assert!(matches!(applied.outcome, Outcome::Restored(_)), "{applied}");
    assert_eq!((quay.edited(), quay.read("nginx/quay-sidecar-http.conf")), (before, map));
    assert!(quay.run().flag("v2_pull").exists());
}

/// The hook runs again on files that it edited before, with settings that it now refuses.
#[test]
fn a_boot_that_fails_takes_out_what_an_earlier_one_put_in() {
    let mut quay = Quay::new(Variant::default());
    let before = quay.edited();
    quay.boot();
    quay.flag("v2_pull", true);
    quay.bundle.programs.binary = "relative".into();
    let applied = quay.bundle.apply(When::Boot);
    assert!(matches!(applied.outcome, Outcome::Restored(_)), "{applied}");
    assert_eq!(quay.edited(), before);
    assert!(!quay.run().flag("v2_pull").exists());
}

#[test]
fn an_nginx_that_hangs_or_is_missing() {
    for (program, script) in [("hangs", Some("#!/bin/sh\nexec sleep 1000\n")), ("missing", None)] {
        let mut quay = Quay::new(Variant::default());
        let before = quay.edited();
        let path = quay.root().join(program);
        if let Some(script) = script {
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        quay.bundle.nginx = path;
        quay.bundle.nginx_limit = std::time::Duration::from_millis(300);
        let applied = quay.bundle.apply(When::Boot);
        assert!(matches!(applied.outcome, Outcome::Restored(_)), "{applied}");
        assert_eq!(quay.edited(), before);
    }
}

#[test]
fn names_are_never_written_unless_they_are_plain() {
    for (organization, repository, says) in [
        ("a$b", "o/r", "ROUTE_CANARY_ORGS[0]: \"a$b\" has the character '$'"),
        ("a/b", "o/r", "it has a slash"),
        ("a", "o/r\" 1; } server {", "ROUTE_CANARY_REPOS[0]"),
        ("a", "o", "no organization/repository"),
        ("", "o/r", "is empty"),
    ] {
        let mut quay = Quay::new(Variant::default());
        for rule in &mut quay.bundle.routing.rules {
            rule.owner = RuleOwner::Flag { flag: "v2_pull".to_owned(), gated: true };
        }
        quay.bundle.routing.canary = Canary {
            organizations: vec![organization.to_owned()],
            repositories: vec![repository.to_owned()],
            ..Canary::default()
        };
        let applied = quay.bundle.apply(When::Boot);
        assert!(matches!(applied.outcome, Outcome::Untouched(_)), "{applied}");
        assert!(applied.to_string().contains(says), "{applied}");
    }
    let mut quay = Quay::new(Variant::default());
    quay.bundle.blob_roots.push((1, "/data storage".into()));
    assert!(quay.boot().to_string().contains("/data storage: nginx cannot be told"));
}

#[test]
fn a_thousand_canaries_fit() {
    let mut quay = Quay::new(Variant::default());
    for rule in &mut quay.bundle.routing.rules {
        rule.owner = RuleOwner::Flag { flag: "v2_pull".to_owned(), gated: true };
    }
    let name = |n: usize| format!("organization-{n}/{}", "r".repeat(200));
    quay.bundle.routing.canary.repositories = (0..1000).map(name).collect();
    quay.boot();
}

/// `nginx -t` by root would take folders from the user of a running Quay.
#[test]
fn a_running_quay_of_another_user_is_left_alone() {
    if !rustix::process::geteuid().is_root() {
        crate::support::left_out("only root can leave a file to somebody else");
        return;
    }
    let quay = Quay::new(Variant::default());
    fs::write(quay.conf("supervisord.sock"), "").unwrap();
    chown(quay.conf("supervisord.sock"), Some(1001), Some(0)).unwrap();
    let applied = quay.bundle.apply(When::Live);
    assert!(applied.to_string().contains("as uid 1001"), "{applied}");
    let check = quay.bundle.doctor().into_iter().find(|check| check.name == "nginx program");
    assert!(check.unwrap().result.unwrap_err().contains("uid 1001"));
}

#[test]
fn spliced_text_is_not_spliced_again() {
    let quay = Quay::new(Variant::default());
    let [http, server, _] = quay.edited();
    let main = quay.read("nginx/nginx.conf");
    let texts = |http_base, server_base| QuayNginx { main: &main, http_base, server_base };
    let once = splice(texts(&http, &server)).unwrap();
    let twice = splice(texts(&http, &once.server_base)).unwrap_err();
    assert_eq!(twice, SpliceError::Marked("server-base.conf"));
    // Edited, and the copy is gone: refused with the way out.
    quay.boot();
    fs::remove_dir_all(quay.conf(".quay-sidecar-pristine")).unwrap();
    let applied = quay.bundle.apply(When::Boot);
    assert!(applied.to_string().contains("restart the container"), "{applied}");
}
