//! The flat names of the switches, the same in the environment and in the file (decision 2).

use std::fmt;

use super::catalogue::{Worker, catalogue, is_pinned};
use super::problem::{Code, Wrong, shown};

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `MIGRATION_FORCE_PYTHON`: the kill switch.
    ForcePython,
    /// `ROUTE_OWNER_ROUTE_ROUTE_0324`, by number. The doubled word is correct (section 4).
    Route(u16),
    /// `ROUTE_OWNER_CAP_V2_PULL`, by the part after `CAP_`.
    Capability(&'static str),
    /// `ROUTE_OWNER_FAMILY_REGISTRY_V2`, by the part after `FAMILY_`.
    ///
    /// `OAUTH` is not a family: it stands for `OAUTH1` and `OAUTH2` where they are not set.
    Family(&'static str),
    /// `WORKER_OWNER_REPOMIRRORWORKER`, by the whole name.
    Worker(&'static str),
    /// `ROUTE_CANARY_ORGS`
    CanaryOrgs,
    /// `ROUTE_CANARY_REPOS`
    CanaryRepos,
    /// `ROUTE_CANARY_USERS`
    CanaryUsers,
    /// `ROUTE_CANARY_PERCENT`
    CanaryPercent,
}

pub(super) const FORCE: &str = "MIGRATION_FORCE_PYTHON";
pub(super) const OAUTH: &str = "OAUTH";
const ROUTE: &str = "ROUTE_OWNER_ROUTE_";
const CAPABILITY: &str = "ROUTE_OWNER_CAP_";
const FAMILY: &str = "ROUTE_OWNER_FAMILY_";
const WORKER: &str = "WORKER_OWNER_";
const OWNER: &str = "ROUTE_OWNER_";
const CANARY: &str = "ROUTE_CANARY_";

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForcePython => f.write_str(FORCE),
            Self::Route(id) => write!(f, "{ROUTE}ROUTE_{id:04}"),
            Self::Capability(name) => write!(f, "{CAPABILITY}{name}"),
            Self::Family(name) => write!(f, "{FAMILY}{name}"),
            Self::Worker(name) => f.write_str(name),
            Self::CanaryOrgs => f.write_str("ROUTE_CANARY_ORGS"),
            Self::CanaryRepos => f.write_str("ROUTE_CANARY_REPOS"),
            Self::CanaryUsers => f.write_str("ROUTE_CANARY_USERS"),
            Self::CanaryPercent => f.write_str("ROUTE_CANARY_PERCENT"),
        }
    }
}

impl Key {
    /// Whether a variable of this name is meant for us, well-formed or not.
    pub fn is_ours(name: &str) -> bool {
        name == FORCE || [OWNER, WORKER, CANARY].iter().any(|start| name.starts_with(start))
    }

    /// Reads a name as an operator writes it.
    ///
    /// # Errors
    /// What is wrong with it, and what may have been meant, as text.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::parse(name).map_err(|wrong| format!("{}; {}", wrong.reason, wrong.remedy))
    }

    pub(super) fn parse(name: &str) -> Result<Self, Wrong> {
        if name == FORCE {
            return Ok(Self::ForcePython);
        }
        if let Some(rest) = name.strip_prefix(CANARY) {
            return canary(rest);
        }
        if let Some(rest) = name.strip_prefix(ROUTE) {
            return route(rest);
        }
        if let Some(rest) = name.strip_prefix(CAPABILITY) {
            return capability(rest);
        }
        if let Some(rest) = name.strip_prefix(FAMILY) {
            return family(rest);
        }
        if name.starts_with(WORKER) {
            return worker(name);
        }
        if name.starts_with(OWNER) {
            let reason = "switches of the tracker's own are not used";
            let remedy = format!("name a route ({}), a capability or a family", Self::Route(324));
            return Err(Wrong::new(Code::LegacyRouteKey, reason, remedy));
        }
        let remedy =
            format!("use {CAPABILITY}…, {FAMILY}…, {ROUTE}…, {WORKER}…, {CANARY}… or {FORCE}");
        Err(Wrong::new(Code::UnknownKey, "not a switch", remedy))
    }

    /// Whether it is about routes as opposed to workers.
    pub(super) fn owns_routes(self) -> bool {
        matches!(self, Self::Route(_) | Self::Capability(_) | Self::Family(_))
    }

    /// Whether nothing that it names can be moved.
    pub(super) fn is_pinned(self) -> bool {
        match self {
            Self::Capability(name) => is_pinned(name),
            Self::Route(id) => catalogue().route(id).is_some_and(|route| route.is_pinned()),
            _ => false,
        }
    }
}

fn canary(rest: &str) -> Result<Key, Wrong> {
    match rest {
        "ORGS" => Ok(Key::CanaryOrgs),
        "REPOS" => Ok(Key::CanaryRepos),
        "USERS" => Ok(Key::CanaryUsers),
        "PERCENT" => Ok(Key::CanaryPercent),
        _ => {
            let remedy = "use ROUTE_CANARY_ORGS, _REPOS, _USERS or _PERCENT";
            Err(Wrong::new(Code::UnknownKey, "no such canary selector", remedy))
        }
    }
}

