//! nginx and `quay switch explain` name the same owner: for every method on every route of Quay's.

use std::collections::HashMap;
use std::fs;

use quay_sidecar::bundle::When;
use quay_sidecar::serve::owner::{Installation, Paths, declared};
use quay_sidecar::switches::{Hindrances, Key, Naming, Owner, Resolver, Router, catalogue};

use crate::bundle::backend::Backend;
use crate::bundle::http::Client;
use crate::bundle::nginx::Nginx;
use crate::bundle::quay::{Quay, Variant};
use crate::support::World;

const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];

/// A path for each route, with names that the canaries below are and are not about.
fn paths() -> Vec<String> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let of = |path: &str, repository: &str| -> String {
        let segments = path.split('/').map(|segment| match segment {
            "<repopath>" | "<apirepopath>" => repository.to_owned(),
            "<digest>" => digest.clone(),
            "<tag>" => "v1.0".to_owned(),
            "<path:path>" => "a/b".to_owned(),
            literal if !literal.starts_with('<') => literal.to_owned(),
            _ => "x1".to_owned(),
        });
        segments.collect::<Vec<_>>().join("/")
    };
    let mut paths: Vec<String> = catalogue()
        .routes
        .iter()
        .flat_map(|route| {
            ["acme/app", "acme/deep/er", "other/app", "alone"].map(|name| of(&route.path, name))
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn agree(switches: &str) {
    let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
    let world = World::new();
    for file in ["config.yaml", "quay.pem", "quay.kid"] {
        fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
    }
    let document = format!("schema: 1\nversion: 1\nswitches:\n{switches}...\n");
    fs::write(quay.conf("stack/migration-switches.yaml"), document).unwrap();
    let no_environment = HashMap::new();
    let paths = Paths {
        config: quay.conf("stack"),
        quay_dir: quay.root().to_owned(),
        quay_conf: quay.conf(""),
        run: quay.bundle.programs.run.clone(),
    };
    let installation = Installation::new(paths, None, &no_environment);
    let applied = installation.bundle(installation.routing()).apply(When::Boot);
    assert!(applied.is_done(), "{applied}");
    let _python = Backend::start("python", &quay.python_socket());
    let _rust = Backend::start("rust", &quay.rust_socket());
    let _nginx = Nginx::start(&quay);

    let (switches, declared, hindered) =
        (installation.switches(), declared(), Hindrances::default());
    let resolver = Resolver { switches: &switches, declared: &declared, hindered: &hindered };
    // What the watcher does.
    for name in catalogue().capabilities() {
        let owner = resolver.capability(name).map(|decision| decision.owner);
        quay.flag(&name.to_lowercase(), owner == Some(Owner::Rust));
    }
    for route in &catalogue().routes {
        if let Some((Key::Route(id), _)) = switches.switches.of_route(route) {
            let owner = resolver.route(route).owner;
            quay.flag(&format!("route_{id:04}"), owner == Owner::Rust);
        }
    }
    let router = Router::new(Naming::default()).unwrap();
    let by_user = switches.switches.canary.has_users();
    let (mut ours, mut all) = (0, 0);
    let mut client = Client::new(quay.port);
    for path in self::paths() {
        for method in METHODS {
            let explained = resolver.explain(&router, method, &path, None);
            let route = explained.found.and_then(|found| catalogue().route(found.id));
            let explained = match route {
                // Users are registryd's to look at: nginx sends it all that is gated.
                Some(route) if by_user => resolver.route(route),
                _ => explained.decision,
            };
            let answer = client.send(method, &path, &[], None).unwrap();
            let is_ours = answer.by() == "rust";
            let rules = &explained.rules;
            assert_eq!(is_ours, explained.owner == Owner::Rust, "{method} {path}: {rules:?}");
            ours += usize::from(is_ours);
            all += 1;
        }
    }
    assert!(ours > 5 && ours < all / 10, "{ours} of {all}");
}

#[test]
fn with_a_capability() {
    agree("  ROUTE_OWNER_CAP_V2_PULL: rust\n");
}

#[test]
fn with_a_family_and_exceptions() {
    let switches = "  ROUTE_OWNER_FAMILY_REGISTRY_V2: rust\n  \
        ROUTE_OWNER_CAP_V2_AUTH: python\n  ROUTE_OWNER_ROUTE_ROUTE_0335: python\n";
    agree(switches);
}

#[test]
fn with_a_single_route() {
    agree("  ROUTE_OWNER_ROUTE_ROUTE_0335: rust\n");
}

#[test]
fn with_canaries() {
    let switches = "  ROUTE_OWNER_FAMILY_REGISTRY_V2: rust\n  \
        ROUTE_CANARY_ORGS: [library]\n  ROUTE_CANARY_REPOS: [acme/app]\n  \
        ROUTE_CANARY_PERCENT: 40\n";
    agree(switches);
}

#[test]
fn with_a_canary_of_users() {
    let switches = "  ROUTE_OWNER_FAMILY_REGISTRY_V2: rust\n  \
        ROUTE_CANARY_USERS: [ada]\n  ROUTE_CANARY_REPOS: [acme/app]\n";
    agree(switches);
}
