//! What is stored is counted as Quay counts it, and held to quotas as Quay holds it.

use futures_util::future::join_all;
use serde_json::json;

use super::{REPO, Registryd, StatusCode, World, image, refusal};
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};
use crate::support::postgres::psql;
use crate::support::{Database, Pusher, eventually, on_sqlite, postgres_only};

const NEIGHBOUR: &str = "demo/private";

/// A registry that counts.
fn counting() -> World {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_QUOTA_MANAGEMENT", json!(true));
    world
}

fn pusher<'a>(registryd: &'a Registryd, world: &World, repo: &str) -> Pusher<'a> {
    Pusher::of(registryd, world, &world.ada, repo)
}

fn demo(world: &World) -> String {
    world.database.sql("SELECT id FROM \"user\" WHERE username = 'demo'")
}

/// A private repository with nothing in it.
fn new_repository(world: &World, namespace: &str, name: &str) {
    world.database.sql(&format!(
        "INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id,
             trust_enabled, state)
         SELECT n.id, '{name}', v.id, '{name}', k.id, false, 0
         FROM \"user\" n, visibility v, repositorykind k
         WHERE n.username = '{namespace}' AND v.name = 'private' AND k.name = 'image'"
    ));
}

/// What Quay's worker sums up.
fn sum(of: &str) -> String {
    format!(
        "(SELECT CAST(coalesce(sum(s.image_size), 0) AS bigint) FROM imagestorage s WHERE s.id IN (
             SELECT b.blob_id FROM manifestblob b JOIN repository x ON x.id = b.repository_id
             WHERE {of}))"
    )
}

/// As Quay's worker leaves the counts.
fn backfill(world: &World) {
    world.database.sql(&format!(
        "INSERT INTO quotanamespacesize
             (namespace_user_id, size_bytes, backfill_start_ms, backfill_complete)
         SELECT n.id, {}, 1, true FROM \"user\" n WHERE NOT n.robot;
         INSERT INTO quotarepositorysize
             (repository_id, size_bytes, backfill_start_ms, backfill_complete)
         SELECT r.id, {}, 1, true FROM repository r",
        sum("x.namespace_user_id = n.id"),
        sum("x.id = r.id"),
    ));
}

/// Every count that is not what Quay's worker would sum up.
fn wrong(world: &World) -> String {
    let namespaces = sum("x.namespace_user_id = c.namespace_user_id");
    let repositories = sum("x.id = c.repository_id");
    world.database.sql(&format!(
        "SELECT n.username, c.size_bytes, {namespaces} FROM quotanamespacesize c
             JOIN \"user\" n ON n.id = c.namespace_user_id WHERE c.size_bytes <> {namespaces}
         UNION ALL SELECT r.name, c.size_bytes, {repositories} FROM quotarepositorysize c
             JOIN repository r ON r.id = c.repository_id WHERE c.size_bytes <> {repositories}"
    ))
}

/// The counts of a namespace and its repositories: size, when they were begun, whether complete.
fn counts(world: &World, namespace: &str) -> String {
    world.database.sql(&format!(
        "SELECT 'all', c.size_bytes, c.backfill_start_ms, c.backfill_complete
             FROM quotanamespacesize c JOIN \"user\" n ON n.id = c.namespace_user_id
             WHERE n.username = '{namespace}';
         SELECT r.name, c.size_bytes, c.backfill_start_ms, c.backfill_complete
             FROM quotarepositorysize c JOIN repository r ON r.id = c.repository_id
             JOIN \"user\" n ON n.id = r.namespace_user_id
             WHERE n.username = '{namespace}' ORDER BY r.id"
    ))
}

fn counted(world: &World) -> u64 {
    let demo = demo(world);
    let size =
        format!("SELECT size_bytes FROM quotanamespacesize WHERE namespace_user_id = {demo}");
    world.database.sql(&size).parse().unwrap()
}

fn layer(text: &str) -> Blob {
    Blob::layer(OCI_LAYER, &[("hello", text)])
}

fn bytes(image: &Manifest) -> usize {
    image.blobs.iter().map(|blob| blob.bytes.len()).sum()
}

