//! Python, or another registryd, changes the same repository at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

use super::refusals::told;
use super::{Pusher, REPO, Registryd, StatusCode, World, image, pusher, until};
use crate::support::history;
use crate::support::images::Manifest;
use crate::support::{Database, on_sqlite, postgres_only};

/// Somebody else in the middle of a change. On PostgreSQL, by the lock around a repository's tags that
/// Python takes; on SQLite nobody writes meanwhile. Who reads sees nothing of it before it is done.
enum Other {
    Postgres(tokio_postgres::Client),
    Sqlite(rusqlite::Connection),
}

impl Other {
    async fn begin(world: &World) -> Other {
        let other = Other::without_lock(world).await;
        if let Other::Postgres(client) = &other {
            let hash = Sha256::digest(format!("retarget_tag:{}", world.nested.repo_id));
            let number = i64::from_be_bytes(hash[..8].try_into().unwrap());
            let lock = format!("SELECT pg_advisory_xact_lock({number})");
            client.batch_execute(&lock).await.unwrap();
        }
        other
    }

    /// As Python stores a manifest, before it comes to its tag.
    async fn without_lock(world: &World) -> Other {
        match &world.database {
            Database::Postgres(database) => {
                let client = database.connect().await;
                client.batch_execute("BEGIN").await.unwrap();
                Other::Postgres(client)
            }
            Database::Sqlite { file, .. } => {
                let connection = rusqlite::Connection::open(file).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                Other::Sqlite(connection)
            }
        }
    }

    async fn run(&self, statements: &str) {
        match self {
            Other::Postgres(client) => client.batch_execute(statements).await.unwrap(),
            Other::Sqlite(connection) => connection.execute_batch(statements).unwrap(),
        }
    }

    async fn end(self, statement: &str) {
        self.run(statement).await;
    }
}

/// Until registryd has looked at what is there, and waits for the other to be done.
async fn until_it_waits(registryd: &Registryd, world: &World, statements: f64) {
    let route = "db_statements_total{route=\"manifest_by_tag\"}";
    let waits = || match on_sqlite() {
        true => registryd.metric("db_pool_connections_in_use") > 0.0,
        false => {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
            world.database.sql(waiting) != "0"
        }
    };
    until(|| registryd.metric(route) >= statements && waits()).await;
}

/// What the other does while a push (of `image` as `t`) or a deletion (of `t`) waits.
async fn meanwhile(what: &Meanwhile) -> Outcome {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("contested");
    pusher.prepare(&image).await;
    for (tag, manifest) in &what.before {
        pusher.push(tag, manifest).await;
    }
    let other = Other::begin(&world).await;
    let before = registryd.metric("db_statements_total{route=\"manifest_by_tag\"}");
    let pushed = what.pushed.as_ref().unwrap_or(&image);
    let known = what.before.iter().any(|(_, manifest)| manifest.digest == pushed.digest);
    let (answer, ()) = tokio::join!(
        async {
            match what.deletes {
                true => pusher.delete("t").await,
                false => pusher.put("t", pushed).await,
            }
        },
        async {
            // What is named is looked up where the manifest is new.
            let reads = if what.deletes || known { 1.0 } else { 2.0 };
            until_it_waits(&registryd, &world, before + reads).await;
            let repository = world.nested.repo_id;
            other.run(&(what.change)(repository, &image)).await;
            other.end("COMMIT").await;
        }
    );
    let status = answer.status().as_u16();
    let detail = match status {
        400..500 => told(answer).await.2["message"].as_str().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    assert_eq!(history::broken(|sql| world.database.sql(sql)), "", "{}", what.name);
    assert_eq!(history::halves(|sql| world.database.sql(sql)), "", "{}", what.name);
    let tags = world.database.sql(&format!(
        "SELECT CASE WHEN t.hidden THEN '$temp' ELSE t.name END, substr(m.digest, 8, 6),
             CASE WHEN t.lifetime_end_ms IS NULL THEN 't' ELSE 'f' END
         FROM tag t JOIN manifest m ON m.id = t.manifest_id
         WHERE t.repository_id = {} AND t.name <> 'latest' ORDER BY t.id",
        world.nested.repo_id
    ));
    let manifests = world.database.sql(&format!(
        "SELECT count(*) FROM manifest WHERE digest = '{}' AND repository_id = {}",
        image.digest, world.nested.repo_id
    ));
    Outcome { status, detail, tags, manifests }
}

/// SQL, by the repository and the image.
type Change = Box<dyn Fn(i32, &Manifest) -> String>;

struct Meanwhile {
    name: &'static str,
    /// What is there before.
    before: Vec<(&'static str, Manifest)>,
    /// What is pushed, if it is not the image itself.
    pushed: Option<Manifest>,
    deletes: bool,
    change: Change,
}

#[derive(Debug)]
struct Outcome {
    status: u16,
    detail: String,
    tags: String,
    manifests: String,
}

fn short(manifest: &Manifest) -> &str {
    &manifest.digest[7..13]
}

/// As Python stores it, with its blobs.
fn insert_manifest(repository: i32, image: &Manifest) -> String {
    let digests: Vec<&str> = image.blobs.iter().map(|blob| blob.digest.as_str()).collect();
    format!(
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes,
             config_media_type, subject_backfilled, artifact_type_backfilled)
             SELECT {repository}, '{0}', id, '{1}', 'application/vnd.oci.image.config.v1+json',
                 true, true FROM mediatype WHERE name = '{2}';
         INSERT INTO manifestblob (repository_id, manifest_id, blob_id)
             SELECT {repository}, m.id, s.id FROM manifest m, imagestorage s
             WHERE m.digest = '{0}' AND m.repository_id = {repository}
             AND s.content_checksum IN ('{3}')",
        image.digest,
        std::str::from_utf8(&image.bytes).unwrap(),
        image.media_type,
        digests.join("', '"),
    )
}

fn end_tag(repository: i32, tag: &str) -> String {
    let now = chrono::Utc::now().timestamp_millis();
    format!(
        "UPDATE tag SET lifetime_end_ms = {now}
         WHERE repository_id = {repository} AND name = '{tag}' AND lifetime_end_ms IS NULL"
    )
}

fn insert_tag(repository: i32, tag: &str, digest: &str) -> String {
    let now = chrono::Utc::now().timestamp_millis();
    format!(
        "INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion,
             immutable, tag_kind_id)
         SELECT '{tag}', {repository}, m.id, {now}, false, false, false, k.id
         FROM manifest m, tagkind k WHERE m.digest = '{digest}' AND m.repository_id = {repository}
         AND k.name = 'tag'"
    )
}

