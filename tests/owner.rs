//! The whole of it: nginx, supervisord, registryd and the watcher in a stand-in Quay, with a real
//! registry behind registryd and a stand-in for Python.

mod canary;
mod dashboards;
mod hook;
mod pushes;
mod service;
mod status_page;
mod watcher;
mod workers;

use std::any::Any;
use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quay_sidecar::bundle::{Ini, Supervisor};
use quay_sidecar::serve::owner::Status;

use crate::bundle::backend::Backend;
use crate::bundle::http::{Answer, Client};
use crate::bundle::quay::{Quay, Variant};
use crate::support::process::{AtExit, PATIENCE, signal, wait};
use crate::support::{World, eventually};

const PULL: &str = "ROUTE_OWNER_CAP_V2_PULL";

/// A Quay that has booted with us in it.
struct Booted {
    world: World,
    quay: Quay,
    supervisor: Supervisor,
    supervisord: Child,
    _at_exit: AtExit,
    _python: Box<dyn Any>,
}

impl Booted {
    fn new(variant: Variant) -> Booted {
        let quay = Quay::new(variant);
        let python = Backend::start("python", &quay.python_socket());
        Booted::around(quay, World::new(), Box::new(python))
    }

    /// With another stand-in for Python, which listens already.
    fn around(quay: Quay, world: World, python: Box<dyn Any>) -> Booted {
        Booted::edited(quay, world, python, |programs| programs)
    }

    /// With other programs: `edit` gets the text that supervisord reads.
    fn edited(
        quay: Quay,
        world: World,
        python: Box<dyn Any>,
        edit: impl FnOnce(String) -> String,
    ) -> Booted {
        for file in ["config.yaml", "quay.pem", "quay.kid"] {
            fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
        }
        // Here supervisord runs the real nginx.
        let supervisord = quay.read("supervisord.conf");
        let nginx = format!("nginx -c {}", quay.conf("nginx/nginx.conf").display());
        fs::write(quay.conf("supervisord.conf"), supervisord.replace("/bin/sleep 1002", &nginx))
            .unwrap();
        let applied = command(&quay, &["bundle", "apply", "--hook"]);
        assert!(said(&applied).starts_with("applied\n"), "{applied:?}");
        // Several of us run side by side here, and what they say is looked at.
        let any_port = "--admin-listen 127.0.0.1:0";
        let log = |stream| format!("{}/%(program_name)s.{stream}", quay.root().display());
        let spliced = quay
            .read("supervisord.conf")
            .replace(",nginx", &format!(",nginx {any_port}"))
            .replace("switch watch", &format!("switch watch {any_port}"))
            .replace("worker repomirror", &format!("worker repomirror {any_port}"))
            .replace("stdout_logfile=NONE", &format!("stdout_logfile={}", log("out")))
            .replace("stderr_logfile=NONE", &format!("stderr_logfile={}", log("log")));
        fs::write(quay.conf("supervisord.conf"), edit(spliced)).unwrap();
        let mut start = Command::new("supervisord");
        start.arg("-c").arg(quay.conf("supervisord.conf")).current_dir(quay.root());
        environment(&mut start, &quay);
        let log = fs::File::create(quay.root().join("supervisord.log")).unwrap();
        start.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let supervisord = start.spawn().expect("supervisord runs: install the package supervisor");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", supervisord.id()));
        let supervisor = Supervisor::at(quay.bundle.tree.supervisor_socket(), PATIENCE);
        let booted = Booted { world, quay, supervisor, supervisord, _at_exit, _python: python };
        let programs = Ini::parse(&booted.quay.read("supervisord.conf")).unwrap();
        match programs.starts("nginx") {
            true => booted.eventually("python", || booted.owner() == "python"),
            false => {
                booted.eventually("watched", || Status::read(booted.quay.run().path()).is_some())
            }
        }
        booted
    }

    /// As in Quay's image, where nginx's workers are of the same user.
    fn of_our_user() -> Booted {
        Booted::new(Variant { same_user: true, ..Variant::default() })
    }