/// A quota of the namespace `demo`, with limits in percent.
fn quota(world: &World, bytes: u64, limits: &[(&str, i32)]) {
    let demo = demo(world);
    world.database.sql(&format!(
        "DELETE FROM quotalimits; DELETE FROM userorganizationquota;
         INSERT INTO userorganizationquota (namespace_id, limit_bytes) VALUES ({demo}, {bytes})"
    ));
    for (kind, percent) in limits {
        world.database.sql(&format!(
            "INSERT INTO quotalimits (quota_id, quota_type_id, percent_of_limit)
             SELECT q.id, t.id, {percent} FROM userorganizationquota q, quotatype t
             WHERE t.name = '{kind}'"
        ));
    }
}

/// Who was told what, in Quay's pages.
fn told(world: &World) -> Vec<String> {
    let rows = world.database.sql(
        "SELECT k.name, u.username, n.metadata_json, n.dismissed, n.lookup_path, length(n.uuid)
         FROM notification n JOIN notificationkind k ON k.id = n.kind_id
         JOIN \"user\" u ON u.id = n.target_id ORDER BY n.id",
    );
    rows.lines().map(str::to_owned).collect()
}

const REFUSED: (u16, &str, &str) = (403, "DENIED", "Quota has been exceeded on namespace");

#[track_caller]
fn assert_refused(refusal: (u16, String, String)) {
    assert_eq!((refusal.0, refusal.1.as_str(), refusal.2.as_str()), REFUSED);
}

#[tokio::test]
async fn counts_are_what_quays_worker_would_sum_up() {
    let world = counting();
    backfill(&world);
    let registryd = world.registryd();
    let (pusher, neighbour) =
        (pusher(&registryd, &world, REPO), pusher(&registryd, &world, NEIGHBOUR));
    let before = counted(&world);
    let shared = layer("shared");
    let one = Manifest::oci("amd64", vec![shared.clone(), layer("one")]);
    let two = Manifest::oci("amd64", vec![shared.clone(), layer("two"), shared.clone()]);
    pusher.push("one", &one).await;
    assert_eq!(counted(&world) - before, bytes(&one) as u64);
    assert_eq!(wrong(&world), "");
    // What was there counts once: in the repository, in the namespace, and under another tag.
    pusher.push("two", &two).await;
    neighbour.push("two", &two).await;
    assert_eq!(pusher.put("again", &one).await.status(), StatusCode::CREATED);
    assert_eq!(wrong(&world), "");
    // By digest too; an index has no bytes of its own.
    let three = Manifest::oci("amd64", vec![shared.clone(), layer("three")]);
    neighbour.prepare(&three).await;
    assert_eq!(neighbour.put(&three.digest, &three).await.status(), StatusCode::CREATED);
    let now = counted(&world);
    neighbour.push("index", &Manifest::index(vec![("amd64", three)])).await;
    assert_eq!((counted(&world), wrong(&world).as_str()), (now, ""));
    // What is deleted counts until it is collected.
    assert_eq!(pusher.delete("two").await.status(), StatusCode::ACCEPTED);
    assert_eq!((counted(&world), wrong(&world).as_str()), (now, ""));
}

#[tokio::test]
async fn first_pushes_begin_a_count() {
    let world = counting();
    for (namespace, name) in [("ada", "first"), ("ada", "second"), ("demo", "fresh")] {
        new_repository(&world, namespace, name);
    }
    let registryd = world.registryd();
    let (one, two) = (image("one"), image("two"));
    pusher(&registryd, &world, "ada/first").push("a", &one).await;
    let size = bytes(&one);
    assert_eq!(counts(&world, "ada"), format!("all|{size}|0|t\nfirst|{size}|0|t"));
    pusher(&registryd, &world, "ada/second").push("a", &one).await;
    pusher(&registryd, &world, "ada/second").push("b", &two).await;
    assert_eq!(wrong(&world), "");
    assert_eq!(counts(&world, "ada").lines().count(), 3);
    // Where others are that nobody has counted, they are the worker's to count.
    pusher(&registryd, &world, REPO).push("a", &one).await;
    assert_eq!(counts(&world, "demo"), "");
    pusher(&registryd, &world, "demo/fresh").push("a", &one).await;
    assert_eq!(counts(&world, "demo"), format!("fresh|{size}|0|t"));
}