/// As Quay's garbage collector does it.
fn collect(repository: i32, manifest: &Manifest) -> String {
    let of = format!(
        "IN (SELECT id FROM manifest WHERE repository_id = {repository} AND digest = '{}')",
        manifest.digest
    );
    let tables =
        ["tag", "manifestlabel", "manifestblob", "manifestchild", "manifestsecuritystatus"];
    let mut statements: Vec<String> =
        tables.iter().map(|table| format!("DELETE FROM {table} WHERE manifest_id {of}")).collect();
    statements.push(format!("DELETE FROM manifest WHERE id {of}"));
    statements.join("; ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_was_first() {
    let (old, ours) = (image("old"), image("contested"));
    let (was, is) = (short(&old), short(&ours));
    let old_digest = old.digest.clone();
    let table: [(Meanwhile, u16, &str, String, &str); 6] = [
        (
            Meanwhile {
                name: "stored the same manifest",
                before: vec![],
                pushed: None,
                deletes: false,
                change: Box::new(insert_manifest),
            },
            201,
            "",
            format!("$temp|{is}|f\nt|{is}|t"),
            "1",
        ),
        (
            Meanwhile {
                name: "stored it, and moved the tag to it",
                before: vec![("t", old.clone())],
                pushed: None,
                deletes: false,
                change: Box::new(|repository, image| {
                    let stored = insert_manifest(repository, image);
                    let ended = end_tag(repository, "t");
                    format!("{stored}; {ended}; {}", insert_tag(repository, "t", &image.digest))
                }),
            },
            201,
            "",
            format!("t|{was}|f\nt|{is}|f\nt|{is}|t"),
            "1",
        ),
        (
            Meanwhile {
                name: "deleted the tag",
                before: vec![("t", old.clone())],
                pushed: None,
                deletes: false,
                change: Box::new(|repository, _| end_tag(repository, "t")),
            },
            201,
            "",
            format!("t|{was}|f\nt|{is}|t"),
            "1",
        ),
        (
            Meanwhile {
                name: "marked the repository for deletion",
                before: vec![],
                pushed: None,
                deletes: false,
                change: Box::new(|repository, _| {
                    format!("UPDATE repository SET state = 3 WHERE id = {repository}")
                }),
            },
            404,
            "",
            String::new(),
            "0",
        ),
        (
            Meanwhile {
                name: "deleted the same tag",
                before: vec![("t", old.clone())],
                pushed: None,
                deletes: true,
                change: Box::new(|repository, _| end_tag(repository, "t")),
            },
            404,
            "",
            format!("t|{was}|f"),
            "0",
        ),
        (
            Meanwhile {
                name: "moved the tag that is to be deleted",
                before: vec![("u", old.clone()), ("t", image("older"))],
                pushed: None,
                deletes: true,
                change: Box::new(move |repository, _| {
                    let ended = end_tag(repository, "t");
                    format!("{ended}; {}", insert_tag(repository, "t", &old_digest))
                }),
            },
            202,
            "",
            format!("u|{was}|t\nt|{}|f\nt|{was}|f", short(&image("older"))),
            "0",
        ),
    ];
    for (what, status, detail, tags, manifests) in &table {
        let found = meanwhile(what).await;
        assert_eq!(found.status, *status, "{}: {found:?}", what.name);
        assert_eq!(found.detail, *detail, "{}", what.name);
        assert_eq!(found.tags, *tags, "{}", what.name);
        assert_eq!(found.manifests, *manifests, "{}", what.name);
    }
}

/// What was there when registryd looked is not there when it writes.
#[tokio::test(flavor = "multi_thread")]
async fn the_collector_was_first() {
    let (ours, child) = (image("contested"), image("child"));
    let index = Manifest::index(vec![("amd64", child.clone())]);
    // The same manifest, with nothing but a dead tag: it is stored anew.
    let again = Meanwhile {
        name: "the manifest",
        before: vec![("old", ours.clone())],
        pushed: None,
        deletes: false,
        change: Box::new(collect),
    };
    let found = meanwhile(&again).await;
    assert_eq!((found.status, found.manifests.as_str()), (201, "1"), "{found:?}");
    assert_eq!(found.tags, format!("t|{}|t", short(&ours)));

    // A child, and a blob: nothing of the push is left, and its next try is told what is missing.
    let gone = child.clone();
    let of_child = Meanwhile {
        name: "a child",
        before: vec![("child", child.clone())],
        pushed: Some(index),
        deletes: false,
        change: Box::new(move |repository, _| collect(repository, &gone)),
    };
    let of_blob = Meanwhile {
        name: "a blob",
        before: vec![],
        pushed: None,
        deletes: false,
        change: Box::new(|_, image| {
            let of = format!(
                "IN (SELECT id FROM imagestorage WHERE content_checksum = '{}')",
                image.layers()[0].digest
            );
            format!(
                "DELETE FROM uploadedblob WHERE blob_id {of};
                 DELETE FROM imagestorageplacement WHERE storage_id {of};
                 DELETE FROM imagestorage WHERE id {of}"
            )
        }),
    };
    for what in [of_child, of_blob] {
        let found = meanwhile(&what).await;
        // It looks again, and says what is missing.
        assert!([400, 503].contains(&found.status), "{}: {found:?}", what.name);
        assert_eq!((found.tags.as_str(), found.manifests.as_str()), ("", "0"), "{}", what.name);
    }
}

/// Of two who store one manifest at once, the second finds the first's, or its own if the first gives
/// up. By digest nobody takes a lock.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_manifest_by_digest() {
    for (end, tags) in [("COMMIT", 1), ("ROLLBACK", 1)] {
        let world = World::with_own_storage();
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world);
        let image = image("by digest");
        pusher.prepare(&image).await;
        let other = Other::without_lock(&world).await;
        other.run(&insert_manifest(world.nested.repo_id, &image)).await;
        let (answer, ()) = tokio::join!(pusher.put(&image.digest, &image), async {
            let route = "db_statements_total{route=\"manifest_by_digest\"}";
            until(|| registryd.metric(route) >= 2.0).await;
            until_it_waits(&registryd, &world, 0.0).await;
            other.end(end).await;
        });
        assert_eq!(answer.status(), StatusCode::CREATED, "{end}");
        let count = world.database.sql(&format!(
            "SELECT count(*) FROM tag t JOIN manifest m ON m.id = t.manifest_id
             WHERE m.digest = '{}' AND t.hidden",
            image.digest
        ));
        assert_eq!(count, tags.to_string(), "{end}");
        assert_eq!(pusher.manifest(&image.digest).await.unwrap().1, image.bytes, "{end}");
    }
}

