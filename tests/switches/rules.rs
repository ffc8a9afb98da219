//! The order of the rules, and canaries.

use quay_sidecar::switches::{Declared, Effective, Hindrances, Owner, Reason, Resolver, catalogue};

use super::{ROUTER, environment, everything};

/// GET of the catalog, which is route 336 of V2_PULL of registry-v2.
fn decide(
    switches: &[(&str, &str)],
    declared: &Declared,
    hindered: &[(&str, &str)],
) -> (Owner, String) {
    let effective = Effective::environment(&environment(switches));
    let hindered =
        Hindrances(hindered.iter().map(|(name, word)| ((*name).into(), (*word).into())).collect());
    let resolver = Resolver { switches: &effective, declared, hindered: &hindered };
    let decision = resolver.route(catalogue().route(336).unwrap());
    assert!(decision.rules.last().is_some_and(|rule| rule.decided));
    (decision.owner, decision.reason.as_str().to_owned())
}

#[test]
fn the_first_rule_that_applies_decides() {
    let route = |owner| ("ROUTE_OWNER_ROUTE_ROUTE_0336", owner);
    let capability = |owner| ("ROUTE_OWNER_CAP_V2_PULL", owner);
    let family = |owner| ("ROUTE_OWNER_FAMILY_REGISTRY_V2", owner);
    let force = ("MIGRATION_FORCE_PYTHON", "true");
    let (all, none) = (everything(), Declared::default());
    let pull = Declared::new(&["V2_PULL"], &[]);
    let is = |owner, reason: &str| (owner, reason.to_owned());
    let rust = [route("rust"), capability("rust"), family("rust")];
    let forced = [rust.as_slice(), &[force]].concat();
    assert_eq!(decide(&forced, &all, &[("V2_PULL", "schema")]), is(Owner::Python, "force"));
    assert_eq!(decide(&rust, &none, &[]), is(Owner::Python, "unsupported_capability"));
    assert_eq!(decide(&rust, &pull, &[]), is(Owner::Python, "unsupported_capability"));
    assert_eq!(decide(&rust, &all, &[("V2_PULL", "schema")]), is(Owner::Python, "schema"));
    assert_eq!(decide(&rust, &all, &[("V2_CATALOG", "slow")]), is(Owner::Python, "slow"));
    assert_eq!(decide(&rust, &all, &[("V2_PUSH", "schema")]), is(Owner::Rust, "route"));
    let table = [
        ([Some("python"), Some("rust"), Some("rust")], is(Owner::Python, "route")),
        ([Some("rust"), Some("python"), Some("python")], is(Owner::Rust, "route")),
        ([None, Some("rust"), Some("python")], is(Owner::Rust, "capability")),
        ([None, Some("python"), Some("rust")], is(Owner::Python, "capability")),
        ([None, None, Some("rust")], is(Owner::Rust, "family")),
        ([None, None, Some("python")], is(Owner::Python, "family")),
        ([None, None, None], is(Owner::Python, "default")),
    ];
    for ([own, cap, fam], expected) in table {
        let switches: Vec<(&str, &str)> =
            [own.map(route), cap.map(capability), fam.map(family)].into_iter().flatten().collect();
        assert_eq!(decide(&switches, &all, &[]), expected, "{switches:?}");
    }
}

