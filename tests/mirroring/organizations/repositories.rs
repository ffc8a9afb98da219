//! The repositories of an organization: made, linked, filled, and what keeps them from it.

use serde_json::json;

use super::catalogue::Api;
use super::{Following, image};

/// Made by the robot, private or public as the organization has it, and filled; rows as Python's
/// worker leaves them, in its words.
#[test]
fn repositories_are_made_and_filled() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.source.push_to("team/app", "v1", &image("v1"));
    let report = it.sync();
    assert_eq!(report["repositories"]["app"]["copied"], 2, "{report}");
    let latest = ("app".to_owned(), "latest".to_owned(), image("app").digest);
    let v1 = ("app".to_owned(), "v1".to_owned(), image("v1").digest);
    assert_eq!(it.tags(), [latest, v1]);

    let made = it.sql(
        "SELECT r.state, v.name, k.name, u.username, ro.name FROM repository r \
         JOIN visibility v ON v.id = r.visibility_id JOIN repositorykind k ON k.id = r.kind_id \
         JOIN repositorypermission p ON p.repository_id = r.id \
         JOIN \"user\" u ON u.id = p.user_id JOIN role ro ON ro.id = p.role_id \
         JOIN orgmirrorrepository m ON m.repository_id = r.id WHERE r.name = 'app'",
    );
    assert_eq!(made, "4|private|image|acme+mirror|admin");
    let others = "SELECT (SELECT count(*) FROM repositoryactioncount c WHERE c.repository_id = r.id), \
                  (SELECT count(*) FROM repositorysearchscore s WHERE s.repository_id = r.id) \
                  FROM repository r JOIN orgmirrorrepository m ON m.repository_id = r.id";
    assert_eq!(it.sql(others), "1|1");
    let left = it.sql(
        "SELECT count(*) FROM orgmirrorrepository WHERE last_sync_date IS NOT NULL \
         AND sync_expiration_date IS NULL AND sync_start_date > last_sync_date",
    );
    assert_eq!(left, "1");

    let log = it.log();
    let kinds: Vec<&str> = log.iter().map(|(kind, _, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "org_mirror_sync_started",
            "org_mirror_sync_success",
            "org_mirror_sync_started",
            "org_mirror_repo_created",
            "push_repo",
            "push_repo",
            "org_mirror_sync_success",
        ]
    );
    let by_robot: Vec<bool> = log.iter().map(|(_, by_robot, _)| *by_robot).collect();
    assert_eq!(by_robot, [true, true, false, true, true, true, false]);
    let id: i32 = it.sql("SELECT id FROM orgmirrorconfig").parse().unwrap();
    let url = format!("http://127.0.0.1:{}", it.catalogue.port);
    assert_eq!(
        log[0].2,
        json!({"message": "Starting repository discovery for organization 'acme'",
               "org_mirror_config_id": id, "external_registry_url": url,
               "external_namespace": "team"})
    );
    assert_eq!(log[1].2["message"], "Discovery completed: 1 repos discovered, 1 new");
    let reference = it.reference("app");
    assert_eq!(
        log[2].2,
        json!({"verb": "start", "namespace": "acme", "repo": "app",
               "message": format!("Starting sync for '{reference}'"), "tag": null, "tags": null,
               "stdout": null, "stderr": null})
    );
    assert_eq!(
        log[3].2,
        json!({"external_reference": reference, "visibility": "private", "via_org_mirror": true})
    );
    assert_eq!(
        log[6].2,
        json!({"verb": "end", "namespace": "acme", "repo": "app",
               "message": format!("Successfully synced '{reference}': 2 tags"), "tag": null,
               "tags": "latest, v1", "stdout": null, "stderr": null})
    );

    // Nothing has moved: a request for each tag, one for their names.
    let report = it.sync();
    let app = &report["repositories"]["app"];
    assert_eq!((&app["unchanged"], &app["requests"]["head"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!((&app["requests"]["manifest"], &app["requests"]["blob"]), (&json!(0), &json!(0)));
    // What the source has no longer stays, as in Quay.
    it.source.push_to("team/app", "v2", &image("v2"));
    it.source.untag("v1");
    it.sql(
        "UPDATE orgmirrorconfig SET visibility_id = \
            (SELECT id FROM visibility WHERE name = 'public')",
    );
    it.shelve(&["app", "web"]);
    it.sync();
    assert_eq!(it.tags().len(), 4);
    let visibility = it.sql(
        "SELECT r.name, v.name FROM repository r JOIN visibility v ON v.id = r.visibility_id \
         JOIN \"user\" n ON n.id = r.namespace_user_id WHERE n.username = 'acme' ORDER BY r.name",
    );
    assert_eq!(visibility, "app|private\nweb|public");
}

/// A layer that two of its repositories share is fetched for one of them.
#[test]
fn shared_layers_are_fetched_once() {
    let mut it = Following::new(Api::Quay);
    it.world.configure("QUAY_SIDECAR", json!({"repo_mirror_at_once": 1}));
    it.source.push_to("team/app", "latest", &image("same"));
    it.source.push_to("team/web", "latest", &image("same"));
    it.catalogue.has(&["app", "web"]);
    let report = it.sync();
    let blobs: i64 = ["app", "web"]
        .iter()
        .map(|name| report["repositories"][name]["requests"]["blob"].as_i64().unwrap())
        .sum();
    assert_eq!(blobs, image("same").blobs.len() as i64, "{report}");
    assert_eq!(it.tags().len(), 2);
}

/// One that is here already is linked and left as it is; whoever fills it has to be allowed to.
#[test]
fn a_repository_of_this_name_is_linked() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app", "web"]);
    let id = it.sql(
        "INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id, \
             trust_enabled, state) \
         SELECT n.id, 'app', v.id, 'badge', k.id, false, 0 FROM \"user\" n, visibility v, \
             repositorykind k \
         WHERE n.username = 'acme' AND v.name = 'public' AND k.name = 'image' RETURNING id",
    );
    let report = it.sync();
    let error = report["repositories"]["app"]["error"].as_str().unwrap();
    assert!(error.contains("no write permission on acme/app"), "{error}");
    let rows = it.rows();
    assert!(rows[0].starts_with("app|-1|2|Sync failed for '"), "{rows:?}");
    assert_eq!(rows[1], "web|1|3|-");
    it.sql(&format!(
        "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT {}, {id}, id FROM role WHERE name = 'write'",
        it.robot_id
    ));
    let report = it.sync();
    assert_eq!(report["repositories"]["app"]["copied"], 1, "{report}");
    assert_eq!(it.rows()[0], "app|1|3|-");
    let linked = "SELECT r.id, r.state FROM repository r \
                  JOIN orgmirrorrepository m ON m.repository_id = r.id WHERE r.name = 'app'";
    assert_eq!(it.sql(linked), format!("{id}|0"));
    let made = it.kinds().into_iter().filter(|kind| kind == "org_mirror_repo_created").count();
    assert_eq!(made, 1);
}

/// One that somebody has deleted here is made again.
#[test]
fn a_repository_that_is_being_deleted_is_made_again() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.sync();
    // As Quay marks one.
    it.sql("UPDATE repository SET state = 3, name = 'gone-1' WHERE name = 'app' AND state = 4");
    let report = it.sync();
    assert_eq!(report["repositories"]["app"]["copied"], 1, "{report}");
    assert_eq!(it.sql("SELECT count(*) FROM repository WHERE name = 'app' AND state = 4"), "1");
}