/// Two processes push, move and delete one tag: its history is one line.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moved_by_two_runtimes() {
    const ROUNDS: usize = 12;
    let world = World::with_own_storage();
    let both = [world.registryd(), world.registryd()];
    let images: Vec<Manifest> = (0..4).map(|i| image(&format!("runtime {i}"))).collect();
    for image in &images {
        pusher(&both[0], &world).prepare(image).await;
    }
    let (pushed, deleted) = (AtomicUsize::default(), AtomicUsize::default());
    let work = async |worker: usize| {
        let pusher = pusher(&both[worker % 2], &world);
        for round in 0..ROUNDS {
            let image = &images[(worker + round) % images.len()];
            let answer = pusher.put("both", image).await;
            let status = answer.status();
            assert_eq!(status, StatusCode::CREATED, "{}", answer.text().await.unwrap());
            pushed.fetch_add(1, Ordering::Relaxed);
            if round % 3 == worker % 3 {
                let answer = pusher.delete("both").await;
                match answer.status() {
                    StatusCode::ACCEPTED => deleted.fetch_add(1, Ordering::Relaxed),
                    // The other has.
                    StatusCode::NOT_FOUND => 0,
                    status => panic!("{status}: {}", answer.text().await.unwrap()),
                };
            }
        }
    };
    join_all((0..4).map(work)).await;

    assert_eq!(history::broken(|sql| world.database.sql(sql)), "");
    let of_tag = |what: &str| {
        let repository = world.nested.repo_id;
        world.database.sql(&format!(
            "SELECT {what} FROM tag t WHERE t.repository_id = {repository} AND t.name = 'both'"
        ))
    };
    // Each push is a life of the tag; each ended when the next began, or by a deletion.
    assert_eq!(of_tag("count(*)"), (4 * ROUNDS).to_string());
    assert_eq!(pushed.into_inner(), 4 * ROUNDS);
    let unfollowed = of_tag(
        "sum(CASE WHEN EXISTS (SELECT 1 FROM tag n WHERE n.repository_id = t.repository_id
             AND n.name = t.name AND n.lifetime_start_ms = t.lifetime_end_ms AND n.id <> t.id)
             THEN 0 ELSE 1 END)",
    );
    let unfollowed: usize = unfollowed.parse().unwrap();
    let alive: usize =
        of_tag("sum(CASE WHEN lifetime_end_ms IS NULL THEN 1 ELSE 0 END)").parse().unwrap();
    assert!(alive <= 1, "{alive} alive");
    // A push in the very millisecond of a deletion follows it.
    assert!(unfollowed <= deleted.into_inner() + alive, "{unfollowed} unfollowed");
    // Both see the same.
    let seen = [&both[0], &both[1]].map(|registryd| pusher(registryd, &world));
    assert_eq!(seen[0].manifest("both").await, seen[1].manifest("both").await);
    assert_eq!(seen[0].manifest("both").await.is_ok(), alive == 1);
}

