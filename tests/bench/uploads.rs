//! What pushing costs: blobs of four sizes, in one request and in chunks, one and sixteen at a time,
//! beside docker-registry, and beside two limits: the hash alone, and the least that a push can be, a
//! loop that reads from a socket, hashes, writes to a file and flushes it.
//!
//! Both limits are of the same bytes, by the product's own SHA-256, in this program.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quay_sidecar::oci::Sha256;
use serde::Serialize;

use crate::bundle::http::{read_body, read_head};
use crate::support::Registryd;
use crate::support::docker_registry::DockerRegistry;
use crate::support::registry_fixture::Fixture;
use crate::workload::REPO;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Of a push in chunks.
const CHUNK: u64 = 16 * MIB;

/// A kind of push.
pub struct Case {
    name: &'static str,
    size: u64,
    way: Way,
    at_once: u64,
    /// By each of those, one after another.
    each: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// POST, and PUT with the bytes.
    Put,
    /// POST, one PATCH with the bytes, PUT.
    Patch,
    /// POST, a PATCH for every 16 MiB, PUT.
    Chunks,
    /// As PUT, over a Unix socket, where nginx asks registryd in Quay's image. docker-registry has
    /// none, and is asked as before.
    Socket,
}

/// What everybody is asked to take; only if `large`, what is of many GiB.
pub fn cases(large: bool) -> Vec<Case> {
    use Way::{Chunks, Patch, Put, Socket};
    [
        ("1 KiB, PUT", KIB, Put, 1, 200),
        ("1 KiB, PATCH", KIB, Patch, 1, 200),
        ("1 KiB, PUT, 16 at once", KIB, Put, 16, 50),
        ("1 KiB, PATCH, 16 at once", KIB, Patch, 16, 50),
        ("10 MiB, PUT", 10 * MIB, Put, 1, 10),
        ("10 MiB, PATCH", 10 * MIB, Patch, 1, 10),
        ("10 MiB, PUT, 16 at once", 10 * MIB, Put, 16, 2),
        ("10 MiB, PATCH, 16 at once", 10 * MIB, Patch, 16, 2),
        ("300 MiB, PUT", 300 * MIB, Put, 1, 1),
        ("300 MiB, PUT, Unix socket", 300 * MIB, Socket, 1, 1),
        ("300 MiB, PATCH", 300 * MIB, Patch, 1, 1),
        ("300 MiB, chunks", 300 * MIB, Chunks, 1, 1),
        ("300 MiB, PUT, 16 at once", 300 * MIB, Put, 16, 1),
        ("300 MiB, chunks, 16 at once", 300 * MIB, Chunks, 16, 1),
        ("2 GiB, PUT", 2 * GIB, Put, 1, 1),
        ("2 GiB, PATCH", 2 * GIB, Patch, 1, 1),
        ("2 GiB, chunks", 2 * GIB, Chunks, 1, 1),
        ("2 GiB, PUT, 16 at once", 2 * GIB, Put, 16, 1),
        ("2 GiB, chunks, 16 at once", 2 * GIB, Chunks, 16, 1),
    ]
    .into_iter()
    .map(|(name, size, way, at_once, each)| Case { name, size, way, at_once, each })
    .filter(|case| large || !case.is_large())
    .collect()
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// 10^6 bytes a second, all clients together.
    pub mb_per_s: f64,
    pub blobs_per_s: f64,
    /// Of the server's process, kernel included, for each GiB.
    pub cpu_s_per_gib: f64,
    /// Its resident memory at the highest.
    pub peak_memory_mib: f64,
}

/// The medians of a case.
#[derive(Serialize)]
pub struct Measured {
    pub case: &'static str,
    pub registryd: Pushed,
    pub docker_registry: Pushed,
    /// CPU seconds that hashing alone takes, for each GiB.
    pub hash_s_per_gib: f64,
    /// What registryd spends more than that, before and after which the hash was measured.
    pub over_hash_s_per_gib: f64,
    /// CPU seconds from a socket to a flushed file, hashed, for each GiB.
    pub least_s_per_gib: f64,
}