#[tokio::test]
async fn a_count_that_is_being_made_is_left_alone() {
    let world = counting();
    backfill(&world);
    for begun in ["5", "NULL"] {
        for table in ["quotanamespacesize", "quotarepositorysize"] {
            world.database.sql(&format!(
                "UPDATE {table} SET size_bytes = 0, backfill_start_ms = {begun},
                 backfill_complete = false"
            ));
        }
        let before = counts(&world, "demo");
        let registryd = world.registryd();
        pusher(&registryd, &world, REPO).push("a", &image(begun)).await;
        assert_eq!(counts(&world, "demo"), before, "{begun}");
    }
}

/// Through two processes, with a layer that all of them have: each byte counts once.
#[tokio::test]
async fn pushers_at_once() {
    let world = counting();
    new_repository(&world, "ada", "race");
    new_repository(&world, "ada", "other");
    let processes = [world.registryd(), world.registryd()];
    let shared = layer("shared");
    let images: Vec<Manifest> = (0..8)
        .map(|i| Manifest::oci("amd64", vec![shared.clone(), layer(&format!("racer {i}\n"))]))
        .collect();
    let repositories = ["ada/race", "ada/other"];
    for repository in repositories {
        for image in &images {
            pusher(&processes[0], &world, repository).prepare(image).await;
        }
    }
    let pushers: Vec<Pusher<'_>> =
        (0..4).map(|i| pusher(&processes[i % 2], &world, repositories[i / 2])).collect();
    let pushes = images.iter().enumerate().flat_map(|(i, image)| {
        pushers.iter().map(move |pusher| async move {
            // An untagged push takes no turn with the others of its repository.
            let reference = if i % 2 == 0 { "t" } else { &image.digest };
            pusher.put(reference, image).await
        })
    });
    for answer in join_all(pushes).await {
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    assert_eq!(counts(&world, "ada").lines().count(), 3, "{}", counts(&world, "ada"));
    assert_eq!(wrong(&world), "");
}

/// Python adds to the same count at the same time, and neither is lost.
#[tokio::test]
async fn what_python_counts_meanwhile_is_not_lost() {
    let world = counting();
    let Database::Postgres(database) = &world.database else {
        postgres_only("two writers at once");
        return;
    };
    backfill(&world);
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world, REPO);
    let image = image("meanwhile");
    pusher.prepare(&image).await;
    let before = counted(&world);
    let python = database.connect().await;
    let add = format!(
        "BEGIN; UPDATE quotanamespacesize SET size_bytes = size_bytes + 1000
         WHERE namespace_user_id = {}",
        demo(&world)
    );
    python.batch_execute(&add).await.unwrap();
    let push = pusher.put("t", &image);
    let commits = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock'";
        let uri = database.uri().to_owned();
        let seen = move || (psql(&uri, waiting) == "1").then_some(());
        let wait = move || eventually(seen, || "nobody waits".to_owned());
        tokio::task::spawn_blocking(wait).await.unwrap();
        python.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(push, commits);
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(counted(&world), before + 1000 + bytes(&image) as u64);
}

#[tokio::test]
async fn a_warning_tells_the_administrators_once() {
    let world = counting();
    backfill(&world);
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world, REPO);
    // bob is one of the owners too; a robot in the team is told nothing.
    world.database.sql(
        "INSERT INTO teammember (user_id, team_id) SELECT u.id, t.id FROM \"user\" u, team t
         WHERE t.name = 'owners' AND u.username IN ('bob', 'demo+puller')",
    );
    quota(&world, counted(&world) + 1, &[("Warning", 90), ("Reject", 1000)]);
    pusher.push("one", &image("one")).await;
    pusher.push("two", &image("two")).await;
    let row = |who: &str| format!(r#"quota_warning|{who}|{{"namespace": "demo"}}|f||36"#);
    assert_eq!(told(&world), [row("ada"), row("bob")]);
}