    /// One pull of a public manifest, through nginx.
    fn pull(&self) -> Answer {
        pull(&mut Client::new(self.quay.port))
    }

    fn owner(&self) -> String {
        match Client::new(self.quay.port).send("GET", PATH, &ACCEPT, None) {
            Ok(answer) if answer.status == 200 => answer.owner().to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// Any switches, with a space between them.
    fn set(&self, switches: &str) -> Output {
        let set: Vec<&str> = ["switch", "set"].into_iter().chain(switches.split(' ')).collect();
        command(&self.quay, &set)
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        eventually(
            || holds().then_some(()),
            || {
                let shown = command(&self.quay, &["switch", "show"]);
                let log =
                    |name| fs::read_to_string(self.quay.root().join(name)).unwrap_or_default();
                format!("not {what}:\n{}\n{}", said(&shown), log("supervisord.log"))
            },
        );
    }

    fn registryd(&self, signal: &str) {
        self.supervisor.signal("registryd", signal).unwrap();
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // A stopped registryd would not hear that it is to end.
        let _ = self.supervisor.signal("registryd", "CONT");
        signal(&self.supervisord, "TERM");
        wait(&mut self.supervisord, "supervisord");
    }
}

const PATH: &str = "/v2/demo/public/manifests/latest";
const ACCEPT: [(&str, &str); 1] = [("accept", "application/vnd.oci.image.manifest.v1+json")];

fn pull(client: &mut Client) -> Answer {
    client.send("GET", PATH, &ACCEPT, None).expect("nginx answers")
}

fn environment(command: &mut Command, quay: &Quay) {
    let conf = quay.conf("");
    // Programs that a test puts before the real ones.
    let first = quay.root().join("path").display().to_string();
    let path = std::env::var("PATH").unwrap();
    command
        .env("PATH", format!("{first}:{path}:/usr/sbin"))
        .env("QUAYRUN", &conf)
        .env("QUAYCONF", &conf)
        .env("QUAYDIR", quay.root())
        .env("PYTHONPATH", "/nowhere")
        .env("QUAY_SIDECAR_RUN", &quay.bundle.programs.run);
    if let Some(service) = quay.bundle.programs.service {
        command.env("QUAY_SIDECAR_SERVICE", format!("localhost:{}", service.port()));
    }
}

fn command(quay: &Quay, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quay"));
    environment(&mut command, quay);
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Pulls without a pause, on a kept connection and on new ones, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Counted>>,
}

#[derive(Default, Debug)]
struct Counted {
    requests: usize,
    failed: Vec<String>,
    longest: Duration,
}

impl Load {
    fn start(booted: &Booted) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicUsize::new(0));
        let threads = [true, false].map(|keep| {
            let (stop, begun, port) = (stop.clone(), begun.clone(), booted.quay.port);
            std::thread::spawn(move || {
                let mut counted = Counted::default();
                let mut client = Client::new(port);
                while !stop.load(Ordering::SeqCst) {
                    if !keep {
                        client = Client::new(port);
                    }
                    let began = Instant::now();
                    match client.send("GET", PATH, &ACCEPT, None) {
                        Ok(answer) if answer.status == 200 => {}
                        other => counted.failed.push(format!("{other:?}")),
                    }
                    counted.longest = counted.longest.max(began.elapsed());
                    counted.requests += 1;
                    begun.fetch_add(1, Ordering::SeqCst);
                }
                counted
            })
        });
        eventually(|| (begun.load(Ordering::SeqCst) > 10).then_some(()), || "no load".to_owned());
        Load { stop, threads: threads.into() }
    }

    /// Requests, and the longest of them; none may have failed.
    fn stop(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let counted: Vec<Counted> =
            self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let failed: Vec<&String> = counted.iter().flat_map(|counted| &counted.failed).collect();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
        let requests = counted.iter().map(|counted| counted.requests).sum();
        (requests, counted.iter().map(|counted| counted.longest).max().unwrap())
    }
}