/// Everybody who takes pushes.
pub struct Peers<'a> {
    pub registryd: &'a Registryd,
    /// Where it listens, too.
    pub socket: &'a Path,
    pub fixture: &'a Fixture,
    pub docker: DockerRegistry,
}

impl Case {
    pub fn is(&self, only: &str) -> bool {
        self.name.contains(only)
    }

    fn is_large(&self) -> bool {
        self.size * self.at_once > 10 * GIB
    }

    /// `rounds` times, turn and turn about; large ones once. The limits each time too: a machine
    /// that others share is not as fast the next minute.
    pub fn measure(&self, peers: &Peers<'_>, rounds: usize) -> Measured {
        let rounds = if self.size * self.at_once > GIB { 1 } else { rounds };
        let (mut ours, mut docker, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            eprintln!("==> {}, round {round} of {rounds}", self.name);
            let before = self.hash();
            let run = self.run(&Server::registryd(peers, self.way));
            let hash = (before + self.hash()) / 2.0;
            limits.push((hash, run.cpu_s_per_gib - hash, self.least(&peers.fixture.storage)));
            ours.push(run);
            docker.push(self.run(&Server::docker(peers)));
        }
        let limit = |of: fn(&(f64, f64, f64)) -> f64| {
            let mut all: Vec<f64> = limits.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all.swap_remove(all.len() / 2)
        };
        let hash_s_per_gib = limit(|limit| limit.0);
        let over_hash_s_per_gib = limit(|limit| limit.1);
        let least_s_per_gib = limit(|limit| limit.2);
        let [registryd, docker_registry] = [ours, docker].map(|mut runs| {
            runs.sort_by(|a, b| a.mb_per_s.total_cmp(&b.mb_per_s));
            runs.swap_remove(runs.len() / 2)
        });
        Measured {
            case: self.name,
            registryd,
            docker_registry,
            hash_s_per_gib,
            over_hash_s_per_gib,
            least_s_per_gib,
        }
    }

    /// CPU seconds for each GiB, of as much as makes it certain.
    fn hash(&self) -> f64 {
        let times = (GIB / self.size).clamp(1, 10_000);
        let content = Content::new();
        let before = cpu_s(std::process::id());
        for _ in 0..times {
            std::hint::black_box(content.digest(self.size));
        }
        let spent = cpu_s(std::process::id()) - before;
        spent / (times * self.size) as f64 * GIB as f64
    }

    /// CPU seconds for each GiB of the thread that takes the bytes, of as much as makes it certain.
    fn least(&self, storage: &Path) -> f64 {
        let times = (GIB / self.size).clamp(1, 200);
        let (content, size) = (Content::new(), self.size);
        let file = storage.join("least");
        let (listener, address) = Listener::new(self.way, storage);
        let spent = std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..times {
                    let mut stream = address.connect();
                    content.write(0..size, |bytes| stream.write_all(bytes));
                }
            });
            let taking = scope.spawn(|| {
                for _ in 0..times {
                    take(&mut *listener.accept(), &file).expect("a disk with room");
                }
                cpu_s("thread-self")
            });
            taking.join().expect("it takes everything")
        });
        fs::remove_file(&file).expect("our own file");
        let _ = fs::remove_file(storage.join("least.sock"));
        spent / (times * self.size) as f64 * GIB as f64
    }

    fn run(&self, server: &Server) -> Pushed {
        // Made, and hashed, before the time counts. Of what is large, one client's are enough.
        let clients = if self.is_large() { 1 } else { self.at_once };
        let (warm_up, work) = (self.work(clients), self.work(self.at_once));
        // What others have written is none of its business.
        assert!(Command::new("sync").status().expect("sync runs").success());
        // Nor is what a virtual machine pays for memory that it has given back to its host: whoever
        // comes second finds it warm.
        self.push_all(server, &warm_up);
        server.remove(&warm_up);
        forget_peak(server.pid);
        let before = cpu_s(server.pid);
        let began = Instant::now();
        self.push_all(server, &work);
        let seconds = began.elapsed().as_secs_f64();
        let spent = cpu_s(server.pid) - before;
        let peak = peak_memory(server.pid);
        server.remove(&work);
        let blobs = (self.at_once * self.each) as f64;
        let bytes = blobs * self.size as f64;
        Pushed {
            mb_per_s: bytes / 1e6 / seconds,
            blobs_per_s: blobs / seconds,
            cpu_s_per_gib: spent / bytes * GIB as f64,
            peak_memory_mib: peak,
        }
    }

    /// The blobs of so many who push at once, with their digests.
    fn work(&self, clients: u64) -> Work {
        let blob = |content: Content| (content, content.digest(self.size));
        let blobs = || (0..self.each).map(|_| blob(Content::new())).collect();
        (0..clients).map(|_| blobs()).collect()
    }

    fn push_all(&self, server: &Server, work: &Work) {
        std::thread::scope(|scope| {
            for blobs in work {
                scope.spawn(move || {
                    let mut client = Client::connect(server);
                    for (content, digest) in blobs {
                        client.push(content, digest, self.size, self.way);
                    }
                });
            }
        });
    }
}