#[tokio::test]
async fn a_quota_that_is_used_up_refuses_uploads() {
    let world = counting();
    backfill(&world);
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world, REPO);
    let room = 10_000;
    quota(&world, counted(&world) + room, &[("Reject", 100), ("Warning", 1)]);
    // Below the limit, an upload begins and goes on; its own bytes count while it lasts.
    let (first, second) = (pusher.start().await, pusher.start().await);
    let answer = pusher.patch(&first, vec![1; room as usize]).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let uploads = || world.database.sql("SELECT uuid FROM blobupload ORDER BY id");
    assert_eq!(uploads(), format!("{first}\n{second}"));
    assert_refused(refusal(pusher.patch(&second, "more").await).await);
    assert_eq!(uploads(), first);
    let digest = digest_of(&vec![1; room as usize]);
    assert_refused(refusal(pusher.finish(&first, &digest, "").await).await);
    assert_eq!(uploads(), "");
    let files = std::fs::read_dir(world.storage.join("uploads")).unwrap().count();
    assert_eq!(files, 0, "nothing is left of them");
    // It is as if they had never been, and another repository's uploads do not count here.
    pusher.blob("small").await;
    quota(&world, counted(&world), &[("Reject", 100)]);
    for path in ["blobs/uploads/".to_owned(), format!("blobs/uploads/?digest={digest}")] {
        let answer = pusher.send(reqwest::Method::POST, &path, &[], "").await;
        assert_refused(refusal(answer).await);
    }
    let mount = format!("blobs/uploads/?mount={digest}&from={NEIGHBOUR}");
    assert_refused(refusal(pusher.send(reqwest::Method::POST, &mount, &[], "").await).await);
    assert_eq!(
        told(&world),
        [r#"quota_error|ada|{"severity": "Reject", "namespace": "demo"}|f||36"#]
    );
    // Other namespaces are not held to it.
    new_repository(&world, "ada", "own");
    self::pusher(&registryd, &world, "ada/own").blob("free").await;
}

/// As in Quay: the manifest stays, without its tag, for the garbage collector, and counts until then.
#[tokio::test]
async fn a_quota_that_is_used_up_refuses_manifests() {
    let world = counting();
    backfill(&world);
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world, REPO);
    let (known, image) = (image("known"), image("too much"));
    pusher.push("known", &known).await;
    pusher.prepare(&image).await;
    quota(&world, counted(&world) + 1, &[("Reject", 100)]);
    assert_refused(refusal(pusher.put("new", &image).await).await);
    assert_eq!(pusher.manifest("new").await, Err(404));
    assert_eq!(wrong(&world), "");
    let tags = |digest: &str| {
        world.database.sql(&format!(
            "SELECT substr(t.name, 1, 6), t.lifetime_end_ms, t.hidden, t.immutable FROM manifest m
             JOIN tag t ON t.manifest_id = m.id WHERE m.digest = '{digest}' ORDER BY t.id"
        ))
    };
    assert_eq!(tags(&image.digest), "$temp-|0|t|f");
    // Nor may what is there have another tag; nobody hears of the push.
    assert_refused(refusal(pusher.put("new", &known).await).await);
    assert_eq!(tags(&known.digest), "known||f|f");
    assert_eq!(world.database.sql("SELECT count(*) FROM logentry3"), "1");
    assert_eq!(told(&world), [r#"quota_error|ada|{"namespace": "demo"}|f||36"#]);
    // By digest it is not asked, as in Quay.
    assert_eq!(pusher.put(&known.digest, &known).await.status(), StatusCode::CREATED);
    // With room again it is pushed.
    quota(&world, 1 << 40, &[("Reject", 100)]);
    assert_eq!(pusher.put("new", &image).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("new").await.unwrap().1, image.bytes);
    assert_eq!(wrong(&world), "");
}

#[tokio::test]
async fn quotas_of_the_system_and_none_at_all() {
    let mut world = counting();
    backfill(&world);
    let used = counted(&world);
    let uploads = async |world: &World| {
        let registryd = world.registryd();
        let answer = pusher(&registryd, world, REPO)
            .send(reqwest::Method::POST, "blobs/uploads/", &[], "")
            .await;
        answer.status().as_u16()
    };
    assert_eq!(uploads(&world).await, 202, "no quota");
    world.configure("DEFAULT_SYSTEM_REJECT_QUOTA_BYTES", json!(used));
    assert_eq!(uploads(&world).await, 403);
    world.configure("DEFAULT_SYSTEM_REJECT_QUOTA_BYTES", json!(used + 1));
    assert_eq!(uploads(&world).await, 202);
    quota(&world, 1, &[("Reject", 100)]);
    assert_eq!(uploads(&world).await, 403, "its own counts, not the system's");
    world.configure("FEATURE_VERIFY_QUOTA", json!(false));
    assert_eq!(uploads(&world).await, 202, "nobody looks");
}

/// The channels of a namespace: once a limit and day, by whoever comes first.
#[tokio::test]
async fn channels_are_told() {
    let mut world = counting();
    backfill(&world);
    world.configure("FEATURE_QUOTA_NOTIFICATIONS", json!(true));
    let (used, demo) = (counted(&world), demo(&world));
    quota(&world, used, &[("Warning", 50), ("Reject", 1000)]);
    world.database.sql(&format!(
        "INSERT INTO namespacenotification (uuid, namespace_id, event_id, method_id, config_json,
             event_config_json, number_of_failures)
         SELECT 'the-uuid', {demo}, e.id, m.id, '{{}}', '{{}}', 0
         FROM externalnotificationevent e, externalnotificationmethod m
         WHERE e.name = 'quota_warning'"
    ));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world, REPO);
    let starts = || join_all((0..4).map(|_| pusher.start()));
    let items = || {
        world.database.sql("SELECT queue_name, body, retries_remaining FROM queueitem ORDER BY id")
    };
    starts().await;
    let (host, size) = (&world.hostname, format!("{:.2} KB", used as f64 / 1024.0));
    let expected = format!(
        r#"notification/demo/quota_warning/|{{"notification_uuid": "the-uuid", "event_data": {{"namespace": "demo", "homepage": "http://{host}/organization/demo", "threshold_percent": 50, "usage_bytes": {used}, "limit_bytes": {used}, "usage_percent": 100, "usage_bytes_formatted": "{size}", "limit_bytes_formatted": "{size}"}}, "performer_data": {{"entity_id": {}, "entity_name": "ada"}}, "notification_type": "namespace"}}|5"#,
        world.ada.id
    );
    assert_eq!(items(), expected);
    assert_eq!(
        world
            .database
            .sql("SELECT namespace_id, threshold_percent, cleared FROM quotanotificationstate"),
        format!("{demo}|50|f")
    );
    // Once more after a day, or when Quay's worker has seen the namespace below the limit.
    for change in ["cleared = true", "last_notified_at = '2020-01-01 00:00:00'"] {
        world
            .database
            .sql(&format!("DELETE FROM queueitem; UPDATE quotanotificationstate SET {change}"));
        starts().await;
        assert_eq!(items(), expected, "{change}");
    }
    // Nobody is told of what no channel is for, and it may be told later.
    world.database.sql(
        "DELETE FROM queueitem; DELETE FROM namespacenotification;
        DELETE FROM quotanotificationstate",
    );
    starts().await;
    assert_eq!(world.database.sql("SELECT count(*) FROM quotanotificationstate"), "0");
    // And no push depends on it.
    world.database.sql("DROP TABLE namespacenotification");
    starts().await;
    assert_eq!(items(), "");
}

