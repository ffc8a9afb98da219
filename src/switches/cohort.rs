//! The canary's cohort as registryd decides it: nginx cannot read tokens, so with
//! `ROUTE_CANARY_USERS` it sends every gated request, and those of others are handed back
//! (decision 5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::canary::{Canary, Membership, by_path};
use super::catalogue::catalogue;
use super::resolve::{is_upload_in_progress, users_decide};
use super::snapshot::Switches;

/// Which requests are for everybody, and who may have the others answered by us. The watcher
/// writes it, registryd reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cohort {
    /// Ids of gated routes, and whether users are looked at there.
    gated: BTreeMap<u16, bool>,
    orgs: BTreeSet<String>,
    repos: BTreeSet<String>,
    users: BTreeSet<String>,
    percent: u8,
}

impl Cohort {
    /// By the switches that hold. An upload in progress is served by whoever receives it.
    pub fn of(switches: &Switches) -> Self {
        let gated = catalogue().routes.iter().filter(|route| {
            let assigned = switches.of_route(route);
            !is_upload_in_progress(route)
                && assigned.is_some_and(|(_, assigned)| switches.is_gated(&assigned))
        });
        let Canary { orgs, repos, users, percent } = switches.canary.clone();
        Self {
            gated: gated.map(|route| (route.id, users_decide(route))).collect(),
            orgs: orgs.map(|names| names.value).unwrap_or_default(),
            repos: repos.map(|names| names.value).unwrap_or_default(),
            users: users.map(|names| names.value).unwrap_or_default(),
            percent: percent.map(|percent| percent.value).unwrap_or_default(),
        }
    }

    /// Nobody at all: for when it is not known who is.
    pub fn nobody() -> Self {
        let gated = catalogue().routes.iter().map(|route| (route.id, false)).collect();
        Self { gated, ..Self::default() }
    }

    /// Whether every request of a route is ours to answer.
    pub fn is_for_all(&self, route: u16) -> bool {
        !self.gated.contains_key(&route)
    }

    /// Whether a request is ours to answer. `repository` is `namespace/name`; `user` is a user
    /// name or a robot's, exactly as Quay has it.
    pub fn has(&self, route: u16, repository: Option<&str>, user: Option<&str>) -> bool {
        let Some(by_user) = self.gated.get(&route) else { return true };
        let path = by_path(Some(&self.orgs), Some(&self.repos), self.percent, repository);
        path != Membership::Outside
            || (*by_user && user.is_some_and(|user| self.users.contains(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::Stage;

    const TAG: u16 = 327;
    const BASE: u16 = 319;
    const UPLOAD: u16 = 333;

    fn cohort(switches: &[(&str, &str)]) -> Cohort {
        let variables = switches.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let stage = Stage::read(variables);
        assert!(stage.problems.iter().all(|problem| !problem.is_error()), "{:?}", stage.problems);
        let cohort = Cohort::of(&stage.switches);
        let json = serde_json::to_string(&cohort).unwrap();
        assert_eq!(serde_json::from_str::<Cohort>(&json).unwrap(), cohort);
        cohort
    }

    #[test]
    fn users_and_paths_are_enough_each() {
        let cohort = cohort(&[
            ("ROUTE_OWNER_FAMILY_REGISTRY_V2", "rust"),
            ("ROUTE_CANARY_USERS", "ada,ci+robot"),
            ("ROUTE_CANARY_ORGS", "mirror"),
        ]);
        assert!(cohort.has(TAG, Some("acme/app"), Some("ada")));
        assert!(cohort.has(TAG, Some("acme/app"), Some("ci+robot")));
        assert!(cohort.has(TAG, Some("mirror/app"), None));
        assert!(!cohort.has(TAG, Some("acme/app"), Some("bob")));
        assert!(!cohort.has(TAG, Some("acme/app"), None));
        // Nobody is asked who they are there.
        assert!(!cohort.has(BASE, None, Some("ada")));
        assert!(cohort.has(UPLOAD, Some("acme/app"), Some("bob")));
    }

    #[test]
    fn what_is_not_gated_is_for_everybody() {
        let all = cohort(&[("ROUTE_OWNER_CAP_V2_PULL", "rust")]);
        assert!(all.has(TAG, Some("acme/app"), None));
        let none = cohort(&[("ROUTE_OWNER_CAP_V2_PULL", "rust"), ("ROUTE_CANARY_USERS", "")]);
        assert!(!none.has(TAG, Some("acme/app"), Some("ada")));
        assert!(!Cohort::nobody().has(TAG, Some("acme/app"), Some("ada")));
    }
}
