//! Which repositories an organization has to follow: as both APIs list them, and as they fail.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::Following;
use super::catalogue::Api;
use crate::mirroring::text;

/// Page by page, with the token, and a filter; the requests are these and no others.
#[test]
fn quay_lists_its_repositories() {
    let it = Following::new(Api::Quay);
    it.shelve(&["api", "web", "web-old", "db", "tools"]);
    it.catalogue.page(2);
    it.catalogue.wants("Bearer t0ken-of-reader");
    it.credentials(None, "t0ken-of-reader");
    it.sql("UPDATE orgmirrorconfig SET repository_filters = '[\"web*\", \"api\"]'");

    let report = it.sync();
    assert_eq!(report["error"], json!(null), "{report}");
    let counts = ["listed", "wanted", "new", "skipped", "scheduled"].map(|key| report[key].clone());
    assert_eq!(counts, [5, 3, 3, 0, 3].map(|number| json!(number)), "{report}");
    assert_eq!(
        it.catalogue.listed(),
        [
            "/api/v1/user/",
            "/api/v1/organization/team",
            "/api/v1/repository?namespace=team",
            "/api/v1/repository?namespace=team&next_page=2",
            "/api/v1/repository?namespace=team&next_page=4",
        ]
    );
    assert_eq!(it.rows(), ["api|1|3|-", "web|1|3|-", "web-old|1|3|-"]);
    assert_eq!(it.state(), "1|3");
}

/// Without a token what is public, of a user as well.
#[test]
fn quay_lists_what_is_public() {
    let it = Following::new(Api::Quay);
    it.sql("UPDATE orgmirrorconfig SET external_namespace = 'ada'");
    let report = it.sync();
    assert_eq!(report["error"], json!(null), "{report}");
    assert_eq!(it.catalogue.authorizations(), [None, None, None]);
    it.sync();
    assert_eq!(
        it.catalogue.listed(),
        [
            "/api/v1/organization/ada",
            "/api/v1/users/ada",
            "/api/v1/repository?namespace=ada&public=true",
        ]
    );
}

/// By name and password; names may have slashes.
#[test]
fn harbor_lists_its_repositories() {
    let it = Following::new(Api::Harbor);
    it.shelve(&["app", "nested/deep", "web"]);
    it.catalogue.page(2);
    let basic = format!("Basic {}", BASE64_STANDARD.encode("ada:hunter2"));
    it.catalogue.wants(&basic);
    it.credentials(Some("ada"), "hunter2");
    let report = it.sync();
    assert_eq!(report["error"], json!(null), "{report}");
    let asked = it.catalogue.listed();
    let page = |number| format!("/api/v2.0/projects/team/repositories?page={number}&page_size=100");
    assert_eq!(asked, [page(1), page(2)]);
    assert_eq!(it.rows(), ["app|1|3|-", "nested/deep|1|3|-", "web|1|3|-"]);
    let names: Vec<String> = it.tags().into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names, ["app", "nested/deep", "web"]);
}

