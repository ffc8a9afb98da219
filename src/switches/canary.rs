//! Canaries: which requests a gated owner applies to (the switch model, section 6, decision 5).

use std::collections::BTreeSet;

use super::murmur::{bucket, is_within};
use super::problem::{Code, Wrong};
use super::snapshot::Setting;
use super::value::Names;

/// The selectors. A request is in the cohort when any of them matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canary {
    /// Namespaces.
    pub orgs: Option<Setting<BTreeSet<String>>>,
    /// `namespace/name`.
    pub repos: Option<Setting<BTreeSet<String>>>,
    /// Users and robots. Decided where the token is read, not in nginx.
    pub users: Option<Setting<BTreeSet<String>>>,
    /// Of repositories, by [`bucket`].
    pub percent: Option<Setting<u8>>,
}

/// How a request stands to the cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Its namespace is listed.
    Org,
    /// Its repository is listed.
    Repo,
    /// Its repository's bucket is below the percentage.
    Percent,
    /// Its user is listed.
    User,
    /// Users are listed and nobody knows yet who this one is.
    Undecided,
    /// None of them.
    Outside,
}

impl Canary {
    /// Whether any selector is written down, be it empty: owners are then gated unless they say
    /// otherwise. A percentage of 0 means nobody, never everybody.
    pub fn is_present(&self) -> bool {
        self.orgs.is_some()
            || self.repos.is_some()
            || self.users.is_some()
            || self.percent.is_some()
    }

    /// Whether no request can be in the cohort.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.orgs, &self.repos, &self.users];
        lists.iter().all(|list| list.as_ref().is_none_or(|names| names.value.is_empty()))
            && self.percent.as_ref().is_none_or(|percent| percent.value == 0)
    }

    /// Whether users decide about some requests.
    pub fn has_users(&self) -> bool {
        self.users.as_ref().is_some_and(|users| !users.value.is_empty())
    }

    /// Decides by what the path tells: nginx's part of the decision.
    ///
    /// `repository` is `namespace/name`, or `None` for a path that names none.
    pub fn by_path(&self, repository: Option<&str>) -> Membership {
        let (orgs, repos) = (self.orgs.as_ref(), self.repos.as_ref());
        let percent = self.percent.as_ref().map(|percent| percent.value).unwrap_or_default();
        by_path(orgs.map(|o| &o.value), repos.map(|r| &r.value), percent, repository)
    }

    /// Decides by the user: registryd's part, for requests that are not in by their path.
    pub fn by_user(&self, user: Option<&str>) -> Membership {
        match (&self.users, user) {
            (Some(users), _) if users.value.is_empty() => Membership::Outside,
            (Some(users), Some(user)) if users.value.contains(user) => Membership::User,
            (Some(_), None) => Membership::Undecided,
            _ => Membership::Outside,
        }
    }
}

/// Decides by the selectors of repositories alone.
pub(super) fn by_path(
    orgs: Option<&BTreeSet<String>>,
    repos: Option<&BTreeSet<String>>,
    percent: u8,
    repository: Option<&str>,
) -> Membership {
    let Some(repository) = repository else { return Membership::Outside };
    let namespace = repository.split('/').next().unwrap_or_default();
    if orgs.is_some_and(|names| names.contains(namespace)) {
        Membership::Org
    } else if repos.is_some_and(|names| names.contains(repository)) {
        Membership::Repo
    } else if is_within(bucket(repository), percent) {
        Membership::Percent
    } else {
        Membership::Outside
    }
}

/// The most names that one selector may list.
const MOST: usize = 1000;

/// Checks the names of a selector. A `$` cannot be escaped in nginx, and no name of Quay's has one.
pub(super) fn check(kind: Names, names: Vec<String>) -> Result<BTreeSet<String>, Wrong> {
    let wrong = |reason: String, remedy| Err(Wrong::new(Code::BadSelector, reason, remedy));
    if names.len() > MOST {
        let remedy = "use ROUTE_CANARY_ORGS or ROUTE_CANARY_PERCENT for so many";
        return wrong(format!("{} names, {MOST} are allowed", names.len()), remedy);
    }
    match names.iter().find(|name| !kind.allows(name)) {
        Some(name) => {
            let reason = format!("{:?} cannot be {}", super::problem::shown(name), kind.what());
            wrong(reason, kind.remedy())
        }
        None => Ok(names.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::problem::Place;

    fn names(names: &[&str]) -> Option<Setting<BTreeSet<String>>> {
        let value = names.iter().map(|name| (*name).to_owned()).collect();
        Some(Setting { value, place: Place::ENVIRONMENT })
    }

    #[test]
    fn any_selector_is_enough() {
        let canary = Canary {
            orgs: names(&["mirror"]),
            repos: names(&["acme/app/deep"]),
            users: names(&["ci+robot"]),
            percent: Some(Setting { value: 100, place: Place::ENVIRONMENT }),
        };
        assert_eq!(canary.by_path(Some("mirror/x")), Membership::Org);
        assert_eq!(canary.by_path(Some("acme/app/deep")), Membership::Repo);
        assert_eq!(canary.by_path(Some("acme/app")), Membership::Percent);
        assert_eq!(canary.by_path(None), Membership::Outside);
        assert_eq!(canary.by_user(Some("ci+robot")), Membership::User);
        assert_eq!(canary.by_user(Some("CI+robot")), Membership::Outside);
        assert_eq!(canary.by_user(None), Membership::Undecided);
    }

    #[test]
    fn nothing_written_is_not_the_same_as_nothing_listed() {
        let none = Canary::default();
        assert!(!none.is_present() && none.is_empty());
        let nobody = Canary { orgs: names(&[]), users: names(&[]), ..Canary::default() };
        assert!(nobody.is_present() && nobody.is_empty());
        assert_eq!(nobody.by_path(Some("a/b")), Membership::Outside);
        assert_eq!(nobody.by_user(None), Membership::Outside);
    }
}
