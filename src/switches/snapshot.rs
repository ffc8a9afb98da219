//! Sets of switches: one version of the file, and what holds when the environment is added.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use sha2::{Digest as _, Sha256};

use super::canary::Canary;
use super::catalogue::{Route, catalogue, hex};
use super::environment::Stage;
use super::key::{Key, OAUTH};
use super::owner::Owner;
use super::problem::{Origin, Place};

/// How often the file is read unless it says otherwise (section 8).
pub(super) const POLL: Duration = Duration::from_secs(10);

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// An owner as it was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The owner.
    pub owner: Owner,
    /// Whether rust applies to the canary's cohort only; `None` where that is left to whether
    /// there is a canary.
    pub gated: Option<bool>,
    /// Where it stands.
    pub place: Place,
}

/// Switches, of whatever origin. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// `MIGRATION_FORCE_PYTHON`
    pub force: Option<Setting<bool>>,
    /// Of routes, capabilities, families and workers.
    pub owners: BTreeMap<Key, Assigned>,
    /// `ROUTE_CANARY_*`
    pub canary: Canary,
}

/// One valid version of the switch file, or of its section in `config.yaml` (section 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Raised by every change.
    pub version: u64,
    /// When it was written, as it says itself.
    pub updated_at: Option<DateTime<FixedOffset>>,
    /// The route table its route switches were written for.
    pub route_table: Option<String>,
    /// How often to look for the next one.
    pub poll: Duration,
    /// The switches.
    pub switches: Switches,
    /// Whether it ends in the line `...`, so that it cannot be the beginning of a longer one.
    pub complete: bool,
    /// Where it was read.
    pub origin: Origin,
}

/// One switch that differs between two sets: a line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The switch.
    pub key: Key,
    /// What it was, as it would be written; `None` when it was absent.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
    /// Where it stands, or stood.
    pub place: Place,
}

/// The switches that hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// File over environment, key by key.
    pub switches: Switches,
    /// What forces everything to Python.
    pub force: Option<Place>,
    /// Everything is Python's because there is no snapshot to go by (decision 8).
    pub invalid: bool,
}

impl Switches {
    /// What was assigned to a route, and by which key: its own, its capability's, its family's.
    pub fn of_route(&self, route: &Route) -> Option<(Key, Assigned)> {
        let own =
            self.owners.get(&Key::Route(route.id)).map(|found| (Key::Route(route.id), *found));
        own.or_else(|| route.switches().find_map(|name| self.of_capability_alone(name)))
            .or_else(|| self.of_family(&route.family))
    }

    /// What was assigned to a capability of the catalogue, single routes apart.
    pub fn of_capability(&self, name: &str) -> Option<(Key, Assigned)> {
        let belongs = |route: &&Route| route.switches().next() == Some(name);
        let route = catalogue().routes.iter().find(belongs)?;
        route
            .switches()
            .find_map(|name| self.of_capability_alone(name))
            .or_else(|| self.of_family(&route.family))
    }

    fn of_capability_alone(&self, name: &str) -> Option<(Key, Assigned)> {
        let mut all = self.owners.iter();
        all.find(|(key, _)| matches!(key, Key::Capability(own) if *own == name))
            .map(|(key, found)| (*key, *found))
    }

    /// `OAUTH` stands for both of its families where they have no switch of their own (section 2).
    fn of_family(&self, name: &str) -> Option<(Key, Assigned)> {
        let family = catalogue().family(name)?;
        let both = family.switch.starts_with(OAUTH).then_some(OAUTH);
        let get = |switch| {
            let key = Key::Family(switch);
            self.owners.get(&key).map(|found| (key, *found))
        };
        get(family.switch.as_str()).or_else(|| both.and_then(get))
    }

    /// Whether an assignment applies to the canary's cohort only. Gated by the mere presence of a
    /// canary: whoever lists organisations does not mean everybody.
    pub fn is_gated(&self, assigned: &Assigned) -> bool {
        assigned.owner == Owner::Rust && assigned.gated.unwrap_or_else(|| self.canary.is_present())
    }

