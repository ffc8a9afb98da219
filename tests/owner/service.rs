//! registryd as a service of its own, as on Kubernetes: nginx and the watcher beside Python, registryd
//! at an address.

use std::fs;
use std::process::Output;

use super::{Booted, PULL, command, said};
use crate::bundle::backend::Backend;
use crate::bundle::quay::{Quay, Variant};
use crate::support::{Registryd, World, free_port};

struct Elsewhere {
    booted: Booted,
    registryd: Registryd,
}

/// As its Deployment starts it, but for the addresses.
fn registryd(world: &World, port: u16) -> Registryd {
    let listen = format!("127.0.0.1:{port},nginx=127.0.0.0/8");
    Registryd::start(&world.conf, &["--listen", &listen])
}

impl Elsewhere {
    fn new() -> Elsewhere {
        let world = World::new();
        let port = free_port();
        let registryd = registryd(&world, port);
        let mut quay = Quay::new(Variant { same_user: true, ..Variant::default() });
        quay.bundle.programs.service = Some(([127, 0, 0, 1], port).into());
        let python = Backend::start("python", &quay.python_socket());
        Elsewhere { booted: Booted::around(quay, world, Box::new(python)), registryd }
    }

    fn set(&self, switch: &str) -> Output {
        self.booted.set(switch)
    }
}

#[test]
fn a_switch_moves_pulls_to_the_service_and_back() {
    let elsewhere = Elsewhere::new();
    let booted = &elsewhere.booted;
    // nginx knows an address, and no name that it would have to look up.
    let files = booted.quay.read("nginx/quay-sidecar-http.conf");
    let port = booted.quay.bundle.programs.service.unwrap().port();
    assert!(!files.contains("localhost"), "{files}");
    assert!(files.contains(&format!("server 127.0.0.1:{port} max_fails=0;")), "{files}");
    let set = elsewhere.set(&format!("{PULL}=rust"));
    assert!(said(&set).contains("applied after "), "{set:?}");
    booted.eventually("rust", || booted.owner() == "rust");
    assert_eq!(booted.pull().body, booted.world.public.manifest.bytes);
    // supervisord's own registryd stays where it is: not started.
    assert_eq!(booted.supervisor.state("registryd").unwrap(), "STOPPED");

    // nginx's word for who asked counts, as in Quay.
    let rows = booted.world.database.sql("SELECT DISTINCT ip FROM logentry3");
    assert_eq!(rows.trim(), "127.0.0.1");
    // What it cannot answer is Python's within the same request.
    let docker = "/v2/demo/public/manifests/latest";
    let declined = super::Client::new(booted.quay.port).send("GET", docker, &[], None).unwrap();
    assert_eq!((declined.status, declined.by()), (200, "python"), "{declined:?}");

    let back = elsewhere.set(&format!("{PULL}=python"));
    assert!(said(&back).contains("applied after "), "{back:?}");
    booted.eventually("python", || booted.owner() == "python");
}

#[test]
fn a_service_that_is_away_or_hangs_costs_nobody_an_answer() {
    let mut elsewhere = Elsewhere::new();
    let booted = &elsewhere.booted;
    assert!(elsewhere.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    elsewhere.registryd.signal("STOP");
    booted.eventually("noticed", || !booted.quay.run().flag("v2_pull").exists());
    assert_eq!(booted.owner(), "python");
    // Nobody kills it: that is the cluster's to do.
    elsewhere.registryd.signal("CONT");
    booted.eventually("rust", || booted.owner() == "rust");
    let load = super::Load::start(booted);
    elsewhere.registryd.terminate();
    booted.eventually("python", || booted.owner() == "python");
    load.stop();
    let port = booted.quay.bundle.programs.service.unwrap().port();
    let _again = registryd(&booted.world, port);
    booted.eventually("rust", || booted.owner() == "rust");
}

/// The file that tells registryd of users is on another machine.
#[test]
fn a_canary_of_users_leaves_everything_with_python() {
    let elsewhere = Elsewhere::new();
    let booted = &elsewhere.booted;
    let both = ["switch", "set", &format!("{PULL}=rust"), "ROUTE_CANARY_USERS=[ada]"];
    command(&booted.quay, &both);
    booted.eventually("told", || {
        let shown = said(&command(&booted.quay, &["switch", "show"]));
        shown.lines().any(|line| line.contains("V2_PULL") && line.contains("python (canary_users)"))
    });
    assert_eq!(booted.owner(), "python");
}

/// Quay starts as it always did, whatever the name is worth.
#[test]
fn a_service_that_cannot_be_found_is_left_out() {
    let quay = Quay::new(Variant::default());
    let world = World::new();
    fs::copy(world.conf.join("config.yaml"), quay.conf("stack/config.yaml")).unwrap();
    let before = quay.edited();
    for (service, reason) in [
        ("registryd.invalid:8445", "cannot be resolved"),
        ("0.0.0.0:8445", "where no service can be"),
        ("registryd", "is not HOST:PORT"),
    ] {
        let hook = command(&quay, &["bundle", "apply", "--hook", "--service", service]);
        assert!(hook.status.success() && said(&hook).contains(reason), "{hook:?}");
        assert!(!command(&quay, &["bundle", "apply", "--service", service]).status.success());
    }
    assert_eq!(quay.edited(), before);
}
