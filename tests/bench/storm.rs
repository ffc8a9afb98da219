//! 500 nodes of a cluster that start within a second and pull the same image: token, index, manifest,
//! config, five layers. Every byte of every answer is looked at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::support::images::{ACCEPT, Manifest};
use crate::support::process::lock;
use crate::support::stack::Stack;
use crate::support::{Registryd, eventually};
use crate::workload::{REPO, Workload, basic, token_path};

const NODES: u32 = 500;

/// In which they arrive.
const WITHIN: Duration = Duration::from_secs(1);

/// After which a node gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients wait after a 503, or when a connection broke.
const RETRY: Duration = Duration::from_millis(200);

/// What came of one storm.
#[derive(Debug, Serialize)]
pub struct Storm {
    pub name: &'static str,
    pub requests: usize,
    /// Answers that were not what was asked for, or that did not come at all.
    pub wrong: Vec<String>,
    /// 503 with Retry-After, and connections that broke: asked again.
    pub retried: u64,
    /// From the first arrival to the last byte.
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    /// For each request.
    pub statements: f64,
    /// registryd's peak, in MiB.
    pub memory_mib: f64,
}

/// Each at a registryd of its own, except the one through nginx.
pub fn all(stack: &Stack, workload: &Workload) -> Vec<Storm> {
    let calm = |_: &Field| ();
    let port = |base: &str| base.rsplit(':').next().and_then(|port| port.parse().ok());
    let mut storms = Vec::new();
    let mut direct = |name: &'static str, warm: bool, meanwhile: &dyn Fn(&Field)| {
        let registryd = Registryd::launch(&stack.fixture.conf, &[]);
        if warm {
            registryd.wait_until_ready();
        }
        let port = port(registryd.base()).expect("a port");
        let field = Field::new(stack, workload, port);
        let mut storm = field.storm(name, meanwhile);
        storm.statements = registryd.metric("db_statements_total") / storm.requests as f64;
        storm.memory_mib = registryd.metric("process_resident_memory_peak_bytes") / 1048576.0;
        storms.push(storm);
    };
    direct("calm", true, &calm);
    direct("a cold start", false, &calm);
    direct("the tag moves", true, &Field::move_tag);
    direct("PostgreSQL restarts", true, &|field| {
        eventually(|| (lock(&field.times).len() > 1000).then_some(()), || "no pulls".to_owned());
        stack.cluster.stop();
        let felt = || (field.retried.load(Ordering::Relaxed) > 100).then_some(());
        eventually(felt, || "nobody has noticed".to_owned());
        stack.cluster.start_again();
    });
    let field = Field::new(stack, workload, stack.quay.port);
    let mut storm = field.storm("through nginx", &calm);
    let pid = stack.pid("registryd").expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux");
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    storm.memory_mib = kib / 1024.0;
    storms.push(storm);
    storms
}

/// What all nodes know.
struct Field {
    port: u16,
    login: String,
    token_path: String,
    indexes: [Manifest; 2],
    /// When the tag was moved to which of them: from before the statement to after it.
    moves: Mutex<Vec<(Instant, Instant, usize)>>,
    database: String,
    repo_id: i32,
    retried: AtomicU64,
    times: Mutex<Vec<Duration>>,
    wrong: Mutex<Vec<String>>,
}

impl Field {
    fn new(stack: &Stack, workload: &Workload, port: u16) -> Arc<Field> {
        let robot = &stack.fixture.puller;
        let database = stack.fixture.settings["DB_URI"].as_str().expect("text").to_owned();
        let field = Field {
            port,
            login: basic(&robot.username, &robot.password).split_off("Authorization: ".len()),
            token_path: token_path(&stack.fixture.hostname),
            indexes: workload.storms.clone(),
            moves: Mutex::default(),
            database,
            repo_id: workload.repo_id,
            retried: AtomicU64::default(),
            times: Mutex::default(),
            wrong: Mutex::default(),
        };
        field.point_tag_to(0);
        Arc::new(field)
    }

