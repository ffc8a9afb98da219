//! The database goes away under pushes and deletions, and registryd dies in the middle of one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};

use super::{Pusher, Registryd, World, image, pusher, until};
use crate::support::history;
use crate::support::images::{Manifest, OCI_MANIFEST};
use crate::support::{Database, eventually, postgres_only};

/// What a client was told: what each tag points to, or that it is gone.
type Told = BTreeMap<String, Option<Manifest>>;

struct Work<'a> {
    pusher: &'a Pusher<'a>,
    ended: AtomicBool,
    done: AtomicUsize,
    refused: AtomicUsize,
}

impl Work<'_> {
    /// Pushes image after image, and deletes what it pushed before, until it is told to end. What is
    /// refused is asked again: 503 says that this may help.
    async fn go(&self, name: usize) -> Told {
        let mut told = Told::new();
        for number in 0.. {
            if self.ended.load(Ordering::Relaxed) {
                break;
            }
            let (tag, shared) = (format!("w{name}-{number}"), format!("w{name}"));
            let image = image(&format!("worker {name}, image {number}"));
            for blob in &image.blobs {
                self.persist(async || self.blob(&blob.bytes).await).await;
            }
            for tag in [&tag, &shared] {
                let put = async || self.pusher.put(tag, &image).await.status();
                self.persist(async || (put().await == StatusCode::CREATED).then_some(())).await;
                told.insert(tag.clone(), Some(image.clone()));
            }
            if number % 3 == 2 {
                let old = format!("w{name}-{}", number - 1);
                self.persist(async || match self.pusher.delete(&old).await.status() {
                    // Gone already: the first answer was lost.
                    StatusCode::ACCEPTED | StatusCode::NOT_FOUND => Some(()),
                    _ => None,
                })
                .await;
                told.insert(old, None);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// A blob whose upload may be lost with the database: then it is begun anew.
    async fn blob(&self, bytes: &bytes::Bytes) -> Option<()> {
        let digest = crate::support::images::digest_of(bytes);
        let path = format!("blobs/uploads/?digest={digest}");
        let answer = self.pusher.send(Method::POST, &path, &[], bytes.to_vec()).await;
        (answer.status() == StatusCode::CREATED).then_some(())
    }

    async fn persist(&self, mut attempt: impl AsyncFnMut() -> Option<()>) {
        let began = Instant::now();
        while attempt().await.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            assert!(began.elapsed() < Duration::from_secs(30), "refused again and again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_manifests() {
    if !postgres_only("a database that restarts") {
        return;
    }
    let (world, cluster) = World::apart();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let work = Work {
        pusher: &pusher,
        ended: AtomicBool::default(),
        done: AtomicUsize::default(),
        refused: AtomicUsize::default(),
    };
    let more = async |count: &AtomicUsize| {
        let before = count.load(Ordering::Relaxed);
        until(|| count.load(Ordering::Relaxed) >= before + 3).await;
    };
    let (told, ()) = tokio::join!(join_all((0..3).map(|name| work.go(name))), async {
        for crash in [false, true, true] {
            more(&work.done).await;
            if crash {
                cluster.crash()
            } else {
                cluster.stop()
            }
            more(&work.refused).await;
            cluster.start_again();
            let started = Instant::now();
            more(&work.done).await;
            let took = started.elapsed();
            assert!(took < Duration::from_secs(10), "recovery took {took:?}");
        }
        work.ended.store(true, Ordering::Relaxed);
    });
    for (tag, image) in told.into_iter().flatten() {
        let expected = image.map(|image| (OCI_MANIFEST.to_owned(), image.bytes.clone()));
        assert_eq!(pusher.manifest(&tag).await.ok(), expected, "{tag}");
    }
    assert_eq!(history::broken(|sql| world.database.sql(sql)), "");
    assert_eq!(history::halves(|sql| world.database.sql(sql)), "");
}

/// Every table that a push, or a deletion, writes to, in this order.
const WRITTEN: [(bool, &[&str]); 2] = [
    (
        false,
        &[
            "manifest",
            "manifestblob",
            "quotarepositorysize",
            "manifestsecuritystatus",
            "label",
            "manifestlabel",
            "tagnotificationsuccess",
            "tag",
            "queueitem",
        ],
    ),
    (true, &["tagnotificationsuccess", "tag"]),
];

/// Held up before it writes to one table after the other, and killed there: nothing has happened, and
/// the same request succeeds with the next registryd.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_statements() {
    if !postgres_only("locks of single tables") {
        return;
    }
    for (deletes, tables) in WRITTEN {
        for table in tables {
            killed_before(table, deletes).await;
        }
    }
}

async fn killed_before(table: &str, deletes: bool) {
    let world = World::with_own_storage();
    notify_of_pushes(&world);
    let (old, new) = (image("old"), image("new"));
    let first = world.registryd();
    pusher(&first, &world).push("t", &old).await;
    pusher(&first, &world).prepare(&new).await;
    drop(first);
    let rows = || {
        let counts = WRITTEN[0].1.iter().map(|table| format!("(SELECT count(*) FROM {table})"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let alive = "(SELECT count(*) FROM tag WHERE lifetime_end_ms IS NULL)";
        world.database.sql(&format!("SELECT {counts}, {alive}"))
    };
    let before = rows();

    let dying = world.registryd();
    let Database::Postgres(database) = &world.database else { panic!("on PostgreSQL") };
    let lock = database.connect().await;
    // Who only reads is let through.
    lock.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE")).await.unwrap();
    let pusher_of_dying = pusher(&dying, &world);
    let (answer, ()) = tokio::join!(
        async {
            let headers = [("Content-Type", new.media_type)];
            let (method, body) = match deletes {
                true => (Method::DELETE, bytes::Bytes::new()),
                false => (Method::PUT, new.bytes.clone()),
            };
            pusher_of_dying.try_send(method, "manifests/t", &headers, body).await
        },
        async {
            until(|| waiting(&world) != "0").await;
            dying.signal("KILL");
        }
    );
    assert!(answer.is_err(), "{table}: {answer:?}");
    lock.batch_execute("COMMIT").await.unwrap();
    // What was under way is rolled back when the server notices that nobody is there any more.
    eventually(|| (others(&world) == "1").then_some(()), || format!("{table}: not rolled back"));
    assert_eq!(rows(), before, "{table}");

    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    assert_eq!(pusher.manifest("t").await.unwrap().1, old.bytes, "{table}");
    again(&pusher, deletes, &new, table).await;
    assert_eq!(history::broken(|sql| world.database.sql(sql)), "", "{table}");
    assert_eq!(history::halves(|sql| world.database.sql(sql)), "", "{table}");
}

async fn again(pusher: &Pusher<'_>, deletes: bool, new: &Manifest, table: &str) {
    match deletes {
        true => {
            assert_eq!(pusher.delete("t").await.status(), StatusCode::ACCEPTED, "{table}");
            assert_eq!(pusher.manifest("t").await, Err(404), "{table}");
        }
        false => {
            assert_eq!(pusher.put("t", new).await.status(), StatusCode::CREATED, "{table}");
            assert_eq!(pusher.manifest("t").await.unwrap().1, new.bytes, "{table}");
        }
    }
}

/// So that a push writes to the queue, too.
fn notify_of_pushes(world: &World) {
    world.database.sql(&format!(
        "INSERT INTO repositorynotification
             (uuid, repository_id, event_id, method_id, config_json, event_config_json)
         SELECT 'the-uuid', {}, e.id, m.id, '{{}}', '{{}}'
         FROM externalnotificationevent e, externalnotificationmethod m
         WHERE e.name = 'repo_push' LIMIT 1",
        world.nested.repo_id
    ));
}

/// Statements that wait for a lock.
fn waiting(world: &World) -> String {
    world.database.sql(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
}

/// Connections besides the one that asks: the lock's is one.
fn others(world: &World) -> String {
    world.database.sql(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
}

/// A statement that takes too long is given up with all that was done before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long() {
    if !postgres_only("locks of single tables") {
        return;
    }
    let mut world = World::with_own_storage();
    world.configure("QUAY_SIDECAR", serde_json::json!({"db_statement_timeout_ms": 300}));
    let registryd: Registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("slow");
    pusher.prepare(&image).await;
    let Database::Postgres(database) = &world.database else { panic!("on PostgreSQL") };
    let lock = database.connect().await;
    lock.batch_execute("BEGIN; LOCK TABLE label IN EXCLUSIVE MODE").await.unwrap();
    let answer = pusher.put("t", &image).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(super::header(&answer, "retry-after"), "1");
    lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(pusher.manifest("t").await, Err(404));
    assert_eq!(history::halves(|sql| world.database.sql(sql)), "");
    assert_eq!(pusher.put("t", &image).await.status(), StatusCode::CREATED);
}