#[test]
fn a_switch_moves_pulls_and_moves_them_back() {
    for same_user in [true, false] {
        let booted = Booted::new(Variant { same_user, ..Variant::default() });
        assert_eq!(booted.pull().by(), "python");
        let load = Load::start(&booted);
        for (owner, switch) in [("rust", "rust"), ("python", "python"), ("rust", "go")] {
            let set = booted.set(&format!("{PULL}={switch}"));
            assert!(said(&set).contains("applied after "), "{set:?}");
            booted.eventually(owner, || booted.owner() == owner);
        }
        let answer = booted.pull();
        let image = &booted.world.public;
        assert_eq!(answer.body, image.manifest.bytes);
        assert_eq!(answer.header("docker-content-digest"), image.manifest.digest);
        // What is not in the capability, or not built, stays where it was.
        for path in ["/v2/", "/v2/auth?scope=repository:demo/public:pull"] {
            let other = Client::new(booted.quay.port).send("GET", path, &[], None).unwrap();
            assert_eq!(other.owner(), "python", "{path}");
        }
        // A request that we cannot answer is Python's within the same request.
        let docker = "/v2/demo/public/manifests/latest";
        let declined = Client::new(booted.quay.port).send("GET", docker, &[], None).unwrap();
        assert_eq!((declined.status, declined.by()), (200, "python"), "{declined:?}");
        let killed = booted.set("MIGRATION_FORCE_PYTHON=true");
        assert!(killed.status.success(), "{killed:?}");
        booted.eventually("python", || booted.owner() == "python");
        let (requests, _) = load.stop();
        assert!(requests > 100, "{requests}");
    }
}

#[test]
fn blobs_are_sent_by_nginx() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let layer = &booted.world.public.manifest.layers()[0];
    let path = format!("/v2/demo/public/blobs/{}", layer.digest);
    let mut client = Client::new(booted.quay.port);
    let whole = client.send("GET", &path, &[("accept-encoding", "gzip")], None).unwrap();
    assert_eq!((whole.status, whole.owner()), (200, "rust"), "{whole:?}");
    assert_eq!(whole.body, layer.bytes);
    assert_eq!(whole.header("docker-content-digest"), layer.digest);
    assert_eq!(whole.header("cache-control"), "max-age=31536000");
    // Only nginx answers with a validator: that is how to tell who sent the bytes.
    assert!(!whole.header("etag").is_empty(), "{whole:?}");
    let part = client.send("GET", &path, &[("range", "bytes=2-5")], None).unwrap();
    assert_eq!((part.status, part.body), (206, layer.bytes[2..6].to_vec()));
    let head = client.send("HEAD", &path, &[], None).unwrap();
    assert_eq!(head.header("content-length"), layer.bytes.len().to_string());
}

#[test]
fn a_dead_registryd_costs_nobody_an_answer() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let load = Load::start(&booted);
    booted.registryd("KILL");
    // supervisord starts it again, and its requests come back to it.
    booted.eventually("rust", || {
        booted.supervisor.state("registryd").is_ok_and(|state| state == "RUNNING")
            && booted.owner() == "rust"
    });
    load.stop();
}

#[test]
fn a_hung_registryd_is_noticed_and_replaced() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let load = Load::start(&booted);
    booted.registryd("STOP");
    booted.eventually("python", || booted.owner() == "python");
    booted.eventually("rust", || booted.owner() == "rust");
    let (_, longest) = load.stop();
    // nginx by itself would have waited for half an hour; what it really costs, the drill measures.
    assert!(longest < Duration::from_secs(25), "somebody waited {longest:?}");
}

/// A capability whose tables are not what we know stays with Python, whatever the switch says.
#[test]
fn a_broken_schema_keeps_python() {
    let booted = Booted::of_our_user();
    booted.world.database.sql("ALTER TABLE tag RENAME COLUMN hidden TO concealed");
    let set = booted.set(&format!("{PULL}=rust"));
    assert!(set.status.success(), "{set:?}");
    let shown = || said(&command(&booted.quay, &["switch", "show"]));
    booted.eventually("named", || {
        shown().lines().any(|line| line.contains("V2_PULL") && line.contains("python (schema)"))
    });
    assert_eq!(booted.owner(), "python");
}