/// What is gone, or not meant any more, is not followed, and is again when it comes back. What was
/// copied stays. A source that shows nothing at all changes nothing.
#[test]
fn repositories_go_and_come_back() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app", "web", "db"]);
    it.sync();
    assert_eq!(it.tags().len(), 3);

    it.catalogue.has(&["app", "db"]);
    it.sql("UPDATE orgmirrorconfig SET repository_filters = '[\"[!d]*\"]'");
    let plan = it.quay("sync", &["acme", "--dry-run", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let found = json!({"new": [], "again": [], "skip": ["db", "web"], "known": ["app"]});
    assert_eq!((&plan["found"], &plan["repositories"]["app"]["unchanged"]), (&found, &json!(1)));
    assert_eq!(it.rows(), ["app|1|3|-", "db|1|3|-", "web|1|3|-"]);
    let report = it.sync();
    assert_eq!(report["skipped"], 2, "{report}");
    assert_eq!(
        it.rows(),
        [
            "app|1|3|-",
            "db|4|0|Repository excluded by filters",
            "web|4|0|Repository no longer in source registry",
        ]
    );
    assert_eq!(it.tags().len(), 3);

    it.catalogue.has(&[]);
    let report = it.sync();
    assert_eq!((&report["error"], &report["skipped"]), (&json!(null), &json!(0)), "{report}");
    assert_eq!(it.rows()[0], "app|1|3|-");

    it.catalogue.has(&["app", "web", "db"]);
    it.sql("UPDATE orgmirrorconfig SET repository_filters = '[]'");
    let report = it.sync();
    assert_eq!(report["scheduled"], 3, "{report}");
    assert_eq!(it.rows(), ["app|1|3|-", "db|1|3|-", "web|1|3|-"]);
}

/// One that has its day fills what is new and what was cancelled; one that was asked for fills all.
#[test]
fn what_is_filled_and_when() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app", "web", "db"]);
    it.sync();
    let far = "'2126-01-01 00:00:00'";
    let prepared = |it: &Following| {
        it.sql(&format!("UPDATE orgmirrorrepository SET sync_start_date = {far}, sync_status = 1"));
        it.sql(
            "UPDATE orgmirrorrepository SET sync_status = -2, sync_start_date = NULL, \
                 sync_retries_remaining = 0 WHERE repository_name = 'web'",
        );
        it.sql(
            "UPDATE orgmirrorconfig SET sync_status = 1, sync_start_date = '2026-01-01 00:00:00'",
        );
    };
    let syncs = |it: &Following| {
        let log = it.log().into_iter().filter(|(kind, _, metadata)| {
            kind == "org_mirror_sync_success" && metadata["repo"].is_string()
        });
        log.map(|(_, _, metadata)| metadata["repo"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let until = |it: &Following, count: usize| {
        crate::support::eventually(
            || (syncs(it).len() == count).then_some(()),
            || format!("{:?} {:?}", it.rows(), it.kinds()),
        );
    };
    prepared(&it);
    let worker = crate::mirroring::worker::Worker::on(&it.world.conf);
    until(&it, 4);
    assert_eq!(syncs(&it)[3..], ["web"]);
    worker.stop();
    prepared(&it);
    it.sync_now();
    let worker = crate::mirroring::worker::Worker::on(&it.world.conf);
    until(&it, 7);
    worker.stop();
    let mut all = syncs(&it)[4..].to_vec();
    all.sort_unstable();
    assert_eq!(all, ["app", "db", "web"]);
}

/// Nothing is known then: nobody loses a repository, it is said why, and it is tried again.
#[test]
fn what_cannot_be_listed() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.sync();
    let rows = it.rows();
    it.catalogue.wants("Bearer another");
    let failed = |words: &str| {
        let report = it.sync();
        let error = report["error"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(error.contains(words), "{error}");
        assert_eq!(it.rows(), rows);
        let log = it.log();
        let (kind, by_robot, metadata) = log.last().unwrap();
        assert_eq!((kind.as_str(), by_robot), ("org_mirror_sync_failed", &true));
        assert_eq!(metadata["external_namespace"], "team");
        let message = metadata["message"].as_str().unwrap().to_owned();
        assert!(!message.contains("t0ken"), "{message}");
        message
    };
    it.credentials(None, "t0ken-of-nobody");
    let message = failed("401 Unauthorized");
    assert!(message.starts_with("Failed to fetch repositories from source: "), "{message}");
    assert_eq!(it.state(), "-1|2");
    it.catalogue.wants("Bearer t0ken-of-nobody");

    // Somebody else's host is never told the token.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let location = other.local_addr().unwrap();
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{location}/api/v1/repository\r\n");
    it.catalogue.fail("/api/v1/repository?", 1, &redirect);
    failed("302 Found, a redirect, which is not followed");
    assert_eq!(other.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(it.state(), "-1|1");

    // No retry is left: it waits for its next moment.
    it.catalogue.fail("/api/v1/organization/", 1, "HTTP/1.1 403 Forbidden\r\n");
    failed("403 Forbidden");
    assert_eq!(it.state(), "-1|3");
    let now = chrono::Utc::now().naive_utc().to_string();
    let later = format!("SELECT count(*) FROM orgmirrorconfig WHERE sync_start_date > '{now}'");
    assert_eq!(it.sql(&later), "1");

    it.sql("UPDATE orgmirrorconfig SET external_registry_password = 'v0$$not'");
    let message = failed("does not decrypt");
    assert!(message.starts_with("Failed to decrypt source registry credentials: "), "{message}");
    it.credentials(None, "t0ken-of-nobody");
    it.sql("UPDATE orgmirrorconfig SET external_registry_type = 3");
    let message = failed("neither Harbor (1) nor Quay (2)");
    assert!(message.starts_with("Failed to create registry adapter: "), "{message}");
}

/// It waits as long as it is told, and asks again; other failures of a moment too.
#[test]
fn a_source_that_is_busy() {
    let it = Following::new(Api::Harbor);
    it.shelve(&["app"]);
    it.catalogue.fail("/api/v2.0/", 1, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n");
    it.catalogue.fail("/api/v2.0/", 1, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\n");
    let began = std::time::Instant::now();
    let report = it.sync();
    assert_eq!((&report["error"], &report["requests"]), (&json!(null), &json!(3)), "{report}");
    assert!(began.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(it.catalogue.listed().len(), 3);
    assert_eq!(it.rows(), ["app|1|3|-"]);
}

/// One that never ends its list is given up.
#[test]
fn a_source_that_takes_too_long() {
    let mut it = Following::new(Api::Harbor);
    it.world.configure("ORG_MIRROR_MAX_DISCOVERY_DURATION", json!(1));
    it.catalogue.hold("/api/v2.0/");
    let report = it.sync();
    let error = report["error"].as_str().unwrap_or_else(|| panic!("{report}"));
    assert!(error.contains("within 1 s (ORG_MIRROR_MAX_DISCOVERY_DURATION)"), "{error}");
    assert_eq!(it.state(), "-1|2");
}

/// An address inside is asked nothing, whatever its URL says.
#[test]
fn a_source_that_is_inside() {
    let mut it = Following::new(Api::Harbor);
    it.world.configure("SSRF_ALLOWED_HOSTS", json!(null));
    let port = it.catalogue.port;
    for host in ["127.0.0.1", "localhost"] {
        it.sql(&format!(
            "UPDATE orgmirrorconfig SET external_registry_url = 'http://{host}:{port}'"
        ));
        let report = it.sync();
        let error = report["error"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(error.contains("SSRF_ALLOWED_HOSTS"), "{error}");
    }
    for url in ["ftp://registry.example", "http://ada:hunter2@registry.example", "registry.example"]
    {
        it.sql(&format!("UPDATE orgmirrorconfig SET external_registry_url = '{url}'"));
        let report = it.sync();
        let error = report["error"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(error.contains("the registry's URL") && !error.contains("hunter2"), "{error}");
    }
    assert!(it.catalogue.listed().is_empty());
    assert!(it.rows().is_empty());
}

/// What the command says to people.
#[test]
fn the_command_says_what_is_wrong() {
    let mut it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    let status = text(&it.quay("status", &[]).stdout);
    assert!(
        status.contains("acme  NEVER_RUN") && status.contains("repositories: none"),
        "{status}"
    );
    let dry = text(&it.quay("sync", &["acme", "--dry-run"]).stdout);
    assert!(dry.contains("follow    app: 1 to copy, 0 to delete, 0 unchanged; "), "{dry}");
    assert!(it.rows().is_empty() && it.tags().is_empty());
    it.catalogue.has(&["app", "App!"]);
    let dry = it.quay("sync", &["acme", "--dry-run"]);
    let said = text(&dry.stdout);
    assert!(said.contains("App!: no repository can have this name here"), "{said}");
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");
    it.catalogue.has(&["app"]);
    let out = text(&it.quay("sync", &["acme"]).stdout);
    assert!(out.contains("acme/app: 1 tags: 1 copied") && out.contains("1 new"), "{out}");
    let status = text(&it.quay("status", &[]).stdout);
    assert!(status.contains("acme  SUCCESS") && status.contains("1 SUCCESS"), "{status}");

    let unknown = it.quay("sync", &["nobody"]);
    assert!(text(&unknown.stderr).contains("no organization that follows"), "{unknown:?}");
    it.sql("UPDATE orgmirrorconfig SET sync_status = 2, sync_expiration_date = '2126-01-01'");
    let held = it.quay("sync", &["acme"]);
    assert!(text(&held.stderr).contains("right now"), "{held:?}");
    it.world.configure("FEATURE_ORG_MIRROR", json!(null));
    let off = it.quay("sync", &["acme"]);
    assert!(text(&off.stderr).contains("FEATURE_ORG_MIRROR is not true"), "{off:?}");
    let status = text(&it.quay("status", &[]).stdout);
    assert!(!status.contains("acme"), "{status}");
}
