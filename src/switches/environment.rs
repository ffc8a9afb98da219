//! Stage A: the switches of the environment, read once (the switch model, section 8).

use super::key::Key;
use super::owner::Owner;
use super::problem::{Code, Place, Problem, Wrong};
use super::snapshot::{Assigned, Setting, Switches};
use super::value::{self, Names};
use super::yaml::Value;

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The switches that could be read. A bad value stands for the safe one: python, nobody.
    pub switches: Switches,
    /// What is wrong with others.
    pub problems: Vec<Problem>,
}

impl Stage {
    /// Takes what concerns us from `variables`: all of them, so that a misspelt one is noticed.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut variables: Vec<(String, String)> = variables.into_iter().collect();
        variables.retain(|(name, _)| Key::is_ours(name));
        // The order of the environment is nobody's business.
        variables.sort();
        let mut stage = Self::default();
        for (name, text) in variables {
            match Key::parse(&name) {
                Ok(key) => stage.set(key, &Value::Text(text)),
                Err(wrong) => stage.problem(&name, wrong),
            }
        }
        stage
    }

    fn problem(&mut self, name: &str, wrong: Wrong) {
        self.problems.push(wrong.at(name, Place::ENVIRONMENT));
    }

    /// One bad value concerns its own key only (section 9), which it moves towards Python.
    fn set(&mut self, key: Key, text: &Value) {
        let result = assign(&mut self.switches, key, text, Place::ENVIRONMENT);
        let Err(wrong) = result else { return };
        for wrong in wrong {
            let rejected = wrong.code.severity() == super::Severity::Error;
            self.problem(&key.to_string(), wrong);
            if rejected {
                python(&mut self.switches, key);
            }
        }
    }
}

fn python(switches: &mut Switches, key: Key) {
    let nobody = || Some(Setting { value: Default::default(), place: Place::ENVIRONMENT });
    match key {
        Key::ForcePython => {}
        Key::CanaryOrgs => switches.canary.orgs = nobody(),
        Key::CanaryRepos => switches.canary.repos = nobody(),
        Key::CanaryUsers => switches.canary.users = nobody(),
        Key::CanaryPercent => {
            switches.canary.percent = Some(Setting { value: 0, place: Place::ENVIRONMENT });
        }
        _ => {
            let place = Place::ENVIRONMENT;
            switches.owners.insert(key, Assigned { owner: Owner::Python, gated: None, place });
        }
    }
}

/// Puts one value into `switches`.
///
/// # Errors
/// What is wrong with it. With mere warnings it is in nevertheless; so is a kill that cannot be
/// read.
pub(super) fn assign(
    switches: &mut Switches,
    key: Key,
    value: &Value,
    place: Place,
) -> Result<(), Vec<Wrong>> {
    let names = |kind| {
        value::names(kind, value).map(|value| Some(Setting { value, place })).map_err(|w| vec![w])
    };
    match key {
        Key::ForcePython => {
            let (value, wrong) = value::force(value);
            switches.force = Some(Setting { value, place });
            return wrong.map_or(Ok(()), |wrong| Err(vec![wrong]));
        }
        Key::CanaryOrgs => switches.canary.orgs = names(Names::Orgs)?,
        Key::CanaryRepos => switches.canary.repos = names(Names::Repos)?,
        Key::CanaryUsers => switches.canary.users = names(Names::Users)?,
        Key::CanaryPercent => {
            let value = value::percent(value).map_err(|wrong| vec![wrong])?;
            switches.canary.percent = Some(Setting { value, place });
        }
        Key::Route(_) | Key::Capability(_) | Key::Family(_) | Key::Worker(_) => {
            let given = value::owner(key, value).map_err(|wrong| vec![wrong])?;
            forbidden(key, given.owner).map_err(|wrong| vec![wrong])?;
            let assigned = Assigned { owner: given.owner, gated: given.gated, place };
            switches.owners.insert(key, assigned);
            return notices(key, given.owner, given.go);
        }
    }
    Ok(())
}

