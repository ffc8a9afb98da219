//! Whole images, pushed, pulled, moved and deleted without a pause, while something else changes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::images::{ACCEPT, Blob, Manifest, OCI_LAYER, digest_of};
use super::process::eventually;
use super::registry_fixture::Fixture;
use crate::bundle::http::{Answer, Client};

/// The repository that is pushed to.
const REPO: &str = "demo/private";

/// The tag that all of them move.
const SHARED: &str = "moving";

/// A layer, and what is sent of it at a time.
const LAYER: usize = 48 * 1024;
const PIECE: usize = 2 * 1024;

/// Those who push at the same time.
const PUSHERS: usize = 3;

/// Images of one pusher that are there at a time; older ones are deleted.
const KEPT: usize = 3;

pub struct PushLoad {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Pushed>>,
}

/// What was pushed.
#[derive(Debug, Default)]
pub struct Pushed {
    pub images: usize,
    /// Tags and images that were deleted.
    pub deleted: usize,
    pub requests: usize,
    /// Images in whose push more than one owner had a hand.
    pub crossed: usize,
    pub failed: Vec<String>,
}

impl PushLoad {
    /// Through nginx at this port. Returns when it is under way.
    pub fn start(port: u16, fixture: &Fixture) -> PushLoad {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..PUSHERS).map(|number| {
            let (stop, done) = (stop.clone(), done.clone());
            let mut pusher = Pusher::new(number, port, fixture.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    pusher.next();
                    done.fetch_add(1, Ordering::SeqCst);
                }
                pusher.end()
            })
        });
        let load = PushLoad { threads: threads.collect(), stop, done };
        load.wait_for_more(PUSHERS);
        load
    }

    /// Returns when so many more images have been pushed.
    pub fn wait_for_more(&self, images: usize) {
        let wanted = self.done.load(Ordering::SeqCst) + images;
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
            all.images += pushed.images;
            all.deleted += pushed.deleted;
            all.requests += pushed.requests;
            all.crossed += pushed.crossed;
            all.failed.extend(pushed.failed);
        }
        all
    }
}

/// Who pushes and who deletes after this flip: sometimes the same, sometimes not.
pub fn owners_at(flip: u32) -> String {
    let owner = |rust: bool| if rust { "rust" } else { "python" };
    let (pushes, deletes) = (owner(flip.is_multiple_of(2)), owner(flip % 4 < 2));
    format!("ROUTE_OWNER_CAP_V2_PUSH={pushes} ROUTE_OWNER_CAP_V2_DELETE={deletes}")
}

/// Bytes that no other layer has.
fn content(pusher: usize, number: usize) -> Vec<u8> {
    let mut state = (pusher as u64) << 32 | number as u64 | 1 << 63;
    let words = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(LAYER / 8).flatten().collect()
}

/// One who pushes an image after the other.
struct Pusher {
    number: usize,
    port: u16,
    fixture: Fixture,
    /// What is there: tags and what they point to, the oldest first.
    kept: VecDeque<(String, Manifest)>,
    pushed: Pushed,
}

impl Pusher {
    fn new(number: usize, port: u16, fixture: Fixture) -> Pusher {
        Pusher { number, port, fixture, kept: VecDeque::new(), pushed: Pushed::default() }
    }

    fn image(&self) -> Manifest {
        let content = content(self.number, self.pushed.images);
        let uncompressed = Some((digest_of(&content), content.len()));
        let layer = Blob { uncompressed, ..Blob::new(OCI_LAYER, content) };
        Manifest::oci("amd64", vec![layer])
    }

    /// An image, now and then an index of it and the one before; and the oldest goes.
    fn next(&mut self) {
        let (image, tag) = (self.image(), format!("p{}-{}", self.number, self.pushed.images));
        let last = self.kept.back().map(|(_, manifest)| manifest.clone());
        let index = last.filter(|last| self.pushed.images % 3 == 2 && last.children.is_empty());
        let mut done = self.session(|session| session.image(&tag, &image));
        if let (Ok(()), Some(last)) = (&done, index) {
            let index = Manifest::index(vec![("amd64", last), ("arm64", image.clone())]);
            let tag = format!("{tag}-index");
            done = self.session(|session| session.manifest(&tag, &index));
            self.kept.push_back((tag, index));
        }
        self.kept.push_back((tag, image));
        while self.kept.len() > KEPT && done.is_ok() {
            let Some((tag, manifest)) = self.kept.pop_front() else { break };
            // What is in an index stays for as long as that.
            let alone = !self
                .kept
                .iter()
                .any(|(_, kept)| kept.children.iter().any(|child| child.digest == manifest.digest));
            done = self.session(|session| session.delete(&tag, &manifest, alone));
            self.pushed.deleted += 1;
        }
        self.pushed.images += 1;
        self.pushed.failed.extend(done.err());
    }

