//! A database that is not there, goes away, or refuses to write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::support::{Server, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_later_than_registryd() {
    let (world, server) = World::apart();
    server.stop();
    let registryd = Registryd::launch(&world.conf, &[]);
    assert_eq!(registryd.admin_get("/healthz").unwrap().0, 200);
    let (status, readiness) = registryd.admin_get("/readyz").unwrap();
    assert!(status == 503 && readiness.contains("database"), "{status}: {readiness}");

    let image = &world.private;
    let token = world.token(Some(&world.puller), &image.repo, &["pull"]);
    let client = Client::of(&registryd).with(token);
    let paths = [by_tag(image), by_digest(image), config(image), tags(image)];
    for path in &paths {
        // Those that wait for each other's connection are told the same.
        for answer in client.storm(10, path).await {
            answer.assert_unavailable(path);
        }
    }
    let scope = "/v2/auth?scope=repository:demo/public:pull";
    Client::of(&registryd).get(scope).await.assert_unavailable(scope);

    server.start_again();
    for path in &paths {
        client.recovers(path).await;
    }
    registryd.wait_until_ready();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_load() {
    let (world, server) = World::apart();
    let registryd = world.registryd();
    let image = &world.public;
    let load = Load::start(&registryd, image);
    for stop in [Server::stop, Server::crash] {
        more(&load.pulled);
        stop(&server);
        more(&load.refused);
        server.start_again();
        let started = Instant::now();
        more(&load.pulled);
        assert!(started.elapsed() < RECOVERY, "recovery took {:?}", started.elapsed());
    }
    more(&load.pulled);
    let pulled = load.end().await;
    let logged = logged(&world.database, &format!("\"tag\": \"{}\"", image.tag));
    assert!(logged >= pulled, "{pulled} pulls were answered, {logged} are in the log");
}

/// Clients that pull a manifest and a blob over and over.
struct Load {
    ended: Arc<AtomicBool>,
    pulled: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(registryd: &Registryd, image: &Image) -> Load {
        let config = image.manifest.config();
        let manifest = (by_tag(image), image.manifest.bytes.clone());
        let blob = (blob(image, &config.digest), config.bytes.clone());
        let mut load = Load {
            ended: Arc::default(),
            pulled: Arc::default(),
            refused: Arc::default(),
            clients: Vec::new(),
        };
        for (counts, (path, bytes)) in [(true, manifest.clone()), (true, manifest), (false, blob)] {
            load.add(Client::of(registryd), counts, path, bytes);
        }
        load
    }

    fn add(&mut self, client: Client, counts: bool, path: String, bytes: Bytes) {
        let ended = self.ended.clone();
        let (pulled, refused) = (self.pulled.clone(), self.refused.clone());
        self.clients.push(tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let answer = client.get(&path).await;
                if answer.status == 200 {
                    assert_eq!(answer.body, bytes, "{path}");
                    pulled.fetch_add(counts.into(), Ordering::Relaxed);
                } else {
                    answer.assert_unavailable(&path);
                    refused.fetch_add(counts.into(), Ordering::Relaxed);
                }
            }
        }));
    }

    /// How many manifests were pulled.
    async fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.pulled.load(Ordering::Relaxed)
    }
}

/// Waits for a few more.
fn more(count: &AtomicUsize) {
    let before = count.load(Ordering::Relaxed);
    let enough = || (count.load(Ordering::Relaxed) >= before + 5).then_some(());
    eventually(enough, || format!("no more than {before} answers of this kind"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_reads() {
    let mut world = World::new();
    world.database.without_write_ahead_log();
    let strict = world.registryd();
    world.configure("ALLOW_PULLS_WITHOUT_STRICT_LOGGING", true.into());
    let tolerant = world.registryd();
    read_only(&world.database, true);

    let image = &world.public;
    let client = Client::of(&strict);
    for path in [config(image), tags(image)] {
        client.recovers(&path).await;
    }
    client.get(&by_tag(image)).await.assert_unavailable("strict");
    let answer = Client::of(&tolerant).recovers(&by_tag(image)).await;
    assert_eq!(answer.body, image.manifest.bytes);
    logs_say(&tolerant, &["ERROR", "action log row lost"]);
    assert_eq!(logged(&world.database, "user-agent"), 0);

    read_only(&world.database, false);
    client.recovers(&by_tag(image)).await;
    assert_eq!(logged(&world.database, "user-agent"), 1);
}

/// From the next connection on, and there is none from before.
fn read_only(database: &Database, on: bool) {
    match database {
        Database::Postgres(database) => {
            let (sql, name) = (|sql: &str| database.sql(sql), &database.name);
            let change = match on {
                true => "SET default_transaction_read_only = on",
                false => "RESET default_transaction_read_only",
            };
            sql(&format!("SET TRANSACTION READ WRITE; ALTER DATABASE {name} {change}"));
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()");
        }
        Database::Sqlite { file, .. } => {
            // Root may write to any file, but not to one that says in its header that the version
            // for writers is one from the future.
            let mut bytes = std::fs::read(file).unwrap();
            bytes[18] = if on { 3 } else { 1 };
            let other = file.with_extension("other");
            std::fs::write(&other, bytes).unwrap();
            std::fs::rename(&other, file).unwrap();
        }
    }
}