fn route(rest: &str) -> Result<Key, Wrong> {
    let number = rest.strip_prefix("ROUTE_").or_else(|| rest.strip_prefix("ROUTE-"));
    let digits = |text: &&str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
    let id: Option<u16> = number.filter(digits).and_then(|text| text.parse().ok());
    if let Some(route) = id.and_then(|id| catalogue().route(id)) {
        return Ok(Key::Route(route.id));
    }
    let remedy = format!("write it as {}; `quay switch explain` names the route", Key::Route(324));
    Err(Wrong::new(Code::UnknownRoute, "no such route", remedy))
}

fn capability(rest: &str) -> Result<Key, Wrong> {
    let all = catalogue();
    if let Some(name) = all.capabilities().into_iter().find(|name| *name == rest) {
        return Ok(Key::Capability(name));
    }
    let label = all.routes.iter().find(|route| route.sub_capability == rest);
    let remedy = match label {
        Some(route) => format!("{rest} moves with {CAPABILITY}{}", route.capability),
        None => "`quay switch show` lists the capabilities".into(),
    };
    Err(Wrong::new(Code::UnknownCapability, "no such capability", remedy))
}

fn family(rest: &str) -> Result<Key, Wrong> {
    let switches = catalogue().families.iter().map(|family| family.switch.as_str());
    if let Some(name) = switches.clone().chain([OAUTH]).find(|name| *name == rest) {
        return Ok(Key::Family(name));
    }
    let remedy = format!("use one of {}", switches.collect::<Vec<_>>().join(", "));
    Err(Wrong::new(Code::UnknownFamily, "no such family", remedy))
}

fn worker(name: &str) -> Result<Key, Wrong> {
    let of = |worker: &Worker| {
        let program = worker.program.to_uppercase();
        program.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    };
    let rest = &name[WORKER.len()..];
    let Some(found) = catalogue().workers.iter().find(|worker| of(worker) == rest) else {
        let remedy = "use the name of the supervisor's program; `quay switch show` lists them";
        return Err(Wrong::new(Code::UnknownWorker, "no such program", remedy));
    };
    match &found.switch {
        Some(switch) => Ok(Key::Worker(switch)),
        None if found.disposition == "retired-approved" => {
            let reason = format!("{} is retired (D-001)", shown(&found.program));
            Err(Wrong::new(Code::RetiredProgram, reason, "remove the switch"))
        }
        None => {
            let reason = format!("{} has no owner of its own", shown(&found.program));
            let remedy = "remove it; what it serves moves with the switches of routes";
            Err(Wrong::new(Code::NotSwitchable, reason, remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back() {
        let all = catalogue();
        let mut names: Vec<String> =
            all.routes.iter().map(|r| Key::Route(r.id).to_string()).collect();
        names.extend(all.families.iter().map(|f| format!("ROUTE_OWNER_FAMILY_{}", f.switch)));
        names.extend(all.capabilities().iter().map(|name| format!("ROUTE_OWNER_CAP_{name}")));
        names.extend(all.switchable().filter_map(|worker| worker.switch.clone()));
        names.extend(
            ["ORGS", "REPOS", "USERS", "PERCENT"].map(|name| format!("ROUTE_CANARY_{name}")),
        );
        names.extend([FORCE.to_owned(), "ROUTE_OWNER_FAMILY_OAUTH".to_owned()]);
        for name in names {
            assert!(Key::is_ours(&name));
            assert_eq!(Key::parse(&name).unwrap().to_string(), name);
        }
        assert_eq!(Key::parse("ROUTE_OWNER_ROUTE_ROUTE-0324").unwrap(), Key::Route(324));
    }

    #[test]
    fn other_names_have_their_code() {
        let table = [
            ("ROUTE_OWNER_V2_GET_V2_AUTH", Code::LegacyRouteKey),
            ("ROUTE_OWNER_ROUTE_0324", Code::UnknownRoute),
            ("ROUTE_OWNER_ROUTE_ROUTE_414", Code::UnknownRoute),
            ("ROUTE_OWNER_ROUTE_ROUTE_0414", Code::UnknownRoute),
            ("ROUTE_OWNER_CAP_V2_PUL", Code::UnknownCapability),
            ("ROUTE_OWNER_CAP_V2_TAGS", Code::UnknownCapability),
            ("ROUTE_OWNER_FAMILY_V2", Code::UnknownFamily),
            ("WORKER_OWNER_NGINX", Code::NotSwitchable),
            ("WORKER_OWNER_GUNICORN_WEB", Code::NotSwitchable),
            ("WORKER_OWNER_IP_RESOLVER_UPDATE_WORKER", Code::RetiredProgram),
            ("WORKER_OWNER_", Code::UnknownWorker),
            ("ROUTE_CANARY_ORG", Code::UnknownKey),
            ("migration_force_python", Code::UnknownKey),
            ("", Code::UnknownKey),
        ];
        for (name, code) in table {
            assert_eq!(Key::parse(name).unwrap_err().code, code, "{name}");
        }
    }
}
