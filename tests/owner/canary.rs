//! `ROUTE_CANARY_USERS`: nginx sends registryd what could be ours, and registryd hands back what is
//! not.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{ACCEPT, Booted, PATH, PULL, command, said};
use crate::bundle::http::{Answer, Client};
use crate::support::Login;

const PRIVATE: &str = "/v2/demo/private/manifests/latest";

impl Booted {
    fn ask(&self, path: &str, authorization: Option<&str>) -> Answer {
        let mut headers = ACCEPT.to_vec();
        headers.extend(authorization.map(|value| ("authorization", value)));
        Client::new(self.quay.port).send("GET", path, &headers, None).unwrap()
    }

    /// Who answers a pull with a token of this account.
    fn pulled_by(&self, who: Option<&Login>, path: &str) -> String {
        let token = self.world.token(who, "demo/private", &["pull"]);
        let answer = self.ask(path, Some(&format!("Bearer {token}")));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.owner().to_owned()
    }

    fn explained(&self, path: &str, user: &str) -> String {
        let explained =
            said(&command(&self.quay, &["switch", "explain", "GET", path, "--user", user]));
        let owner = explained.lines().find_map(|line| line.strip_prefix("owner"));
        owner.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    }

    fn action_log(&self) -> usize {
        self.world.database.sql("SELECT count(*) FROM logentry3").trim().parse().unwrap()
    }
}

fn basic(login: &Login) -> String {
    let pair = format!("{}:{}", login.username, login.password);
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

#[test]
fn users_of_the_cohort_are_ours_and_nobody_else() {
    let booted = Booted::of_our_user();
    let (ada, bob, puller) = (&booted.world.ada, &booted.world.bob, &booted.world.puller);
    let users = format!("ROUTE_CANARY_USERS=[{}, {}]", ada.username, puller.username);
    let family = "ROUTE_OWNER_FAMILY_REGISTRY_V2=rust";
    let set = command(&booted.quay, &["switch", "set", family, &users]);
    assert!(said(&set).contains("applied after"), "{set:?}");
    booted.eventually("rust", || booted.pulled_by(Some(ada), PRIVATE) == "rust");

    for (login, owner) in [(ada, "rust"), (puller, "rust"), (bob, "python")] {
        let before = booted.action_log();
        assert_eq!(booted.pulled_by(Some(login), PRIVATE), owner, "{}", login.username);
        assert_eq!(booted.explained(PRIVATE, &login.username), owner);
        // What is handed back has left no trace.
        assert_eq!(booted.action_log(), before + usize::from(owner == "rust"));
        let token = "/v2/auth?scope=repository:demo/private:pull";
        let told = booted.ask(token, Some(&basic(login)));
        assert_eq!((told.status, told.owner()), (200, owner), "{}: {told:?}", login.username);
    }
    assert_eq!(booted.pulled_by(None, PATH), "python");
    assert_eq!(booted.ask(PATH, None).owner(), "python");
    assert_eq!(booted.ask("/v2/", None).owner(), "python");

    // A repository of the cohort is everybody's.
    assert!(booted.set("ROUTE_CANARY_REPOS=[demo/public]").status.success());
    booted.eventually("rust", || booted.ask(PATH, None).owner() == "rust");
    assert_eq!(booted.pulled_by(Some(bob), PRIVATE), "python");
    // Without users, nginx decides alone; and without any selector it is for all.
    assert!(booted.set("ROUTE_CANARY_USERS=[]").status.success());
    booted.eventually("python", || booted.pulled_by(Some(ada), PRIVATE) == "python");
}

/// A cohort that cannot be read has nobody in it.
#[test]
fn a_damaged_cohort_is_pythons() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let file = booted.quay.run().cohort();
    let damages = ["{\"gated\":", "[]", "{\"gated\":{\"x\":true}}"];
    for (round, damage) in damages.iter().enumerate() {
        std::fs::write(&file, damage).unwrap();
        booted.eventually("python", || booted.owner() == "python");
        // The next change writes it anew.
        assert!(booted.set(&format!("ROUTE_CANARY_ORGS=[demo,other{round}]")).status.success());
        booted.eventually("rust", || booted.owner() == "rust");
    }
}