/// It is said so, and the others are filled. What is too long to be kept is left out.
#[test]
fn names_that_none_can_have() {
    let it = Following::new(Api::Harbor);
    it.shelve(&["app"]);
    it.catalogue.has(&["app", "Odd Name", &"x".repeat(300)]);
    let report = it.sync();
    assert_eq!(report["listed"], 2, "{report}");
    let rows = it.rows();
    assert_eq!(
        rows[0],
        "Odd Name|-1|2|Failed to create local repository for 'Odd Name': no repository can have \
         this name here"
    );
    assert_eq!(rows[1], "app|1|3|-");
    let log = it.log();
    let failed = log.iter().find(|(kind, _, _)| kind == "org_mirror_repo_creation_failed");
    let (_, by_robot, metadata) = failed.expect("it is in the log");
    assert!(by_robot);
    assert_eq!(metadata["external_reference"], it.reference("Odd Name"));
    assert_eq!(metadata["error"], "no repository can have this name here");
}

/// What fails is said, in its row and in the log; what worked stays; after the last retry it waits.
#[test]
fn what_cannot_be_copied() {
    let mut it = Following::new(Api::Quay);
    // What lies between two tries.
    it.world.configure("REPO_MIRROR_INTERVAL", json!(1));
    it.shelve(&["app", "empty"]);
    let broken = image("broken");
    it.source.push_to("team/app", "v9", &broken);
    it.source.lose(&broken.layers()[0].digest);
    let fails = |state: &str| {
        it.sync();
        let rows = it.rows();
        let expected = format!("app|-1|{state}|Sync failed: 1/2 tags failed; v9: ");
        assert!(rows[0].starts_with(&expected), "{rows:?}");
        let names: Vec<String> = it.tags().into_iter().map(|(_, tag, _)| tag).collect();
        assert_eq!(names, ["latest", "latest"]);
    };
    fails("2");
    let log = it.log();
    let failed = |(kind, _, metadata): &&(String, bool, serde_json::Value)| {
        kind == "org_mirror_sync_failed" && metadata["repo"] == "app"
    };
    let (_, by_robot, metadata) = log.iter().find(failed).expect("it is in the log");
    assert!(!by_robot);
    let about = format!("Sync failed for '{}': 1/2 tags failed", it.reference("app"));
    assert_eq!((&metadata["message"], &metadata["tags"]), (&json!(about), &json!("v9")));
    assert!(metadata["stderr"].as_str().unwrap().starts_with("[v9]: "), "{metadata}");

    // The worker tries until there are no tries left.
    let worker = crate::mirroring::worker::Worker::on(&it.world.conf);
    crate::support::eventually(
        || it.rows()[0].starts_with("app|-1|3|").then_some(()),
        || format!("{:?}", it.rows()),
    );
    worker.stop();
    let now = chrono::Utc::now().naive_utc().to_string();
    let later = format!(
        "SELECT count(*) FROM orgmirrorrepository WHERE sync_start_date > '{now}' \
         AND repository_name = 'app'"
    );
    assert_eq!(it.sql(&later), "1");

    it.catalogue.has(&["app", "empty", "nothing"]);
    it.sync();
    let rows = it.rows();
    let expected = format!("nothing|-1|2|Failed to list tags for '{}': ", it.reference("nothing"));
    assert!(rows[2].starts_with(&expected), "{rows:?}");
}
