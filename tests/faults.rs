//! What clients see while something is broken, and that it heals without a restart.

mod action_log;
mod database;
mod keys;
mod pool;
mod schema;
mod slow_clients;
mod stop;
mod storage;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::header::{ACCEPT, HeaderMap, USER_AGENT};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::images::OCI_MANIFEST;
use crate::support::{Database, Image, Registryd, TableLock, eventually, http, on_sqlite};

/// How soon everything has to work again.
const RECOVERY: Duration = Duration::from_secs(5);

/// What nothing may ever take.
const HANGS: Duration = Duration::from_secs(20);

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of the error in the registry's shape.
    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// That it asks to come back soon.
    #[track_caller]
    fn assert_unavailable(&self, what: &str) {
        let found = (self.status, self.code(), self.header("retry-after"));
        assert_eq!(found, (503, "UNAVAILABLE".to_owned(), "1"), "{what}: {:?}", self.body);
    }
}

/// A client that may have a token. A request that hangs fails the test.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    fn of(registryd: &Registryd) -> Client {
        Client { http: http(), base: registryd.base().to_owned(), token: None }
    }

    fn with(self, token: String) -> Client {
        Client { token: Some(token), ..self }
    }

    async fn try_as(&self, path: &str, user_agent: &str) -> reqwest::Result<Answer> {
        let mut request = self.http.get(format!("{}{path}", self.base)).timeout(HANGS);
        request = request.header(ACCEPT, OCI_MANIFEST).header(USER_AGENT, user_agent);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    async fn get(&self, path: &str) -> Answer {
        self.try_as(path, "test").await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// Asks in the background.
    fn start(&self, path: &str) -> JoinHandle<Answer> {
        let (client, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move { client.get(&path).await })
    }

    /// Asks many times at once.
    async fn storm(&self, count: usize, path: &str) -> Vec<Answer> {
        let answers = join_all((0..count).map(|_| self.start(path))).await;
        answers.into_iter().map(Result::unwrap).collect()
    }

    /// Asks until it is 200; what comes before must be 503.
    async fn recovers(&self, path: &str) -> Answer {
        let broken = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 {
                return answer;
            }
            answer.assert_unavailable(path);
            assert!(broken.elapsed() < RECOVERY, "{path} has not recovered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn by_tag(image: &Image) -> String {
    format!("/v2/{}/manifests/{}", image.repo, image.tag)
}

fn by_digest(image: &Image) -> String {
    format!("/v2/{}/manifests/{}", image.repo, image.manifest.digest)
}

fn blob(image: &Image, digest: &str) -> String {
    format!("/v2/{}/blobs/{digest}", image.repo)
}

fn config(image: &Image) -> String {
    blob(image, &image.manifest.config().digest)
}

fn tags(image: &Image) -> String {
    format!("/v2/{}/tags/list", image.repo)
}

/// Waits until a line of the log has all of these words.
fn logs_say(registryd: &Registryd, words: &[&str]) {
    let said = |line: &str| words.iter().all(|word| line.contains(word));
    let logged = || registryd.logs().lines().any(said).then_some(());
    eventually(logged, || format!("no line with {words:?} in\n{}", registryd.logs()));
}

/// How many of registryd's statements wait for a lock. Of SQLite's, which tells nobody: how many
/// are under way.
fn waiting_statements(registryd: &Registryd, database: &Database) -> usize {
    if on_sqlite() {
        return registryd.metric("db_pool_connections_in_use") as usize;
    }
    let count = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    database.sql(count).parse().unwrap()
}

/// Rows of the action log that this part of `metadata_json` is in.
fn logged(database: &Database, part: &str) -> usize {
    let count = format!("SELECT count(*) FROM logentry3 WHERE metadata_json LIKE '%{part}%'");
    database.sql(&count).parse().unwrap()
}
