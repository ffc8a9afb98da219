//! The real supervisord on the spliced file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quay_sidecar::bundle::{Ini, Outcome, Supervisor, SupervisordError, prove, stale};

use super::quay::{Quay, Variant};
use crate::support::eventually;
use crate::support::process::{AtExit, PATIENCE, signal, wait};

struct Supervisord {
    child: Child,
    supervisor: Supervisor,
    _at_exit: AtExit,
}

impl Supervisord {
    fn start(quay: &Quay) -> Supervisord {
        let conf = quay.conf("");
        let child = Command::new("supervisord")
            .arg("-c")
            .arg(quay.conf("supervisord.conf"))
            .current_dir(quay.root())
            .env("QUAYRUN", &conf)
            .env("QUAYCONF", &conf)
            .env("PYTHONPATH", "/nowhere")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("supervisord runs: install the package supervisor");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let supervisor = Supervisor::at(quay.bundle.tree.supervisor_socket(), PATIENCE);
        let started = Supervisord { child, supervisor, _at_exit };
        eventually(
            || started.supervisor.state("nginx").ok(),
            || "supervisord does not answer".to_owned(),
        );
        started
    }

    fn wait_for(&self, program: &str, state: &str) {
        let now = || self.supervisor.state(program).unwrap_or_else(|error| error.to_string());
        eventually(|| (now() == state).then_some(()), || format!("{program} is {}", now()));
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        wait(&mut self.child, "supervisord");
    }
}

