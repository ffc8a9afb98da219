//! Another registry, as far as an organization sees of it: the list of its repositories, and images.
//!
//! The images are those of a real one, Debian's docker-registry, which every request is passed on to.
//! The lists are this file's own: no package and no image that a test could start has a Quay or a
//! Harbor, so their two documented calls are answered here, as far as their documentation goes
//! (`GET /api/v1/repository`, `GET /api/v2.0/projects/{project}/repositories`).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::process::lock;

/// What lists its repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Quay,
    Harbor,
}

/// One request each connection.
pub struct Catalogue {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    harbor: bool,
    /// Of `team`, without its name.
    repositories: Vec<String>,
    /// How many are on a page.
    page: usize,
    /// The header without which nothing is listed.
    authorization: Option<String>,
    failures: Vec<(&'static str, usize, String)>,
    /// Requests with this in them are not answered yet.
    held: Option<&'static str>,
    /// Paths (with what follows them) and `authorization` of what was asked.
    asked: Vec<(String, Option<String>)>,
    closed: bool,
}

impl Catalogue {
    /// In front of a registry on this machine.
    pub fn of(api: Api, behind: u16) -> Catalogue {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        {
            let mut state = lock(&shared.state);
            (state.page, state.harbor) = (100, api == Api::Harbor);
        }
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if lock(&serving.state).closed {
                    return;
                }
                let shared = serving.clone();
                // A side that goes away ends this request, no more.
                thread::spawn(move || client.and_then(|client| pass(client, behind, &shared)));
            }
        });
        Catalogue { port, shared }
    }

    pub fn has(&self, repositories: &[&str]) {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        lock(&self.shared.state).repositories = repositories;
    }

    pub fn page(&self, size: usize) {
        lock(&self.shared.state).page = size;
    }

    pub fn wants(&self, authorization: &str) {
        lock(&self.shared.state).authorization = Some(authorization.to_owned());
    }

    /// The next `times` requests with `mark` in their first line are answered so: a status line and
    /// header lines, each with its end.
    pub fn fail(&self, mark: &'static str, times: usize, answer: &str) {
        lock(&self.shared.state).failures.push((mark, times, answer.to_owned()));
    }

    /// Requests with `mark` wait until [`Catalogue::release`].
    pub fn hold(&self, mark: &'static str) {
        lock(&self.shared.state).held = Some(mark);
    }

    pub fn release(&self) {
        lock(&self.shared.state).held = None;
        self.shared.released.notify_all();
    }

    /// What was asked of the API since the last time: paths and what follows them.
    pub fn listed(&self) -> Vec<String> {
        self.taken().into_iter().map(|(target, _)| target).collect()
    }

    /// What was sent along with that.
    pub fn authorizations(&self) -> Vec<Option<String>> {
        self.taken().into_iter().map(|(_, authorization)| authorization).collect()
    }

    /// How many requests had `mark` in their path or after it.
    pub fn seen(&self, mark: &str) -> usize {
        lock(&self.shared.state).asked.iter().filter(|(line, _)| line.contains(mark)).count()
    }

    fn taken(&self) -> Vec<(String, Option<String>)> {
        let mut state = lock(&self.shared.state);
        let (taken, rest) =
            state.asked.drain(..).partition(|(target, _)| target.starts_with("/api/"));
        state.asked = rest;
        taken
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.release();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut client: TcpStream, behind: u16, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // TLS is not spoken here.
        if client.read(&mut byte)? == 0 || (head.is_empty() && byte[0] == 0x16) {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head");
    let first = head.lines().next().expect("a first line");
    let target = first.split(' ').nth(1).expect("a path").to_owned();
    let authorization = head
        .lines()
        .find_map(|line| {
            line.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case("authorization"))
        })
        .map(|(_, value)| value.to_owned());
    if let Some(answer) = shared.answer(&target, authorization) {
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(("127.0.0.1", behind))?;
    let head = head.trim_end_matches("\r\n");
    server.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes())?;
    io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}

impl Shared {
    /// What is answered here; `None` for what the registry answers.
    fn answer(&self, target: &str, authorization: Option<String>) -> Option<String> {
        let mut state = lock(&self.state);
        state.asked.push((target.to_owned(), authorization.clone()));
        while !state.closed && state.held.is_some_and(|mark| target.contains(mark)) {
            state = self.released.wait(state).expect("nobody panics with it");
        }
        let failure =
            state.failures.iter_mut().find(|(mark, times, _)| *times > 0 && target.contains(*mark));
        if let Some((_, times, answer)) = failure {
            *times -= 1;
            return Some(format!("{answer}content-length: 0\r\nconnection: close\r\n\r\n"));
        }
        if !target.starts_with("/api/") {
            return None;
        }
        if state.authorization.is_some() && state.authorization != authorization {
            return Some(said("401 Unauthorized", "", &json!({"message": "who are you?"})));
        }
        let (status, headers, body) =
            if state.harbor { state.harbor(target) } else { state.quay(target) };
        Some(said(status, &headers, &body))
    }
}

type Said = (&'static str, String, Value);

const NOT_FOUND: &str = "404 Not Found";

impl State {
    fn quay(&self, target: &str) -> Said {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let found = |body| ("200 OK", String::new(), body);
        match path {
            "/api/v1/user/" => found(json!({"username": "reader"})),
            "/api/v1/organization/team" => found(json!({"name": "team"})),
            "/api/v1/users/ada" => found(json!({"username": "ada"})),
            "/api/v1/repository" => {
                let from: usize = value(query, "next_page").parse().unwrap_or(0);
                let end = (from + self.page).min(self.repositories.len());
                let page: Vec<Value> = self.repositories[from..end]
                    .iter()
                    .map(|name| json!({"namespace": "team", "name": name, "is_public": true}))
                    .collect();
                let mut body = json!({"repositories": page});
                if end < self.repositories.len() {
                    body["next_page"] = end.to_string().into();
                }
                found(body)
            }
            _ => (NOT_FOUND, String::new(), json!({"status": 404})),
        }
    }

    fn harbor(&self, target: &str) -> Said {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path != "/api/v2.0/projects/team/repositories" {
            let errors = json!({"errors": [{"code": "NOT_FOUND", "message": "project not found"}]});
            return (NOT_FOUND, String::new(), errors);
        }
        let number: usize = value(query, "page").parse().expect("a page");
        let asked: usize = value(query, "page_size").parse().expect("its size");
        let size = asked.min(self.page);
        let from = ((number - 1) * size).min(self.repositories.len());
        let end = (from + size).min(self.repositories.len());
        let page: Vec<Value> = self.repositories[from..end]
            .iter()
            .map(|name| json!({"id": 1, "name": format!("team/{name}"), "artifact_count": 1}))
            .collect();
        let link = match end < self.repositories.len() {
            true => {
                format!("Link: <{path}?page={}&page_size={size}>; rel=\"next\"\r\n", number + 1)
            }
            false => String::new(),
        };
        ("200 OK", link, page.into())
    }
}

fn said(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn value<'q>(query: &'q str, key: &str) -> &'q str {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next().unwrap_or_default()
}
