//! Blobs pushed without a pause, each in many pieces, while something else changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::images::digest_of;
use super::process::eventually;
use super::registry_fixture::Fixture;
use crate::bundle::http::{Answer, Client};

/// The repository that is pushed to.
const REPO: &str = "demo/private";

/// A blob, and what is sent of it at a time.
const BLOB: usize = 48 * 1024;
const PIECE: usize = 2 * 1024;

/// Those who push at the same time.
const PUSHERS: usize = 3;

pub struct PushLoad {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Pushed>>,
}

/// What was pushed.
#[derive(Debug, Default)]
pub struct Pushed {
    pub blobs: usize,
    pub requests: usize,
    /// Blobs that more than one owner had in hand.
    pub crossed: usize,
    pub failed: Vec<String>,
}

impl PushLoad {
    /// Through nginx at this port. Returns when it is under way.
    pub fn start(port: u16, fixture: &Fixture) -> PushLoad {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..PUSHERS).map(|number| {
            let (stop, done, fixture) = (stop.clone(), done.clone(), fixture.clone());
            std::thread::spawn(move || {
                let mut pushed = Pushed::default();
                while !stop.load(Ordering::SeqCst) {
                    let content = content(number as u64, pushed.blobs as u64);
                    let token = fixture.token(Some(&fixture.ada), REPO, &["pull", "push"]);
                    let mut push = Push {
                        client: Client::new(port),
                        authorization: format!("Bearer {token}"),
                        owners: BTreeSet::new(),
                        requests: 0,
                    };
                    pushed.failed.extend(push.blob(&content).err());
                    pushed.blobs += 1;
                    pushed.requests += push.requests;
                    pushed.crossed += usize::from(push.owners.len() > 1);
                    done.fetch_add(1, Ordering::SeqCst);
                }
                pushed
            })
        });
        let load = PushLoad { threads: threads.collect(), stop, done };
        load.wait_for_more(PUSHERS);
        load
    }

    /// Returns when so many more blobs have been pushed.
    pub fn wait_for_more(&self, blobs: usize) {
        let wanted = self.done.load(Ordering::SeqCst) + blobs;
        eventually(
            || (self.done.load(Ordering::SeqCst) >= wanted).then_some(()),
            || "nothing is pushed".to_owned(),
        );
    }

    pub fn stop(self) -> Pushed {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Pushed::default();
        for thread in self.threads {
            let pushed = thread.join().expect("pushing does not panic");
            all.blobs += pushed.blobs;
            all.requests += pushed.requests;
            all.crossed += pushed.crossed;
            all.failed.extend(pushed.failed);
        }
        all
    }
}

/// Bytes that no other blob has.
fn content(pusher: u64, number: u64) -> Vec<u8> {
    let mut state = pusher << 32 | number | 1 << 63;
    let words = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(BLOB / 8).flatten().collect()
}

struct Push {
    client: Client,
    authorization: String,
    owners: BTreeSet<String>,
    requests: usize,
}

impl Push {
    /// Pushes a blob and pulls it again.
    fn blob(&mut self, content: &[u8]) -> Result<(), String> {
        let digest = digest_of(content);
        let begun = self.ask("POST", &format!("/v2/{REPO}/blobs/uploads/"), b"", 202)?;
        let path = path_of(begun.header("location")).to_owned();
        for piece in content.chunks(PIECE) {
            self.ask("PATCH", &path, piece, 202)?;
        }
        self.ask("PUT", &format!("{path}?digest={digest}"), b"", 201)?;
        let path = format!("/v2/{REPO}/blobs/{digest}");
        let owners = self.owners.clone();
        let pulled = self.ask("GET", &path, b"", 200)?;
        self.owners = owners;
        if pulled.body != content {
            return Err(format!("{path}: {} other bytes", pulled.body.len()));
        }
        Ok(())
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        status: u16,
    ) -> Result<Answer, String> {
        self.requests += 1;
        let headers = [("authorization", self.authorization.as_str())];
        let answer = self.client.send(method, path, &headers, Some(body));
        let answer = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        self.owners.insert(answer.owner().to_owned());
        if answer.status != status {
            return Err(format!("{method} {path}: {} {}", answer.status, answer.text()));
        }
        Ok(answer)
    }
}

/// The path of an absolute URL.
pub fn path_of(url: &str) -> &str {
    let path = url.splitn(4, '/').nth(3).map_or(0, |rest| url.len() - rest.len() - 1);
    url.get(path..).unwrap_or_default()
}
