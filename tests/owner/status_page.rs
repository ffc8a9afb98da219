//! The page for people, in a real browser, with scripts switched off.

use std::fs;
use std::process::Command;

use super::{Booted, PATH, PULL};
use crate::bundle::http::Client;
use crate::support::Folder;

/// What a browser makes of a page, and what it complains of. The picture is kept beside the build.
fn browse(port: u16, name: &str) -> (String, String) {
    let profile = Folder::new();
    let chromium = |action: &str| {
        let ran = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--enable-logging=stderr", "--window-size=1000,1400"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(action)
            .arg(format!("http://127.0.0.1:{port}/status"))
            .output();
        let ran = ran.expect("chromium runs: install the package chromium");
        assert!(ran.status.success(), "{ran:?}");
        (String::from_utf8(ran.stdout).unwrap(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let picture = format!("{}/status-{name}.png", env!("CARGO_TARGET_TMPDIR"));
    chromium(&format!("--screenshot={picture}"));
    assert!(fs::metadata(&picture).unwrap().len() > 10_000, "{picture} shows nothing");
    chromium("--dump-dom")
}

#[test]
fn it_shows_who_owns_what_and_how_it_came_to_that() {
    let booted = Booted::of_our_user();
    for owner in ["rust", "python", "rust"] {
        assert!(booted.set(&format!("{PULL}={owner}")).status.success());
        booted.eventually(owner, || booted.owner() == owner);
    }
    // Handed back: a client that accepts no type that we have.
    Client::new(booted.quay.port).send("GET", PATH, &[], None).unwrap();
    // What happened outlives the watcher.
    booted.restart_watcher(|| ());
    booted.eventually("ready", || booted.owner() == "rust");

    for program in ["registryd", "owner-switch"] {
        let port = booted.admin_port(program);
        let (dom, complaints) = browse(port, program);
        for wanted in [
            "<dt>version in effect</dt><dd>3</dd>",
            ">V2_PULL</text>",
            "<rect class=\"rust\"",
            "<rect class=\"python\"",
            "<td>V2_PULL</td><td><span class=\"rust\">rust</span></td><td>capability</td>",
        ] {
            assert!(dom.contains(wanted), "{program}: no {wanted} in\n{dom}");
        }
        let handed_back = "<td>V2_PULL</td><td>manifest_conversion</td>";
        assert_eq!(dom.contains(handed_back), program == "registryd", "{dom}");
        assert!(!complaints.contains("Content Security Policy"), "{complaints}");
        assert!(!dom.contains("<script"), "{dom}");

        let secrets = fs::read_to_string(booted.world.conf.join("config.yaml")).unwrap();
        let mut keys =
            ["DATABASE_SECRET_KEY", "SECRET_KEY", "DB_URI"].into_iter().filter_map(|key| {
                let line = secrets.lines().find(|line| line.starts_with(&format!("{key}:")))?;
                Some(line.split_once(':')?.1.trim().trim_matches(['"', '\'']).to_owned())
            });
        assert!(keys.all(|secret| !dom.contains(&secret)));
        let prefix = fs::read_to_string(booted.quay.run().path().join("blob-prefix")).unwrap();
        assert!(!dom.contains(prefix.trim()));

        let answer = Client::new(port).send("GET", "/", &[], None).unwrap();
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

/// A page of a registryd whose watcher is gone says so, and one without any watcher does not.
#[test]
fn a_watcher_that_is_gone_is_missed() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let port = booted.admin_port("registryd");
    let page = || Client::new(port).send("GET", "/status", &[], None).unwrap().text();
    assert!(!page().contains("no watcher"), "{}", page());
    booted.supervisor.stop("owner-switch").unwrap();
    booted.eventually("missed", || page().contains("no watcher"));
    let alone = booted.world.registryd();
    let (status, page) = alone.admin_get("/status").unwrap();
    assert_eq!(status, 200);
    assert!(page.contains("ready") && !page.contains("watcher"), "{page}");
}