/// What cannot be counted fails the push, unless the operator has it otherwise.
#[tokio::test]
async fn failures_of_counting() {
    for (suppressed, expected) in [(false, 500), (true, 201)] {
        let mut world = counting();
        backfill(&world);
        world.configure("FEATURE_QUOTA_SUPPRESS_FAILURES", json!(suppressed));
        // The first count is changed, the second fails.
        world.database.sql(if on_sqlite() {
            "CREATE TRIGGER no BEFORE UPDATE ON quotarepositorysize
             BEGIN SELECT RAISE(ABORT, 'no'); END"
        } else {
            "CREATE FUNCTION no() RETURNS trigger AS
             $$BEGIN RAISE EXCEPTION 'no'; END$$ LANGUAGE plpgsql;
             CREATE TRIGGER no BEFORE UPDATE ON quotarepositorysize
             FOR EACH ROW EXECUTE FUNCTION no()"
        });
        let before = counts(&world, "demo");
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world, REPO);
        let image = image("uncounted");
        pusher.prepare(&image).await;
        assert_eq!(pusher.put("t", &image).await.status().as_u16(), expected);
        assert_eq!(counts(&world, "demo"), before, "{suppressed}");
        assert_eq!(pusher.manifest("t").await.is_ok(), suppressed);
    }
}

/// Where nothing is counted, nothing is asked (see `rows` for manifests).
#[tokio::test]
async fn statements_of_uploads() {
    for (counted, expected) in [(false, 1.0), (true, 2.0)] {
        let mut world = World::with_own_storage();
        world.configure("FEATURE_QUOTA_MANAGEMENT", json!(counted));
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world, REPO);
        pusher.start().await;
        let statements = || registryd.metric("db_statements_total{route=\"uploads\"}");
        let before = statements();
        pusher.start().await;
        assert_eq!(statements() - before, expected, "{counted}");
    }
}