/// An index before its children, as some clients try: refused, and accepted when they are there.
#[tokio::test]
async fn children_that_arrive_late() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let children = [image("first"), image("second")];
    let index =
        Manifest::index(vec![("amd64", children[0].clone()), ("arm64", children[1].clone())]);
    for child in &children {
        let missing = format!("Could not find child manifest with digest `{}`", child.digest);
        let (status, code, detail) = told(pusher.put("late", &index).await).await;
        assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"));
        assert_eq!(detail["message"], missing);
        // Not by digest either, where Quay does not say why.
        assert_eq!(pusher.put(&index.digest, &index).await.status(), 400);
        assert_eq!(pusher.manifest("late").await, Err(404));
        assert_eq!(pusher.manifest(&index.digest).await, Err(404));
        pusher.prepare(child).await;
        assert_eq!(pusher.put(&child.digest, child).await.status(), StatusCode::CREATED);
    }
    assert_eq!(pusher.put("late", &index).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("late").await.unwrap().1, index.bytes);
    // A child of another repository is none of this one's.
    let elsewhere = Manifest::index(vec![("amd64", world.public.manifest.clone())]);
    let (status, _, detail) = told(pusher.put("elsewhere", &elsewhere).await).await;
    assert_eq!(status, 400);
    let missing =
        format!("Could not find child manifest with digest `{}`", world.public.manifest.digest);
    assert_eq!(detail["message"], missing);
}

/// The child's push and the index's at once: whoever comes first, the next try of both succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn children_and_their_index_at_once() {
    let world = World::with_own_storage();
    let both = [world.registryd(), world.registryd()];
    let child = image("racing");
    let index = Manifest::index(vec![("amd64", child.clone())]);
    let pushers = [pusher(&both[0], &world), pusher(&both[1], &world)];
    pushers[0].prepare(&child).await;
    let answers = tokio::join!(
        pushers[0].put(&child.digest, &child),
        join_all((0..8).map(|_| pushers[1].put("racing", &index)))
    );
    assert_eq!(answers.0.status(), StatusCode::CREATED);
    for answer in answers.1 {
        assert!([201, 400].contains(&answer.status().as_u16()), "{answer:?}");
    }
    assert_eq!(pushers[0].put("racing", &index).await.status(), StatusCode::CREATED);
    assert_eq!(history::broken(|sql| world.database.sql(sql)), "");
    assert_eq!(history::halves(|sql| world.database.sql(sql)), "");
}

/// A repository's lock is its own: who pushes elsewhere does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn other_repositories_do_not_wait() {
    if !postgres_only("the lock of a repository; on SQLite one writes at a time") {
        return;
    }
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let other = Other::begin(&world).await;
    let elsewhere = Pusher::of(&registryd, &world, &world.ada, "demo/private");
    elsewhere.push("free", &image("free")).await;
    assert_ne!(elsewhere.repo, REPO);
    other.end("ROLLBACK").await;
}