#[test]
fn explain_names_the_rule() {
    let booted = Booted::of_our_user();
    let explain = |method: &str, path: &str| {
        said(&command(&booted.quay, &["switch", "explain", method, path]))
    };
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    let pull = explain("GET", PATH);
    assert!(pull.contains("owner       rust (capability)"), "{pull}");
    assert!(pull.contains("repository  demo/public"), "{pull}");
    let push = explain("PUT", PATH);
    assert!(push.contains("owner       python (default)"), "{push}");
    let api = explain("GET", "/api/v1/discovery");
    assert!(api.contains("owner       python (unsupported_capability)"), "{api}");
    let bad = booted.set("ROUTE_OWNER_CAP_V2_PUL=rust");
    assert_eq!(bad.status.code(), Some(64), "{bad:?}");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("ROUTE_OWNER_CAP_V2_PUL"));
}

/// A worker that is switched off is stopped; given back, it is what Quay would have it be.
#[test]
fn workers_stop_and_are_given_back() {
    let booted = Booted::of_our_user();
    let is = |program: &str, state: &str| {
        booted.supervisor.state(program).is_ok_and(|found| found == state)
    };
    let (flush, mirror) = ("pullstatsredisflushworker", "repomirrorworker");
    booted.eventually("running", || is(flush, "RUNNING"));
    let set = booted.set("WORKER_OWNER_PULLSTATSREDISFLUSHWORKER=off");
    assert!(set.status.success(), "{set:?}");
    booted.set("WORKER_OWNER_REPOMIRRORWORKER=off");
    booted.eventually("stopped", || is(flush, "STOPPED"));
    booted.set("WORKER_OWNER_REPOMIRRORWORKER=rust");
    assert!(is("repomirror", "RUNNING") && is(mirror, "STOPPED"));
    booted.set("WORKER_OWNER_REPOMIRRORWORKER=python");
    booted.set("WORKER_OWNER_PULLSTATSREDISFLUSHWORKER=python");
    booted.eventually("running", || is(flush, "RUNNING"));
    assert!(is("repomirror", "STOPPED"));
    assert!(is(mirror, "STOPPED"), "it was not started by Quay");
}

/// The last good switches hold for a moment, then everything is Python's; a good file restores.
#[test]
fn a_damaged_file_leads_to_python() {
    let booted = Booted::of_our_user();
    let file = booted.quay.conf("stack/migration-switches.yaml");
    let switches = |version: u64| {
        format!("schema: 1\nversion: {version}\npoll_seconds: 5\nswitches:\n  {PULL}: rust\n...\n")
    };
    fs::write(&file, switches(1)).unwrap();
    booted.eventually("rust", || booted.owner() == "rust");
    let load = Load::start(&booted);
    fs::write(&file, "switches: {").unwrap();
    let began = Instant::now();
    booted.eventually("python", || booted.owner() == "python");
    assert!(began.elapsed() < Duration::from_secs(30));
    // The same version again: the damage is repaired.
    fs::write(&file, switches(1)).unwrap();
    booted.eventually("rust", || booted.owner() == "rust");
    // An older one is refused, whatever it says.
    fs::write(&file, switches(0)).unwrap();
    booted.eventually("refused", || {
        said(&command(&booted.quay, &["switch", "show"])).contains("version")
    });
    load.stop();
}

/// The way back needs nothing of nginx: not even that it would start again.
#[test]
fn the_way_back_works_while_nginx_would_not_start() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    fs::write(booted.quay.conf("nginx/rate-limiting.conf"), "no directive of nginx's;").unwrap();
    // A canary changes the map, which nginx does not accept: everything stays with Python.
    let canary = booted.set("ROUTE_CANARY_ORGS=[demo]");
    assert_eq!(canary.status.code(), Some(1), "{canary:?}");
    assert!(said(&canary).contains("unknown directive"), "{canary:?}");
    booted.eventually("python", || booted.owner() == "python");
    let back = booted.set(&format!("{PULL}=python"));
    assert!(said(&back).contains("applied after"), "{back:?}");
    assert_eq!(booted.owner(), "python");
}
