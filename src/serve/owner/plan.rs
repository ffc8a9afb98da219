//! From switches to what nginx is told: which requests can be ours, and which flags are set.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::{Canary, MIRROR_WORKER, PYTHONS_MIRROR_WORKER, Routing, Rule, RuleOwner};
use crate::config::Config;
use crate::switches::{
    Assigned, Declared, Effective, Hindrances, Key, Naming, Origin, Owner, Place, Resolver, Route,
    Setting, catalogue,
};

use super::status::Line;

/// The only family whose routes nginx sends through the registry's upstream.
const FAMILY: &str = "registry-v2";

/// Parts of capabilities that this binary serves. The rest resolves to Python.
const SERVED: [&str; 8] = [
    "V2_PULL",
    "V2_TAGS",
    "V2_CATALOG",
    "V2_REFERRERS",
    "V2_AUTH",
    "V2_BASE",
    "V2_PUSH",
    "V2_DELETE",
];

/// Workers that this binary runs: Quay's program and ours.
const WORKERS: [(&str, &str); 1] = [(PYTHONS_MIRROR_WORKER, MIRROR_WORKER)];

/// What this binary serves.
pub fn declared() -> Declared {
    Declared::new(&SERVED, &WORKERS.map(|(python, _)| python))
}

/// Our program for one of Quay's.
pub(super) fn program_of_ours(python: &str) -> Option<&'static str> {
    WORKERS.iter().find(|(program, _)| *program == python).map(|(_, ours)| *ours)
}

/// How this installation reads repository names.
pub fn naming(config: &Config) -> Naming {
    Naming {
        library_support: config.features.library_support,
        library_namespace: config.server.library_namespace.clone(),
    }
}

/// What is to be so.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// For nginx's map; a change of it needs a reload.
    pub(super) routing: Routing,
    /// Flags by name: whether the file is to be there.
    pub(super) flags: BTreeMap<String, bool>,
    /// Every capability and worker, for `show`.
    pub(super) lines: Vec<Line>,
}

impl Plan {
    pub(super) fn new(
        switches: &Effective,
        declared: &Declared,
        hindered: &Hindrances,
        naming: &Naming,
    ) -> Self {
        let resolver = Resolver { switches, declared, hindered };
        let mut plan = Self { routing: routing(switches, declared, naming), ..Self::default() };
        for name in catalogue().capabilities() {
            let Some(decision) = resolver.capability(name) else { continue };
            plan.lines.push(Line::new("capability", name, &decision));
            if served(declared, name) {
                plan.flags.insert(flag(name), decision.owner == Owner::Rust);
            }
        }
        for route in served_routes(declared) {
            if let Some((Key::Route(id), _)) = switches.switches.of_route(route) {
                let decision = resolver.route(route);
                plan.lines.push(Line::new("route", &route.tracker_id(), &decision));
                plan.flags.insert(route_flag(id), decision.owner == Owner::Rust);
            }
        }
        for worker in catalogue().switchable() {
            let decision = resolver.worker(worker);
            plan.lines.push(Line::new("worker", &worker.program, &decision));
        }
        plan
    }

    /// Whether anything is ours, or would be were it not for us.
    pub(super) fn wants_us(&self) -> bool {
        self.flags.values().any(|on| *on)
    }
}

/// A rule for each route of the family. Flags decide whether it is ours now, so that moving a
/// capability changes no rule; only overrides of single routes and canaries do.
pub(super) fn routing(switches: &Effective, declared: &Declared, naming: &Naming) -> Routing {
    let mut routes: Vec<&Route> =
        catalogue().routes.iter().filter(|route| route.family == FAMILY).collect();
    // `uploads` is not a digest, but a part of a repository's name could be.
    routes.sort_by_key(|route| !route.path.contains("/uploads/"));
    let rules = routes.into_iter().map(|route| Rule {
        methods: methods(route),
        path: route.pattern(naming).replace("\\z", "$"),
        owner: rule_owner(switches, declared, route),
    });
    Routing { rules: rules.collect(), canary: canary(switches, naming) }
}

/// Quay answers HEAD wherever it answers GET.
fn methods(route: &Route) -> Vec<String> {
    let mut methods = route.methods.clone();
    if methods.iter().any(|method| method == "GET") && !methods.iter().any(|m| m == "HEAD") {
        methods.push("HEAD".to_owned());
    }
    methods
}

fn rule_owner(switches: &Effective, declared: &Declared, route: &Route) -> RuleOwner {
    if !declared.capabilities.contains(&route.sub_capability) {
        return RuleOwner::Python;
    }
    let (flag, assigned) = match switches.switches.of_route(route) {
        Some((Key::Route(_), assigned)) if assigned.owner != Owner::Rust => {
            return RuleOwner::Python;
        }
        Some((Key::Route(id), assigned)) => (route_flag(id), assigned),
        Some((_, assigned)) => (flag(&route.capability), assigned),
        None => {
            let unset = Assigned {
                owner: Owner::Rust,
                gated: None,
                place: Place { origin: Origin::Environment, line: 0 },
            };
            (flag(&route.capability), unset)
        }
    };
    RuleOwner::Flag { flag, gated: switches.switches.is_gated(&assigned) }
}

fn canary(switches: &Effective, naming: &Naming) -> Canary {
    let canary = &switches.switches.canary;
    let names = |names: &Option<Setting<BTreeSet<String>>>| {
        names.iter().flat_map(|names| names.value.iter().cloned()).collect()
    };
    Canary {
        organizations: names(&canary.orgs),
        repositories: names(&canary.repos),
        percent: canary.percent.as_ref().map(|percent| percent.value).unwrap_or_default(),
        by_user: canary.has_users(),
        library: naming.library_support.then(|| naming.library_namespace.clone()),
    }
}

fn served(declared: &Declared, capability: &str) -> bool {
    served_routes(declared).any(|route| route.capability == capability)
}

fn served_routes(declared: &Declared) -> impl Iterator<Item = &'static Route> {
    let ours = |route: &&Route| {
        route.family == FAMILY && declared.capabilities.contains(&route.sub_capability)
    };
    catalogue().routes.iter().filter(ours)
}

/// The flag of a capability, or of a route by its tracker id.
pub(super) fn flag_of(id: &str) -> String {
    id.to_lowercase().replace('-', "_")
}

fn flag(capability: &str) -> String {
    capability.to_lowercase()
}

fn route_flag(id: u16) -> String {
    format!("route_{id:04}")
}