    /// Every switch that is set, as it would be written.
    pub fn written(&self) -> BTreeMap<Key, (String, Place)> {
        let mut all = BTreeMap::new();
        for (key, assigned) in &self.owners {
            let text = match assigned.gated {
                None => assigned.owner.to_string(),
                Some(gated) => format!("{{owner: {}, gated: {gated}}}", assigned.owner),
            };
            all.insert(*key, (text, assigned.place));
        }
        if let Some(force) = &self.force {
            all.insert(Key::ForcePython, (force.value.to_string(), force.place));
        }
        let canary = &self.canary;
        let lists = [
            (Key::CanaryOrgs, &canary.orgs),
            (Key::CanaryRepos, &canary.repos),
            (Key::CanaryUsers, &canary.users),
        ];
        for (key, names) in lists {
            if let Some(names) = names {
                all.insert(key, (list(&names.value), names.place));
            }
        }
        if let Some(percent) = &canary.percent {
            all.insert(Key::CanaryPercent, (percent.value.to_string(), percent.place));
        }
        all
    }

    /// What is different in `next`.
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let (old, new) = (self.written(), next.written());
        let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
        let changed = keys.into_iter().filter_map(|key| {
            let (from, to) = (old.get(key), new.get(key));
            let text = |side: Option<&(String, Place)>| side.map(|(text, _)| text.clone());
            let place = to.or(from).map_or(Place::ENVIRONMENT, |(_, place)| *place);
            let change = Change { key: *key, from: text(from), to: text(to), place };
            (change.from != change.to).then_some(change)
        });
        changed.collect()
    }

    /// `self` where it says something, `below` elsewhere. Neither side can take back a kill.
    fn over(&self, below: &Self) -> Self {
        let mut owners = below.owners.clone();
        owners.extend(self.owners.iter().map(|(key, assigned)| (*key, *assigned)));
        let killed = |side: &Self| side.force.clone().filter(|force| force.value);
        let (canary, under) = (self.canary.clone(), below.canary.clone());
        Self {
            force: killed(self).or_else(|| killed(below)).or_else(|| self.force.clone()),
            owners,
            canary: Canary {
                orgs: canary.orgs.or(under.orgs),
                repos: canary.repos.or(under.repos),
                users: canary.users.or(under.users),
                percent: canary.percent.or(under.percent),
            },
        }
    }
}

fn list(names: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl Snapshot {
    /// A hash of what it means: layout, comments and the time of writing do not count. Two
    /// snapshots of one version have to agree in it.
    pub fn meaning(&self) -> String {
        let mut text = format!("{} {:?} {:?}\n", self.version, self.poll, self.route_table);
        for (key, (value, _)) in self.switches.written() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key}: {value}");
        }
        hex(&Sha256::digest(text))
    }
}

impl Effective {
    /// What holds when there is no snapshot and never was one.
    pub fn environment(stage: &Stage) -> Self {
        Self::of(stage.switches.clone(), None, false)
    }

    /// What holds with a snapshot: file over environment, key by key (section 8).
    pub fn merged(stage: &Stage, snapshot: &Snapshot) -> Self {
        Self::of(snapshot.switches.over(&stage.switches), None, false)
    }

    /// Everything is Python's.
    pub fn python(stage: &Stage) -> Self {
        let force = stage.switches.force.clone();
        Self::of(Switches { force, ..Switches::default() }, None, true)
    }

    /// The same, killed from `place` if that is some place.
    pub fn killed(self, place: Option<Place>) -> Self {
        Self::of(self.switches, place, self.invalid)
    }

    fn of(switches: Switches, place: Option<Place>, invalid: bool) -> Self {
        let force = switches.force.as_ref().filter(|force| force.value).map(|force| force.place);
        Self { force: force.or(place), switches, invalid }
    }
}
