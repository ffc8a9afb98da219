//! What following another registry costs when every round trip takes 20 ms: `quay mirror sync` beside
//! Quay's way, skopeo once for each tag, one after another, with the arguments of contract §7.4. Both
//! fetch from the same docker-registry and end in the same registry.

use std::collections::HashSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::delay::{Line, Seen};
use crate::support::docker_registry::DockerRegistry;
use crate::support::images::{Blob, Manifest};
use crate::support::postgres::psql;
use crate::support::registry_fixture::Fixture;
use crate::support::registryd::program;
use crate::support::stack::Stack;
use crate::support::{Folder, Registryd, free_port, mirror_rows};
use crate::workload::noise;

const DELAY: Duration = Duration::from_millis(20);

/// How often the memory of a process is looked at: the kernel keeps the peak, but only while it runs.
const LOOK: Duration = Duration::from_millis(2);

/// Of one way to do it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Spent {
    pub seconds: f64,
    /// HEAD and GET, at the source.
    pub manifest_requests: usize,
    pub blob_requests: usize,
    /// Of blobs that were asked for before.
    pub blobs_again: usize,
    /// Versions, tokens, lists of tags.
    pub other_requests: usize,
    pub connections: usize,
    /// That the source sent, 10^6 bytes.
    pub megabytes: f64,
    /// Of the largest process.
    pub peak_memory_mib: f64,
}

/// One case, both ways.
#[derive(Serialize)]
pub struct Mirrored {
    pub case: &'static str,
    pub quay: Spent,
    pub skopeo: Spent,
}

/// Nothing new among 1,000 tags, and 50 tags of which nothing is here.
pub fn all(stack: &Stack) -> [Mirrored; 2] {
    let ground = Ground::new(stack);
    [ground.nothing_new(), ground.all_new()]
}

struct Ground {
    source: DockerRegistry,
    line: Line,
    fixture: Fixture,
    registryd: Registryd,
    _conf: Folder,
}

impl Ground {
    fn new(stack: &Stack) -> Ground {
        let conf = Folder::new();
        let uri = stack.fixture.settings["DB_URI"].as_str().expect("text");
        let mut fixture = stack.fixture.moved(uri, conf.path());
        let address = format!("127.0.0.1:{}", free_port());
        fixture.reach(&address);
        fixture.configure("FEATURE_REPO_MIRROR", json!(true));
        fixture.configure("SSRF_ALLOWED_HOSTS", json!(["127.0.0.0/8"]));
        mirror_rows::add_kinds(|statement| psql(uri, statement));
        let registryd = Registryd::start(conf.path(), &["--listen", &address]);
        let source = DockerRegistry::start();
        let line = Line::to(source.port, DELAY);
        Ground { source, line, fixture, registryd, _conf: conf }
    }

    /// Each with a layer of its own above one that all share.
    fn nothing_new(&self) -> Mirrored {
        const TAGS: usize = 1000;
        eprintln!("==> {TAGS} tags, nothing new");
        let base = noise(1 << 20);
        let tags = self.fill("noop", TAGS, &[base], 1 << 10);
        for repository in ["noop", "noop-skopeo"] {
            self.follow(repository, "noop", self.source.port);
            self.quay(repository);
        }
        self.follow_over_the_line("noop", "noop");
        self.take_pushes("noop-skopeo");
        self.line.take();
        let quay = self.measured(|ground| ground.quay("noop"));
        assert_eq!((quay.manifest_requests, quay.blob_requests), (TAGS, 0));
        let skopeo = self.measured(|ground| ground.skopeo("noop", "noop-skopeo", &tags));
        Mirrored { case: "1,000 tags, nothing new", quay, skopeo }
    }

    /// Three layers of 8 MiB that all share, and one of 512 KiB for each tag.
    fn all_new(&self) -> Mirrored {
        const TAGS: usize = 50;
        eprintln!("==> {TAGS} tags, all new");
        let shared = [noise(8 << 20), noise(8 << 20), noise(8 << 20)];
        let tags = self.fill("cold", TAGS, &shared, 512 << 10);
        self.follow("cold", "cold", self.line.port);
        self.follow("cold-skopeo", "cold", self.line.port);
        self.take_pushes("cold-skopeo");
        self.line.take();
        let quay = self.measured(|ground| ground.quay("cold"));
        assert_eq!((quay.blobs_again, quay.blob_requests), (0, 3 + 2 * TAGS));
        // Whatever is already in the storage must not help: skopeo uploads all of it.
        let skopeo = self.measured(|ground| ground.skopeo("cold", "cold-skopeo", &tags));
        Mirrored { case: "50 tags, all new", quay, skopeo }
    }