/// Says what it was called with, and stays.
fn binary(quay: &Quay) {
    let path = &quay.bundle.programs.binary;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let log = quay.root().join("called");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexec sleep 1005\n", log.display());
    fs::write(path, script).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn our_programs_run_beside_quays() {
    let mut quay = Quay::new(Variant::default());
    // supervisord would take a single % for the beginning of an interpolation.
    quay.bundle.programs.binary = quay.root().join("100%/quay");
    binary(&quay);
    quay.boot();
    let supervisord = Supervisord::start(&quay);
    for program in ["gunicorn-registry", "nginx", "pullstatsredisflushworker", "owner-switch"] {
        supervisord.wait_for(program, "RUNNING");
    }
    for program in ["registryd", "repomirror", "api-service", "repomirrorworker"] {
        supervisord.wait_for(program, "STOPPED");
    }
    let called = || fs::read_to_string(quay.root().join("called")).unwrap_or_default();
    let root = quay.root().display();
    let watch = format!(
        "switch watch --config {root}/conf/stack --quay-conf {root}/conf --run {root}/run\n"
    );
    assert_eq!(called(), watch);

    let supervisor = &supervisord.supervisor;
    supervisor.start("registryd").unwrap();
    supervisor.start("registryd").unwrap();
    supervisord.wait_for("registryd", "RUNNING");
    let serve = format!(
        "serve registryd --config {root}/conf/stack --listen unix:{root}/run/registryd.sock,nginx \
         --python unix:{root}/gunicorn_registry.sock\n"
    );
    assert_eq!(called(), format!("{watch}{serve}"));
    supervisor.stop("registryd").unwrap();
    supervisor.stop("registryd").unwrap();
    supervisord.wait_for("registryd", "STOPPED");
    supervisor.begin_start("repomirror").unwrap();
    supervisor.begin_start("repomirror").unwrap();
    supervisord.wait_for("repomirror", "RUNNING");
    let worker = format!("worker repomirror --config {root}/conf/stack\n");
    assert_eq!(called(), format!("{watch}{serve}{worker}"));
    let process = || {
        let processes = supervisor.processes().unwrap();
        assert_eq!(processes.len(), 8, "{processes:?}");
        processes.into_iter().find(|process| process.name == "repomirror").unwrap()
    };
    assert!(process().is_running() && process().pid > 0 && !process().is_at_rest());
    supervisor.begin_stop("repomirror").unwrap();
    supervisor.begin_stop("repomirror").unwrap();
    supervisord.wait_for("repomirror", "STOPPED");
    assert!(process().is_at_rest() && !process().can_be_stopped());
    assert!(supervisor.start("nobody").unwrap_err().to_string().contains("BAD_NAME"));
    let check = quay.bundle.doctor().into_iter().find(|check| check.name == "supervisord");
    assert_eq!(check.unwrap().result.unwrap(), "owner-switch is RUNNING");
    let mirror_worker =
        || quay.bundle.doctor().into_iter().find(|check| check.name == "mirror worker").unwrap();
    assert_eq!(mirror_worker().result.unwrap(), "Python's is STOPPED, ours is STOPPED");
    for program in ["repomirror", "repomirrorworker"] {
        supervisor.start(program).unwrap();
    }
    let both = mirror_worker().result.unwrap_err();
    assert!(both.starts_with("Python's is RUNNING, ours is RUNNING: "), "{both}");
}

/// Appended without a line end, our first header becomes part of Quay's last comment, and our values
/// those of Quay's last program: supervisord says nothing, our proof does.
#[test]
fn the_missing_line_end_is_a_trap() {
    let quay = Quay::new(Variant::default());
    let theirs = quay.read("supervisord.conf");
    assert!(!theirs.ends_with('\n'));
    let ours = "[program:registryd]\ncommand=/bin/quay\n";
    let (before, glued) = (Ini::parse(&theirs).unwrap(), Ini::parse(&format!("{theirs}{ours}")));
    let glued = glued.unwrap();
    assert_eq!(glued.program("pullstatsredisflushworker", "command"), Some("/bin/quay"));
    let error = prove(&before, &Ini::parse(ours).unwrap(), &glued).unwrap_err();
    let victim = "program:pullstatsredisflushworker".to_owned();
    assert_eq!(error, SupervisordError::Changed(victim));

    quay.boot();
    let after = Ini::parse(&quay.read("supervisord.conf")).unwrap();
    let known: Vec<&str> = before.programs().collect();
    let added: Vec<&str> = after.programs().filter(|name| !known.contains(name)).collect();
    assert_eq!(added, ["registryd", "owner-switch", "repomirror", "api-service"]);
    for section in before.sections() {
        assert_eq!(after.section(&section.name), Some(section));
    }
}

#[test]
fn where_nginx_is_not_started_neither_are_we() {
    let quay = Quay::new(Variant { no_nginx: true, ..Variant::default() });
    let applied = quay.boot();
    assert!(applied.to_string().contains("nginx is not started here"), "{applied}");
    let programs = Ini::parse(&quay.read("supervisord.conf")).unwrap();
    for program in ["registryd", "owner-switch", "repomirror", "api-service"] {
        assert!(!programs.autostart(program), "{program}");
    }
}

/// As in Quay's mode `repomirror`: the one worker there is has to be moved by somebody.
#[test]
fn where_quay_only_mirrors_there_is_a_watcher() {
    let quay = Quay::new(Variant { no_nginx: true, ..Variant::default() });
    let theirs = quay.read("supervisord.conf");
    let mirrors = theirs.replace("1003\nautostart = false", "1003\nautostart = true");
    assert_ne!(mirrors, theirs);
    fs::write(quay.conf("supervisord.conf"), mirrors).unwrap();
    let applied = quay.boot();
    assert!(applied.to_string().contains("only the mirror worker can be ours"), "{applied}");
    let programs = Ini::parse(&quay.read("supervisord.conf")).unwrap();
    assert!(programs.autostart("owner-switch"));
    for program in ["registryd", "repomirror", "api-service"] {
        assert!(!programs.autostart(program), "{program}");
    }
}

#[test]
fn overrides_are_read_as_quay_reads_them() {
    let mut quay = Quay::new(Variant::default());
    let overrides = "registryd=true, owner-switch=false,registryd=false,owner-switch2=true, \
                     repomirror=true";
    quay.bundle.programs.overrides = Some(overrides.to_owned());
    let applied = quay.boot();
    assert!(applied.to_string().contains("registryd: autostart=true"), "{applied}");
    let programs = Ini::parse(&quay.read("supervisord.conf")).unwrap();
    assert!(programs.autostart("registryd") && !programs.autostart("owner-switch"));
    assert!(programs.autostart("repomirror"));
}

#[test]
fn paths_that_supervisord_would_misread_are_refused() {
    for path in ["/opt/a b/quay", "/opt/a;b", "relative", "/opt/a\"b"] {
        let mut quay = Quay::new(Variant::default());
        quay.bundle.programs.binary = path.into();
        let applied = quay.bundle.apply(quay_sidecar::bundle::When::Boot);
        assert!(matches!(applied.outcome, Outcome::Untouched(_)), "{path}: {applied}");
    }
}

#[test]
fn stale_entries_of_the_service_map_are_named() {
    let programs = Ini::parse("[program:nginx]\ncommand=nginx\n").unwrap();
    let map = "{\n  \"nginx\": {\"autostart\": \"true\"},\n  'gone': {'autostart': \"false\"},\n\
               \"ip-resolver-update-worker\": {\"autostart\": \"true\"},\n}";
    assert_eq!(stale(map, &programs), ["gone", "ip-resolver-update-worker"]);
    assert_eq!(Supervisor::at("/x", Duration::ZERO).socket().to_str(), Some("/x"));
}
