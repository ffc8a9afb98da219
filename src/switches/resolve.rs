//! Who owns a route, a request or a worker, and why (the switch model, section 7).

use std::collections::{BTreeMap, BTreeSet};

use super::canary::Membership;
use super::catalogue::{Route, Worker, catalogue, is_pinned};
use super::key::Key;
use super::owner::Owner;
use super::router::{Found, Router};
use super::snapshot::{Assigned, Effective};

/// What this binary can serve. Comes from the binary, never from configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Sub-capabilities of the catalogue: `V2_PULL` alone covers neither `V2_TAGS` nor
    /// `V2_CATALOG`.
    pub capabilities: BTreeSet<String>,
    /// Programs, by the supervisor's name.
    pub workers: BTreeSet<String>,
}

/// Why something cannot be ours for now: sub-capability, capability or program, and a word for the
/// reason (`unhealthy`, `schema`, `storage_engine`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hindrances(pub BTreeMap<String, String>);

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The kill switch.
    Force,
    /// There is no snapshot to go by.
    SnapshotInvalid,
    /// No switch moves it.
    Pinned,
    /// This binary does not serve it.
    UnsupportedCapability,
    /// A word of [`Hindrances`].
    Hindered(String),
    /// A switch of the route.
    Route,
    /// A switch of the capability.
    Capability,
    /// A switch of the family.
    Family,
    /// A switch of the worker.
    Worker,
    /// Nothing is set.
    Default,
    /// The request is not in the canary's cohort.
    CanaryMiss,
    /// registryd decides when it knows the user, and hands everyone else back.
    CanaryUsers,
    /// The program has no owner of its own.
    NotSwitchable,
    /// No route of Quay's takes the request.
    NoRoute,
}

impl Reason {
    /// As it is printed, and as it labels a metric.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Force => "force",
            Self::SnapshotInvalid => "snapshot_invalid",
            Self::Pinned => "pinned",
            Self::UnsupportedCapability => "unsupported_capability",
            Self::Hindered(word) => word,
            Self::Route => "route",
            Self::Capability => "capability",
            Self::Family => "family",
            Self::Worker => "worker",
            Self::Default => "default",
            Self::CanaryMiss => "canary_miss",
            Self::CanaryUsers => "canary_users",
            Self::NotSwitchable => "not_switchable",
            Self::NoRoute => "no_route",
        }
    }
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name: a key, or a word.
    pub rule: String,
    /// What it said.
    pub found: String,
    /// Whether this settled the owner, or narrowed it down.
    pub decided: bool,
}

/// An owner and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The owner. With [`Decision::gated`], of the canary's cohort.
    pub owner: Owner,
    /// The rule that settled it.
    pub reason: Reason,
    /// Rust applies to the canary's cohort only; not set once a request was looked at.
    pub gated: bool,
    /// Every rule in order, up to the one that decided.
    pub rules: Vec<Rule>,
}

/// The answer of `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The route, if there is one.
    pub found: Option<Found>,
    /// Its owner.
    pub decision: Decision,
}

/// Resolves owners from what holds now. Cheap to make.
#[derive(Clone, Copy, Debug)]
pub struct Resolver<'a> {
    /// The switches.
    pub switches: &'a Effective,
    /// What the binary serves.
    pub declared: &'a Declared,
    /// What keeps it from serving.
    pub hindered: &'a Hindrances,
}

impl Declared {
    /// From names as in the catalogue.
    pub fn new(capabilities: &[&str], workers: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { capabilities: owned(capabilities), workers: owned(workers) }
    }
}

impl Hindrances {
    /// What this machine itself rules out: the state of a hash is written little-endian, and
    /// nobody but Python can continue it on another machine (decision 11).
    pub fn of_this_machine() -> Self {
        let mut all = BTreeMap::new();
        if cfg!(target_endian = "big") {
            all.insert("V2_PUSH".to_owned(), "big_endian".to_owned());
        }
        Self(all)
    }
}

/// Rules as they are looked at.
#[derive(Default)]
struct Trail(Vec<Rule>);

impl Trail {
    fn passed(&mut self, rule: impl Into<String>, found: impl Into<String>) {
        self.0.push(Rule { rule: rule.into(), found: found.into(), decided: false });
    }