/// Owners that a key may not have (sections 3 and 10).
fn forbidden(key: Key, owner: Owner) -> Result<(), Wrong> {
    if key.is_pinned() && owner == Owner::Rust {
        let reason = "this one stays with Python, whatever else moves";
        return Err(Wrong::new(Code::PinnedRoute, reason, "remove the switch"));
    }
    let Key::Route(id) = key else { return Ok(()) };
    match super::catalogue().route(id) {
        Some(route) if route.switches().eq(["V2_PUSH"]) => {
            let reason = "a push moves as a whole, or its steps would meet different owners";
            let remedy = format!("set {} instead", Key::Capability("V2_PUSH"));
            Err(Wrong::new(Code::SplitPush, reason, remedy))
        }
        _ => Ok(()),
    }
}

fn notices(key: Key, owner: Owner, go: bool) -> Result<(), Vec<Wrong>> {
    let mut notices = Vec::new();
    if go {
        let reason = "go is read as rust: there is no other native runtime here";
        notices.push(Wrong::new(Code::GoMeansRust, reason, "write rust"));
    }
    if let Key::Route(id) = key
        && owner == Owner::Rust
        && super::catalogue().route(id).is_some_and(|route| !route.is_reachable())
    {
        let reason = "nginx answers this route itself, so the switch changes nothing";
        notices.push(Wrong::new(Code::Unreachable, reason, "remove the switch"));
    }
    if notices.is_empty() { Ok(()) } else { Err(notices) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Stage {
        Stage::read(variables.iter().map(|(name, text)| ((*name).into(), (*text).into())))
    }

    #[test]
    fn a_bad_value_concerns_its_own_key() {
        let stage = read(&[
            ("PATH", "/bin"),
            ("ROUTE_OWNER_FAMILY_REGISTRY_V2", "go"),
            ("ROUTE_OWNER_CAP_V2_PUSH", "rsut"),
            ("ROUTE_OWNER_CAP_V2_PUL", "rust"),
            ("ROUTE_CANARY_PERCENT", "200"),
            ("WORKER_OWNER_GCWORKER", "off"),
        ]);
        let owner = |key| stage.switches.owners.get(&key).map(|found| found.owner);
        assert_eq!(owner(Key::Family("REGISTRY_V2")), Some(Owner::Rust));
        assert_eq!(owner(Key::Capability("V2_PUSH")), Some(Owner::Python));
        assert_eq!(owner(Key::Worker("WORKER_OWNER_GCWORKER")), Some(Owner::Off));
        assert!(stage.switches.canary.is_present() && stage.switches.canary.is_empty());
        let codes: Vec<Code> = stage.problems.iter().map(|problem| problem.code).collect();
        let expected =
            [Code::BadPercent, Code::UnknownCapability, Code::UnknownOwner, Code::GoMeansRust];
        assert_eq!(codes, expected);
    }

    #[test]
    fn what_no_switch_may_do() {
        let code = |name, text| read(&[(name, text)]).problems.first().map(|found| found.code);
        let pinned = Some(Code::PinnedRoute);
        assert_eq!(code("ROUTE_OWNER_CAP_WEB_HEALTH", "rust"), pinned);
        assert_eq!(code("ROUTE_OWNER_ROUTE_ROUTE_0413", "rust"), pinned);
        assert_eq!(code("ROUTE_OWNER_CAP_WEB_HEALTH", "python"), None);
        assert_eq!(code("ROUTE_OWNER_ROUTE_ROUTE_0324", "python"), Some(Code::SplitPush));
        assert_eq!(code("ROUTE_OWNER_ROUTE_ROUTE_0329", "rust"), None);
        assert_eq!(code("ROUTE_OWNER_CAP_V2_DELETE", "rust"), None);
        assert_eq!(code("ROUTE_OWNER_ROUTE_ROUTE_0391", "rust"), Some(Code::Unreachable));
        assert_eq!(code("MIGRATION_FORCE_PYTHON", "perhaps"), Some(Code::BadType));
        assert!(read(&[("MIGRATION_FORCE_PYTHON", "perhaps")]).switches.force.unwrap().value);
    }
}