#[test]
fn pinned_deletes_oauth_and_workers() {
    let (declared, hindered) = (everything(), Hindrances::default());
    let ask = |switches: &[(&str, &str)], id| {
        let effective = Effective::environment(&environment(switches));
        let resolver = Resolver { switches: &effective, declared: &declared, hindered: &hindered };
        let decision = resolver.route(catalogue().route(id).unwrap());
        (decision.owner, decision.reason)
    };
    let web = [("ROUTE_OWNER_FAMILY_WEB", "rust")];
    assert_eq!(ask(&web, 365), (Owner::Python, Reason::Pinned));
    assert_eq!(ask(&web, 354), (Owner::Rust, Reason::Family));
    let push = ("ROUTE_OWNER_CAP_V2_PUSH", "rust");
    assert_eq!(ask(&[push], 329), (Owner::Rust, Reason::Capability));
    let delete = ("ROUTE_OWNER_CAP_V2_DELETE", "python");
    assert_eq!(ask(&[push, delete], 329), (Owner::Python, Reason::Capability));
    assert_eq!(ask(&[push, delete], 331), (Owner::Rust, Reason::Capability));
    let both = ("ROUTE_OWNER_FAMILY_OAUTH", "rust");
    assert_eq!(ask(&[both], 273), (Owner::Rust, Reason::Family));
    let one = ("ROUTE_OWNER_FAMILY_OAUTH2", "python");
    assert_eq!(ask(&[both, one], 281), (Owner::Python, Reason::Family));
    assert_eq!(ask(&[both, one], 273), (Owner::Rust, Reason::Family));

    let worker = |switches: &[(&str, &str)], program: &str, declared: &Declared| {
        let effective = Effective::environment(&environment(switches));
        let resolver = Resolver { switches: &effective, declared, hindered: &hindered };
        let decision = resolver.worker(catalogue().worker(program).unwrap());
        (decision.owner, decision.reason)
    };
    let gc = ("WORKER_OWNER_GCWORKER", "rust");
    let off = ("WORKER_OWNER_GCWORKER", "off");
    let force = ("MIGRATION_FORCE_PYTHON", "1");
    let none = Declared::default();
    assert_eq!(worker(&[gc], "gcworker", &declared), (Owner::Rust, Reason::Worker));
    assert_eq!(worker(&[gc], "gcworker", &none), (Owner::Python, Reason::UnsupportedCapability));
    assert_eq!(worker(&[off], "gcworker", &none), (Owner::Off, Reason::Worker));
    assert_eq!(worker(&[off, force], "gcworker", &declared), (Owner::Python, Reason::Force));
    assert_eq!(worker(&[], "gcworker", &declared), (Owner::Python, Reason::Default));
    assert_eq!(worker(&[], "nginx", &declared), (Owner::Python, Reason::NotSwitchable));
}

#[test]
fn canaries_narrow_down() {
    let stage = environment(&[
        ("ROUTE_OWNER_FAMILY_REGISTRY_V2", "rust"),
        ("ROUTE_CANARY_ORGS", "mirror"),
        ("ROUTE_CANARY_USERS", "alice"),
    ]);
    let effective = Effective::environment(&stage);
    let (declared, hindered) = (everything(), Hindrances::default());
    let resolver = Resolver { switches: &effective, declared: &declared, hindered: &hindered };
    let table = [
        ("GET", "/v2/mirror/x/manifests/a", None, Owner::Rust, Reason::Family),
        ("GET", "/v2/other/x/manifests/a", None, Owner::Rust, Reason::CanaryUsers),
        ("GET", "/v2/other/x/manifests/a", Some("alice"), Owner::Rust, Reason::Family),
        ("GET", "/v2/other/x/manifests/a", Some("bob"), Owner::Python, Reason::CanaryMiss),
        ("GET", "/v2/auth", Some("bob"), Owner::Python, Reason::CanaryMiss),
        ("GET", "/v2/auth", None, Owner::Rust, Reason::CanaryUsers),
        ("GET", "/v2/", Some("alice"), Owner::Python, Reason::CanaryMiss),
        ("PATCH", "/v2/other/x/blobs/uploads/u", Some("bob"), Owner::Rust, Reason::CanaryUsers),
        ("POST", "/v2/other/x/blobs/uploads/", Some("bob"), Owner::Python, Reason::CanaryMiss),
        ("BREW", "/v2/", None, Owner::Python, Reason::NoRoute),
    ];
    ROUTER.with(|router| {
        for (method, path, user, owner, reason) in table {
            let decision = resolver.explain(router, method, path, user).decision;
            assert_eq!(
                (decision.owner, decision.reason),
                (owner, reason),
                "{method} {path} {user:?}"
            );
            assert!(decision.rules.last().is_some_and(|rule| rule.decided));
        }
    });
}