    fn narrowed(&mut self, rule: impl Into<String>, found: impl Into<String>) {
        self.0.push(Rule { rule: rule.into(), found: found.into(), decided: true });
    }

    fn python(self, rule: &str, found: &str, reason: Reason) -> Decision {
        self.decided(rule, found, Owner::Python, reason)
    }

    fn decided(mut self, rule: &str, found: &str, owner: Owner, reason: Reason) -> Decision {
        self.narrowed(rule, found);
        Decision { owner, reason, gated: false, rules: self.0 }
    }
}

impl Resolver<'_> {
    /// The owner of a route, for `Decision::gated` routes within the canary's cohort.
    pub fn route(&self, route: &Route) -> Decision {
        let keys = [Key::Route(route.id).to_string()];
        let names = [route.sub_capability.as_str(), route.capability.as_str()];
        let family = route.family.as_str();
        self.owner(&names, family, keys, self.switches.switches.of_route(route))
    }

    /// The owner of a capability, switches of single routes apart; what `show` lists. `None` for a
    /// name that has no switch.
    pub fn capability(&self, name: &str) -> Option<Decision> {
        let route =
            catalogue().routes.iter().find(|route| route.switches().next() == Some(name))?;
        // The labels within a capability may be served or not; the capability is, with any of them.
        let served =
            catalogue().routes.iter().filter(|route| route.switches().next() == Some(name));
        let served = served.map(|route| route.sub_capability.as_str());
        let sub = served.clone().find(|sub| self.declared.capabilities.contains(*sub));
        let names = [sub.unwrap_or(name), route.capability.as_str()];
        let assigned = self.switches.switches.of_capability(name);
        Some(self.owner(&names, &route.family, [], assigned))
    }

    /// The owner of one request. A user is known to registryd, or given to `explain`.
    pub fn request(&self, route: &Route, repository: Option<&str>, user: Option<&str>) -> Decision {
        let decision = self.route(route);
        if !decision.gated {
            return decision;
        }
        let canary = &self.switches.switches.canary;
        let Decision { owner, reason, rules, .. } = decision;
        let mut trail = Trail(rules);
        let rule = "canary";
        let path = canary.by_path(repository);
        if path != Membership::Outside {
            let found = match path {
                Membership::Org => "ROUTE_CANARY_ORGS lists the namespace",
                Membership::Repo => "ROUTE_CANARY_REPOS lists the repository",
                _ => "ROUTE_CANARY_PERCENT reaches the repository",
            };
            return trail.decided(rule, found, owner, reason);
        }
        let told = match repository {
            Some(_) => "no selector of repositories matches",
            None => "the path names no repository",
        };
        trail.passed(rule, told);
        if !canary.has_users() || !users_decide(route) {
            return trail.python(rule, "outside the cohort", Reason::CanaryMiss);
        }
        if is_upload_in_progress(route) {
            // Whoever receives it can continue it (decision 5).
            let found = "an upload in progress is served by whoever receives it";
            return trail.decided(rule, found, owner, Reason::CanaryUsers);
        }
        match canary.by_user(user) {
            Membership::User => {
                trail.decided(rule, "ROUTE_CANARY_USERS lists the user", owner, reason)
            }
            Membership::Undecided => {
                let found = "registryd decides by ROUTE_CANARY_USERS, and hands others back";
                trail.decided(rule, found, owner, Reason::CanaryUsers)
            }
            _ => trail.python(rule, "outside the cohort", Reason::CanaryMiss),
        }
    }

    /// METHOD and PATH as a client would send them.
    pub fn explain(
        &self,
        router: &Router,
        method: &str,
        target: &str,
        user: Option<&str>,
    ) -> Explanation {
        let found = router.find(method, target);
        let route = found.as_ref().and_then(|found| catalogue().route(found.id));
        let repository = found.as_ref().and_then(|found| found.repository.as_deref());
        let decision = match route {
            Some(route) => self.request(route, repository, user),
            None => Trail::default().python(
                "route",
                "no route of Quay's takes this method on this path",
                Reason::NoRoute,
            ),
        };
        Explanation { found, decision }
    }

    /// The owner of a program. `python` means whatever the rendered autostart says.
    pub fn worker(&self, worker: &Worker) -> Decision {
        let mut trail = Trail::default();
        let Some(switch) = &worker.switch else {
            let found = worker.disposition.as_str();
            return trail.python("program", found, Reason::NotSwitchable);
        };
        if let Some(decision) = self.stopped(&mut trail) {
            return decision;
        }
        let owners = &self.switches.switches.owners;
        let assigned =
            owners.iter().find(|(key, _)| matches!(key, Key::Worker(own) if own == switch));
        let Some((_, assigned)) = assigned else {
            trail.passed(switch, "not set");
            return trail.python("default", "python", Reason::Default);
        };
        let found = format!("{} ({})", assigned.owner, assigned.place);
        if assigned.owner != Owner::Rust {
            return trail.decided(switch, &found, assigned.owner, Reason::Worker);
        }
        let served = self.declared.workers.contains(&worker.program);
        if let Some(decision) = self.hindered(&mut trail, served, &[&worker.program]) {
            return decision;
        }
        trail.decided(switch, &found, Owner::Rust, Reason::Worker)
    }

    fn owner<const N: usize>(
        &self,
        names: &[&str; 2],
        family: &str,
        keys: [String; N],
        assigned: Option<(Key, Assigned)>,
    ) -> Decision {
        let mut trail = Trail::default();
        if let Some(decision) = self.stopped(&mut trail) {
            return decision;
        }
        if is_pinned(names[1]) {
            return trail.python("pinned", "no switch moves it", Reason::Pinned);
        }
        trail.passed("pinned", "no");
        let served = self.declared.capabilities.contains(names[0]);
        if let Some(decision) = self.hindered(&mut trail, served, names) {
            return decision;
        }
        let Some((key, assigned)) = assigned else {
            trail.passed("switches", "none of its route, capability or family");
            return trail.python("default", "python", Reason::Default);
        };
        let closer = [
            (matches!(key, Key::Route(_)), keys.first().cloned()),
            (
                matches!(key, Key::Route(_) | Key::Capability(_)),
                Some(format!("ROUTE_OWNER_CAP_{}", names[1])),
            ),
        ];
        for (reached, closer) in closer {
            if !reached && let Some(closer) = closer {
                trail.passed(closer, "not set");
            }
        }
        let reason = match key {
            Key::Route(_) => Reason::Route,
            Key::Capability(_) => Reason::Capability,
            _ => Reason::Family,
        };
        let gated = self.switches.switches.is_gated(&assigned);
        let limits = if gated { ", for the canary's cohort" } else { "" };
        let found = match reason {
            Reason::Family => {
                format!("{}{limits} ({}; family {family})", assigned.owner, assigned.place)
            }
            _ => format!("{}{limits} ({})", assigned.owner, assigned.place),
        };
        Decision { gated, ..trail.decided(&key.to_string(), &found, assigned.owner, reason) }
    }

    /// What stops everything.
    fn stopped(&self, trail: &mut Trail) -> Option<Decision> {
        let name = Key::ForcePython.to_string();
        if let Some(place) = self.switches.force {
            let found = format!("true ({place})");
            return Some(std::mem::take(trail).python(&name, &found, Reason::Force));
        }
        trail.passed(name, "not set");
        if self.switches.invalid {
            let found = "none that can be used";
            return Some(std::mem::take(trail).python("snapshot", found, Reason::SnapshotInvalid));
        }
        None
    }

    /// What keeps this binary from serving.
    fn hindered(&self, trail: &mut Trail, served: bool, names: &[&str]) -> Option<Decision> {
        if !served {
            let found = "this binary does not serve it";
            let reason = Reason::UnsupportedCapability;
            return Some(std::mem::take(trail).python("served", found, reason));
        }
        if let Some(word) = names.iter().find_map(|name| self.hindered.0.get(*name)) {
            let reason = Reason::Hindered(word.clone());
            return Some(std::mem::take(trail).python("served", word, reason));
        }
        trail.passed("served", "yes");
        None
    }
}

/// Requests whose user registryd looks at (decision 5): tokens, pulls, new uploads, manifests.
pub(super) fn users_decide(route: &Route) -> bool {
    ["V2_AUTH", "V2_PULL", "V2_PUSH"].contains(&route.capability.as_str())
}

pub(super) fn is_upload_in_progress(route: &Route) -> bool {
    route.path.ends_with("<upload_uuid>")
}