/// What each client pushes, one after another.
type Work = Vec<Vec<(Content, String)>>;

fn take(stream: &mut dyn Stream, file: &Path) -> io::Result<()> {
    let (mut hash, mut file) = (Sha256::default(), fs::File::create(file)?);
    let mut piece = vec![0; 256 << 10];
    while let length @ 1.. = stream.read(&mut piece)? {
        hash.update(&piece[..length]);
        file.write_all(&piece[..length])?;
    }
    std::hint::black_box(hash.finish());
    file.sync_all()
}

/// Of either kind.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

enum Address {
    Port(String),
    Socket(PathBuf),
}

impl Address {
    fn connect(&self) -> Box<dyn Stream> {
        match self {
            Address::Port(address) => {
                let stream = TcpStream::connect(address).expect("it listens");
                stream.set_nodelay(true).expect("a socket");
                Box::new(stream)
            }
            Address::Socket(path) => Box::new(UnixStream::connect(path).expect("it listens")),
        }
    }
}

enum Listener {
    Port(TcpListener),
    Socket(UnixListener),
}

impl Listener {
    fn new(way: Way, folder: &Path) -> (Listener, Address) {
        if way == Way::Socket {
            let path = folder.join("least.sock");
            let listener = UnixListener::bind(&path).expect("our own folder");
            return (Listener::Socket(listener), Address::Socket(path));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        (Listener::Port(listener), Address::Port(address.to_string()))
    }

    fn accept(&self) -> Box<dyn Stream> {
        match self {
            Listener::Port(listener) => Box::new(listener.accept().expect("a client").0),
            Listener::Socket(listener) => Box::new(listener.accept().expect("a client").0),
        }
    }
}

struct Server {
    address: Address,
    pid: u32,
    authorization: String,
    storage: std::path::PathBuf,
    docker: bool,
}

impl Server {
    fn registryd(peers: &Peers<'_>, way: Way) -> Server {
        let token = peers.fixture.token(Some(&peers.fixture.ada), REPO, &["pull", "push"]);
        let address = match way {
            Way::Socket => Address::Socket(peers.socket.to_owned()),
            _ => Address::Port(peers.registryd.base().trim_start_matches("http://").to_owned()),
        };
        Server {
            address,
            pid: peers.registryd.pid(),
            authorization: format!("Authorization: Bearer {token}\r\n"),
            storage: peers.fixture.storage.clone(),
            docker: false,
        }
    }

    fn docker(peers: &Peers<'_>) -> Server {
        Server {
            address: Address::Port(format!("127.0.0.1:{}", peers.docker.port)),
            pid: peers.docker.pid(),
            authorization: String::new(),
            storage: peers.docker.data(),
            docker: true,
        }
    }