    fn fill(&self, name: &str, tags: usize, shared: &[Blob], own: usize) -> Vec<String> {
        let tag = |number| {
            let tag = format!("v{number:04}");
            let image = Manifest::oci("amd64", [shared, &[noise(own)]].concat());
            self.source.push(&format!("team/{name}"), &tag, &image);
            tag
        };
        (0..tags).map(tag).collect()
    }

    fn follow(&self, repository: &str, source: &str, port: u16) {
        let reference = format!("127.0.0.1:{port}/team/{source}");
        let sql = |statement: &str| self.sql(statement);
        mirror_rows::add(sql, repository, &reference, &["*"], self.fixture.puller.id);
    }

    fn follow_over_the_line(&self, repository: &str, source: &str) {
        self.sql(&format!(
            "UPDATE repomirrorconfig SET external_reference = '127.0.0.1:{}/team/{source}' \
             WHERE repository_id = (SELECT id FROM repository WHERE name = '{repository}')",
            self.line.port
        ));
    }

    /// Quay lets the mirror's robot push meanwhile; here it is enough that it is no mirror any more.
    fn take_pushes(&self, repository: &str) {
        self.sql(&format!("UPDATE repository SET state = 0 WHERE name = '{repository}'"));
    }

    fn sql(&self, statement: &str) -> String {
        psql(self.fixture.settings["DB_URI"].as_str().expect("text"), statement)
    }

    fn measured(&self, work: impl FnOnce(&Ground) -> f64) -> Spent {
        let began = Instant::now();
        let peak_memory_mib = work(self);
        let seconds = began.elapsed().as_secs_f64();
        Spent { seconds, peak_memory_mib, ..Spent::of(&self.line.take()) }
    }

    /// Returns the peak memory, MiB.
    fn quay(&self, repository: &str) -> f64 {
        let mut command = Command::new(program());
        command.args(["mirror", "sync", "--json", "--config"]).arg(&self.fixture.conf);
        run(command.arg(format!("demo/{repository}")))
    }

    fn skopeo(&self, source: &str, target: &str, tags: &[String]) -> f64 {
        let source = format!("docker://127.0.0.1:{}/team/{source}", self.line.port);
        let target = format!("docker://{}/demo/{target}", self.fixture.hostname);
        let robot = &self.fixture.puller;
        let login = format!("{}:{}", robot.username, robot.password);
        let list = run(Command::new("skopeo").args(["list-tags", "--tls-verify=false", &source]));
        let copies = tags.iter().map(|tag| {
            run(Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--all", "--remove-signatures"])
                .args(["--src-tls-verify=false", "--dest-tls-verify=false", "--dest-creds", &login])
                .args([format!("{source}:{tag}"), format!("{target}:{tag}")]))
        });
        copies.fold(list, f64::max)
    }
}

impl Spent {
    fn of(seen: &Seen) -> Spent {
        let of = |part: &str| seen.requests.iter().filter(|line| line.contains(part)).count();
        let blobs: Vec<&String> =
            seen.requests.iter().filter(|line| line.contains("/blobs/")).collect();
        let different: HashSet<&&String> = blobs.iter().collect();
        let (manifest_requests, blob_requests) = (of("/manifests/"), blobs.len());
        Spent {
            manifest_requests,
            blob_requests,
            blobs_again: blob_requests - different.len(),
            other_requests: seen.requests.len() - manifest_requests - blob_requests,
            connections: seen.connections,
            megabytes: seen.bytes as f64 / 1e6,
            ..Spent::default()
        }
    }
}

/// To its end, which has to be a good one. Returns the peak of its memory, MiB.
fn run(command: &mut Command) -> f64 {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut peak = 0.0;
    loop {
        peak = f64::max(peak, peak_memory(&child));
        if let Some(status) = child.try_wait().expect("our own child") {
            assert!(status.success(), "{command:?}: {status}");
            return peak;
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at a process")]
        thread::sleep(LOOK);
    }
}

/// 0 once it has ended.
fn peak_memory(child: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
