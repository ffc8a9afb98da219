//! Repositories that are made because somebody wants to push to them (contract §2.3 step 7, §4.8).

use serde_json::{Value, json};

use super::{ask, claims, login, refusal};
use crate::support::{Login, Registryd, World};

pub async fn asked(registryd: &Registryd, who: &Login, scope: &str) -> Value {
    claims(ask(registryd, login(who), &[scope]).await).await["access"][0]["actions"].clone()
}

/// Visibility, kind, state, and who is its admin, of every repository of this name.
pub fn made(world: &World, name: &str) -> String {
    world.database.sql(&format!(
        "SELECT n.username, v.name, k.name, r.state, r.description, r.trust_enabled,
             length(r.badge_token), u.username, o.name
         FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id
         JOIN visibility v ON v.id = r.visibility_id JOIN repositorykind k ON k.id = r.kind_id
         JOIN repositorypermission p ON p.repository_id = r.id
         JOIN \"user\" u ON u.id = p.user_id JOIN role o ON o.id = p.role_id
         WHERE r.name = '{name}' ORDER BY p.id"
    ))
}

#[tokio::test]
async fn rows_are_quays() {
    let world = World::new();
    let registryd = world.registryd();
    for (who, name, expected) in [
        (&world.ada, "demo/new", "demo|private|image|0||f|36|ada|admin"),
        (&world.bob, "bob/a/b", "bob|private|image|0||f|36|bob|admin"),
    ] {
        let scope = format!("repository:{name}:push");
        // Only what is asked for, and the second time it is there.
        for _ in 0..2 {
            assert_eq!(asked(&registryd, who, &scope).await, json!(["push"]), "{name}");
        }
        let all = format!("repository:{name}:push,pull,*");
        assert_eq!(asked(&registryd, who, &all).await, json!(["push", "pull", "*"]), "{name}");
        let (_, repository) = name.split_once('/').unwrap();
        assert_eq!(made(&world, repository), expected);
        let yesterday = chrono::Local::now().date_naive() - chrono::Days::new(1);
        assert_eq!(
            world.database.sql(&format!(
                "SELECT c.count, c.date, s.score, s.last_updated FROM repository r
                 JOIN repositoryactioncount c ON c.repository_id = r.id
                 JOIN repositorysearchscore s ON s.repository_id = r.id
                 WHERE r.name = '{repository}'"
            )),
            format!("0|{yesterday}|0|")
        );
    }
    // Nothing of it is logged.
    assert_eq!(world.database.sql("SELECT count(*) FROM logentry3"), "0");
    // To pull makes nothing.
    let pull = "repository:demo/pulled:pull,*";
    assert_eq!(asked(&registryd, &world.ada, pull).await, json!(["pull"]));
    assert_eq!(made(&world, "pulled"), "");
}

#[tokio::test]
async fn creators_and_defaults_of_an_organization() {
    let mut world = World::new();
    world.configure("CREATE_PRIVATE_REPO_ON_PUSH", json!(false));
    world.team(&world.bob, "creator");
    // What is said of bob goes before what is said of anybody; of himself nothing is.
    world.database.sql(&format!(
        "INSERT INTO permissionprototype
             (org_id, uuid, activating_user_id, delegate_user_id, delegate_team_id, role_id)
         SELECT n.id, o.name || coalesce(CAST(x.activating AS text), ''), x.activating,
             x.delegate, NULL, o.id
         FROM \"user\" n, role o, (
             SELECT NULL AS activating, {zoe} AS delegate, 'read' AS role
             UNION ALL SELECT {bob}, {zoe}, 'write'
             UNION ALL SELECT NULL, {bob}, 'read'
             UNION ALL SELECT {ada}, {ada}, 'read') x
         WHERE n.username = 'demo' AND o.name = x.role",
        zoe = world.zoe.id,
        bob = world.bob.id,
        ada = world.ada.id,
    ));
    let registryd = world.registryd();
    let scope = "repository:demo/by-bob:push,pull";
    assert_eq!(asked(&registryd, &world.bob, scope).await, json!(["push", "pull"]));
    assert_eq!(
        made(&world, "by-bob"),
        "demo|public|image|0||f|36|bob|admin\ndemo|public|image|0||f|36|zoe|write"
    );
}

/// Two clients at once: one repository, and both may push to it.
#[tokio::test]
async fn at_once() {
    let world = World::new();
    let registryd = world.registryd();
    let scope = "repository:demo/raced:push";
    let asks = (0..6).map(|_| asked(&registryd, &world.ada, scope));
    for actions in futures_util::future::join_all(asks).await {
        assert_eq!(actions, json!(["push"]));
    }
    assert_eq!(made(&world, "raced").lines().count(), 1);
}

#[tokio::test]
async fn not_while_nothing_is_written() {
    let mut world = World::new();
    world.configure("REGISTRY_STATE", json!("readonly"));
    let registryd = world.registryd();
    let (status, message) =
        refusal(ask(&registryd, login(&world.ada), &["repository:demo/new:push"]).await).await;
    assert_eq!(status, 405);
    assert!(message.contains("read-only"), "{message}");
    assert_eq!(
        asked(&registryd, &world.ada, "repository:demo/private:push").await,
        json!(["push"])
    );
    assert_eq!(made(&world, "new"), "");
}