    /// Takes the blobs' files away again: there is not room for all of them.
    fn remove(&self, work: &Work) {
        for (_, digest) in work.iter().flatten() {
            let hex = digest.trim_start_matches("sha256:");
            let folder = Path::new("sha256").join(&hex[..2]).join(hex);
            let file = match self.docker {
                true => self.storage.join("docker/registry/v2/blobs").join(folder).join("data"),
                false => self.storage.join(folder),
            };
            fs::remove_file(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
    }
}

/// Bytes that no other push has: a number, then the same noise again and again.
#[derive(Clone, Copy)]
struct Content([u8; 16]);

impl Content {
    fn new() -> Content {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut head = [0; 16];
        head[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        head[8..].copy_from_slice(&u64::from(std::process::id()).to_le_bytes());
        Content(head)
    }

    fn noise() -> &'static [u8] {
        static NOISE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let mut state = 0x9E37_79B9_7F4A_7C15u64;
            let words = std::iter::repeat_with(|| {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            words.take(MIB as usize / 8).flatten().collect()
        });
        &NOISE
    }

    fn write(&self, range: Range<u64>, mut to: impl FnMut(&[u8]) -> io::Result<()>) {
        let mut at = range.start;
        while at < range.end {
            let piece = match self.0.get(at as usize..) {
                Some(head) if !head.is_empty() => head,
                _ => &Content::noise()[(at % MIB) as usize..],
            };
            let most = piece.len().min((range.end - at) as usize);
            to(&piece[..most]).expect("the server takes it");
            at += most as u64;
        }
    }

    fn digest(&self, size: u64) -> String {
        let mut hash = Sha256::default();
        self.write(0..size, |bytes| {
            hash.update(bytes);
            Ok(())
        });
        hash.digest().to_string()
    }
}

/// A kept connection.
struct Client<'a> {
    server: &'a Server,
    stream: BufReader<Box<dyn Stream>>,
}

impl Client<'_> {
    fn connect(server: &Server) -> Client<'_> {
        Client { server, stream: BufReader::new(server.address.connect()) }
    }

    fn push(&mut self, content: &Content, digest: &str, size: u64, way: Way) {
        let mut place =
            self.send("POST", &format!("/v2/{REPO}/blobs/uploads/"), content, 0..0, "202");
        let chunk = match way {
            Way::Put | Way::Socket => 0,
            Way::Patch => size,
            Way::Chunks => CHUNK,
        };
        let mut at = 0;
        while chunk > 0 && at < size {
            let end = (at + chunk).min(size);
            place = self.send("PATCH", &place, content, at..end, "202");
            at = end;
        }
        let mark = if place.contains('?') { '&' } else { '?' };
        self.send("PUT", &format!("{place}{mark}digest={digest}"), content, at..size, "201");
    }

    /// Sends that part of the content. Returns the path of where to go on.
    fn send(
        &mut self,
        method: &str,
        path: &str,
        content: &Content,
        range: Range<u64>,
        status: &str,
    ) -> String {
        let length = range.end - range.start;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n{}",
            self.server.authorization
        );
        if method == "PATCH" {
            head += "Content-Type: application/octet-stream\r\n";
            if self.server.docker {
                head += &format!("Content-Range: {}-{}\r\n", range.start, range.end - 1);
            }
        }
        head += "\r\n";
        let to = self.stream.get_mut();
        to.write_all(head.as_bytes()).expect("the server listens");
        content.write(range, |bytes| to.write_all(bytes));
        let (first, headers) = read_head(&mut self.stream).expect("an answer");
        let body = read_body(&mut self.stream, &headers, false).expect("its body");
        assert!(
            first.split(' ').nth(1) == Some(status),
            "{method} {path}: {first}: {}",
            String::from_utf8_lossy(&body)
        );
        let place = headers.get("location").map_or("", String::as_str);
        place.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap_or_default()
    }
}

/// User and system time of a process or thread, in seconds.
fn cpu_s(who: impl std::fmt::Display) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{who}/stat")).expect("it runs");
    let after_name = stat.rsplit(") ").next().expect("fields");
    let field = |n: usize| after_name.split(' ').nth(n - 3).and_then(|word| word.parse().ok());
    let (user, system): (Option<f64>, Option<f64>) = (field(14), field(15));
    // A tick is 10 ms on every Linux that reports them here (proc(5), USER_HZ).
    user.zip(system).map(|(user, system)| (user + system) / 100.0).expect("ticks")
}

/// Lets the kernel measure the highest memory anew (proc(5), clear_refs).
fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own child");
}

fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.expect("VmHWM") / 1024.0
}
