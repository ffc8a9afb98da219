//! What scopes get (contract §2.3, §2.5, §2.7).

use serde_json::{Value, json};

use super::{ask, claims, login, refusal};
use crate::support::{Login, Registryd, World};

/// Actions for `repository:NAME:push,pull,*`.
async fn all(registryd: &Registryd, who: &Login, name: &str) -> Value {
    let scope = format!("repository:{name}:push,pull,*");
    claims(ask(registryd, login(who), &[&scope]).await).await["access"][0]["actions"].clone()
}

impl World {
    pub fn role(&self, user: &Login, repository: i32, role: &str) {
        self.database.sql(&format!(
            "DELETE FROM repositorypermission WHERE user_id = {0}; \
             INSERT INTO repositorypermission (user_id, repository_id, role_id) \
             SELECT {0}, {repository}, id FROM role WHERE name = '{role}'",
            user.id
        ));
    }

    /// Makes a user the only member of a new team of demo.
    pub fn team(&self, user: &Login, role: &str) {
        self.database.sql(&format!(
            "DELETE FROM teammember WHERE user_id = {0}; \
             INSERT INTO team (name, organization_id, role_id, description) \
             SELECT '{role}s', u.id, r.id, '' FROM \"user\" u, teamrole r \
             WHERE u.username = 'demo' AND r.name = '{role}'; \
             INSERT INTO teammember (user_id, team_id) \
             SELECT {0}, id FROM team WHERE name = '{role}s'",
            user.id
        ));
    }

    pub fn state(&self, repository: i32, state: i32) {
        self.database
            .sql(&format!("UPDATE repository SET state = {state} WHERE id = {repository}"));
    }
}

#[tokio::test]
async fn by_role_on_the_repository() {
    let world = World::new();
    let registryd = world.registryd();
    let (bob, id) = (&world.bob, world.private.repo_id);
    assert_eq!(all(&registryd, bob, "demo/private").await, json!([]));
    for (role, expected) in [
        ("read", json!(["pull"])),
        ("write", json!(["push", "pull"])),
        ("admin", json!(["push", "pull", "*"])),
    ] {
        world.role(bob, id, role);
        assert_eq!(all(&registryd, bob, "demo/private").await, expected, "{role}");
    }
    assert_eq!(all(&registryd, bob, "demo/nested/deep/repo").await, json!([]));
    assert_eq!(all(&registryd, bob, "demo/public").await, json!(["pull"]));
    // What was taken back is gone from the next token.
    world.database.sql("DELETE FROM repositorypermission");
    assert_eq!(all(&registryd, bob, "demo/private").await, json!([]));
}

#[tokio::test]
async fn by_role_in_the_organization() {
    let world = World::new();
    let registryd = world.registryd();
    let bob = &world.bob;
    for (role, expected) in
        [("member", json!([])), ("creator", json!([])), ("admin", json!(["push", "pull", "*"]))]
    {
        world.team(bob, role);
        assert_eq!(all(&registryd, bob, "demo/private").await, expected, "{role}");
    }
    // An admin may pull what is not there; `*` there is 500 in Quay, and nothing here.
    let scope = ["repository:demo/missing:pull,*"];
    let token = claims(ask(&registryd, login(bob), &scope).await).await;
    assert_eq!(token["access"][0]["actions"], json!(["pull"]));
}

#[tokio::test]
async fn by_state_of_the_repository() {
    let world = World::new();
    let registryd = world.registryd();
    let (ada, puller, id) = (&world.ada, &world.puller, world.private.repo_id);
    world.role(puller, id, "write");
    let (push, pull) = (json!(["push", "pull"]), json!(["pull"]));
    for (state, of_ada, of_robot) in [
        (0, json!(["push", "pull", "*"]), &push),
        (1, pull.clone(), &pull),
        (2, pull.clone(), &pull),
        (9, pull.clone(), &pull),
    ] {
        world.state(id, state);
        assert_eq!(all(&registryd, ada, "demo/private").await, of_ada, "{state}");
        assert_eq!(all(&registryd, puller, "demo/private").await, *of_robot, "{state}");
    }
    // A mirror is filled by its own robot, and by nobody else.
    world.state(id, 2);
    world.database.sql(&format!(
        "INSERT INTO repomirrorconfig (repository_id, internal_robot_id, creation_date, is_enabled, \
             mirror_type, external_registry_config, sync_status, root_rule_id, external_reference) \
         VALUES ({id}, {}, now(), true, 1, '{{}}', 0, 1, 'x')",
        puller.id
    ));
    assert_eq!(all(&registryd, puller, "demo/private").await, push);
    assert_eq!(all(&registryd, ada, "demo/private").await, pull);
    world.role(puller, id, "read");
    assert_eq!(all(&registryd, puller, "demo/private").await, pull);
}

#[tokio::test]
async fn superusers() {
    let mut world = World::new();
    world.configure("SUPER_USERS", json!(["bob"]));
    let registryd = world.registryd();
    assert_eq!(all(&registryd, &world.bob, "demo/private").await, json!([]));
    drop(registryd);
    world.configure("FEATURE_SUPERUSERS_FULL_ACCESS", true.into());
    let registryd = world.registryd();
    let everything = json!(["push", "pull", "*"]);
    assert_eq!(all(&registryd, &world.bob, "demo/private").await, everything);
    drop(registryd);
    // Who is in both lists only reads, and only what exists.
    world.configure("GLOBAL_READONLY_SUPER_USERS", json!(["bob"]));
    let registryd = world.registryd();
    assert_eq!(all(&registryd, &world.bob, "demo/private").await, json!(["pull"]));
    assert_eq!(all(&registryd, &world.bob, "demo/missing").await, json!([]));
}

#[tokio::test]
async fn repositories_that_are_not_there() {
    let mut world = World::new();
    world.configure("FEATURE_RESTRICTED_USERS", true.into());
    world.configure("RESTRICTED_USERS_WHITELIST", json!(["ada"]));
    let registryd = world.registryd_with(&["--behind-nginx"]);
    let push = |name: &str| format!("repository:{name}:push,pull");
    // Whoever may not make one gets nothing, and nobody else is asked.
    for (who, name) in [
        (&world.bob, "demo/missing"),
        (&world.bob, "bob/missing"),
        (&world.bob, "nobody/missing"),
        (&world.puller, "demo/missing"),
    ] {
        let response = ask(&registryd, login(who), &[&push(name)]).await;
        let actions = claims(response).await["access"][0]["actions"].clone();
        let own = name.starts_with("bob/");
        assert_eq!(actions, if own { json!(["pull"]) } else { json!([]) }, "{name}");
    }
    let missing = "SELECT count(*) FROM repository WHERE name = 'missing'";
    assert_eq!(world.database.sql(missing), "0");
}

#[tokio::test]
async fn repositories_of_another_kind_fail_the_request() {
    let world = World::new();
    let registryd = world.registryd();
    for action in ["push", "pull", "*"] {
        let scope = format!("repository:demo/app:{action}");
        let (status, message) = refusal(ask(&registryd, login(&world.ada), &[&scope]).await).await;
        assert_eq!(status, 405);
        assert!(message.contains("managing application"), "{message}");
    }
    let scope = ["repository:demo/private:pull", "repository:demo/public:pull,push"];
    let token = claims(ask(&registryd, login(&world.ada), &scope).await).await;
    assert_eq!(token["access"][0]["actions"], json!(["pull"]));
    assert_eq!(token["access"][1]["actions"], json!(["push", "pull"]));
}