    fn storm(self: &Arc<Field>, name: &'static str, meanwhile: &dyn Fn(&Field)) -> Storm {
        eprintln!("==> {NODES} nodes: {name}");
        let began = Instant::now();
        let nodes = {
            let field = self.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(field.nodes());
            })
        };
        meanwhile(self);
        nodes.join().expect("the nodes end");
        let mut times = std::mem::take(&mut *lock(&self.times));
        times.sort();
        let at = |part: f64| {
            let index = ((times.len() - 1) as f64 * part) as usize;
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
        };
        Storm {
            name,
            requests: times.len(),
            wrong: std::mem::take(&mut *lock(&self.wrong)),
            retried: self.retried.load(Ordering::Relaxed),
            seconds: began.elapsed().as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            statements: f64::NAN,
            memory_mib: f64::NAN,
        }
    }

    async fn nodes(self: Arc<Field>) {
        let nodes = (0..NODES).map(|number| {
            let field = self.clone();
            async move {
                tokio::time::sleep(WITHIN * number / NODES).await;
                let mut node = Node { field: field.clone(), connection: None };
                let pull = tokio::time::timeout(PATIENCE, node.pull());
                let wrong = match pull.await {
                    Ok(Ok(())) => return,
                    Ok(Err(wrong)) => wrong,
                    Err(_) => format!("gave up after {PATIENCE:?}"),
                };
                lock(&field.wrong).push(format!("node {number}: {wrong}"));
            }
        });
        futures_util::future::join_all(nodes).await;
    }

    /// Back and forth until a while after the last node has come.
    fn move_tag(&self) {
        let until = Instant::now() + WITHIN * 2;
        for target in [1, 0].into_iter().cycle() {
            self.point_tag_to(target);
            if Instant::now() > until {
                return;
            }
        }
    }

    fn point_tag_to(&self, target: usize) {
        let (id, digest) = (self.repo_id, &self.indexes[target].digest);
        let statement = format!(
            "UPDATE tag SET manifest_id = (SELECT id FROM manifest WHERE repository_id = {id} \
                 AND digest = '{digest}') WHERE repository_id = {id} AND name = 'storm'"
        );
        let before = Instant::now();
        let psql = std::process::Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &self.database, "-c", &statement])
            .status();
        assert!(psql.expect("psql runs").success());
        lock(&self.moves).push((before, Instant::now(), target));
    }

    /// Whether the tag may have pointed there at some time between a question and its answer.
    fn was_right(&self, target: usize, asked: Instant, answered: Instant) -> bool {
        let moves = lock(&self.moves);
        (0..moves.len()).any(|number| {
            let (from, _, to) = moves[number];
            let until = moves.get(number + 1).map(|(_, after, _)| *after);
            to == target && from <= answered && until.is_none_or(|until| asked <= until)
        })
    }
}

struct Node {
    field: Arc<Field>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Node {
    async fn pull(&mut self) -> Result<(), String> {
        let field = self.field.clone();
        let (path, login) = (&field.token_path, &field.login);
        let (body, ..) = self.get(path, login).await?;
        let body: serde_json::Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        let token = body["token"].as_str().ok_or("no token")?;
        let bearer = format!("Bearer {token}");

        let (body, asked) = self.get(&format!("/v2/{REPO}/manifests/storm"), &bearer).await?;
        let which = field.indexes.iter().position(|index| index.bytes == body);
        let which = which.ok_or("the tag: neither of its manifests")?;
        // A move that is on its way is not in the list before it is done.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !field.was_right(which, asked.0, asked.1) {
            return Err(format!("the tag: {which} was not its manifest then"));
        }
        let image = &field.indexes[which].children[0];
        let path = format!("/v2/{REPO}/manifests/{}", image.digest);
        if self.get(&path, &bearer).await?.0 != image.bytes {
            return Err("another manifest".to_owned());
        }
        for blob in &image.blobs {
            let path = format!("/v2/{REPO}/blobs/{}", blob.digest);
            if self.get(&path, &bearer).await?.0 != blob.bytes {
                return Err(format!("{path}: other bytes"));
            }
        }
        Ok(())
    }

    /// Asks until there is an answer that is not 503. Only the last attempt is timed.
    async fn get(
        &mut self,
        path: &str,
        authorization: &str,
    ) -> Result<(Bytes, (Instant, Instant)), String> {
        loop {
            let asked = Instant::now();
            match self.try_get(path, authorization).await {
                Ok((StatusCode::OK, body)) => {
                    let answered = Instant::now();
                    lock(&self.field.times).push(answered - asked);
                    return Ok((body, (asked, answered)));
                }
                Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => {}
                Ok((status, body)) => {
                    return Err(format!("{path}: {status} {}", String::from_utf8_lossy(&body)));
                }
                Err(_) => self.connection = None,
            }
            self.field.retried.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_get(
        &mut self,
        path: &str,
        authorization: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = match self.connection.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => {
                let stream = TcpStream::connect(("127.0.0.1", self.field.port)).await?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await?;
        let request = Request::get(path)
            .header("Host", "registry.example")
            .header("Accept", ACCEPT)
            .header("Authorization", authorization);
        let answer = connection.send_request(request.body(Empty::new())?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((status, body))
    }
}