    /// What is left is there, whole.
    fn end(mut self) -> Pushed {
        for (tag, manifest) in std::mem::take(&mut self.kept) {
            let pulled = self.session(|session| session.pull(&tag, &manifest));
            self.pushed.failed.extend(pulled.err());
        }
        self.pushed
    }

    /// With a connection and a token of its own.
    fn session(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<(), String>,
    ) -> Result<(), String> {
        let token = self.fixture.token(Some(&self.fixture.ada), REPO, &["pull", "push"]);
        let mut session = Session {
            client: Client::new(self.port),
            authorization: format!("Bearer {token}"),
            owners: BTreeSet::new(),
            requests: 0,
            crossed: false,
        };
        let done = work(&mut session);
        self.pushed.requests += session.requests;
        self.pushed.crossed += usize::from(session.crossed);
        done
    }
}

struct Session {
    client: Client,
    authorization: String,
    owners: BTreeSet<String>,
    requests: usize,
    crossed: bool,
}

impl Session {
    /// Pushes an image as clients do, to a tag of its own and to the one that all move, and pulls it.
    fn image(&mut self, tag: &str, image: &Manifest) -> Result<(), String> {
        for layer in image.layers() {
            self.blob_in_pieces(layer)?;
        }
        let config = image.config();
        let path = format!("/v2/{REPO}/blobs/uploads/?digest={}", config.digest);
        self.ask("POST", &path, &config.bytes, 201)?;
        for reference in [image.digest.as_str(), tag, SHARED] {
            self.put(reference, image)?;
        }
        self.crossed = self.owners.len() > 1;
        self.pull(tag, image)
    }

    fn blob_in_pieces(&mut self, blob: &Blob) -> Result<(), String> {
        let begun = self.ask("POST", &format!("/v2/{REPO}/blobs/uploads/"), b"", 202)?;
        let path = path_of(begun.header("location")).to_owned();
        for piece in blob.bytes.chunks(PIECE) {
            self.ask("PATCH", &path, piece, 202)?;
        }
        self.ask("PUT", &format!("{path}?digest={}", blob.digest), b"", 201).map(drop)
    }

    /// Pushes a manifest whose parts are there, and pulls it.
    fn manifest(&mut self, tag: &str, manifest: &Manifest) -> Result<(), String> {
        self.put(tag, manifest)?;
        self.pull(tag, manifest)
    }

    fn put(&mut self, reference: &str, manifest: &Manifest) -> Result<(), String> {
        let path = format!("/v2/{REPO}/manifests/{reference}");
        let answer = self.send("PUT", &path, manifest.media_type, &manifest.bytes, 201)?;
        match answer.header("docker-content-digest") == manifest.digest {
            true => Ok(()),
            false => Err(format!("PUT {path}: not its digest: {:?}", answer.headers)),
        }
    }

    /// By tag, by digest, and every blob: byte for byte what was pushed.
    fn pull(&mut self, tag: &str, manifest: &Manifest) -> Result<(), String> {
        for reference in [tag, &manifest.digest] {
            self.same(&format!("manifests/{reference}"), &manifest.bytes)?;
        }
        let of_children = manifest.children.iter().flat_map(|child| &child.blobs);
        for blob in manifest.blobs.iter().chain(of_children) {
            self.same(&format!("blobs/{}", blob.digest), &blob.bytes)?;
        }
        Ok(())
    }

    fn same(&mut self, what: &str, bytes: &[u8]) -> Result<(), String> {
        let path = format!("/v2/{REPO}/{what}");
        let pulled = self.ask("GET", &path, b"", 200)?;
        match pulled.body == bytes {
            true => Ok(()),
            false => Err(format!("{path}: {} other bytes", pulled.body.len())),
        }
    }

    /// By its tag; or all of it by its digest. It is gone for the next request.
    fn delete(&mut self, tag: &str, manifest: &Manifest, all: bool) -> Result<(), String> {
        let reference = if all { manifest.digest.as_str() } else { tag };
        self.ask("DELETE", &format!("/v2/{REPO}/manifests/{reference}"), b"", 202)?;
        for gone in [tag, reference] {
            self.ask("GET", &format!("/v2/{REPO}/manifests/{gone}"), b"", 404)?;
        }
        Ok(())
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        wanted: u16,
    ) -> Result<Answer, String> {
        self.send(method, path, "application/octet-stream", body, wanted)
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
        wanted: u16,
    ) -> Result<Answer, String> {
        self.requests += 1;
        let headers = [
            ("authorization", self.authorization.as_str()),
            ("accept", ACCEPT),
            ("content-type", content_type),
        ];
        let answer = self.client.send(method, path, &headers, Some(body));
        let answer = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        self.owners.insert(answer.owner().to_owned());
        if answer.status != wanted {
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
