//! Organizations that are made because somebody wants to push to them (contract §2.3 step 7, §4.8),
//! and those that a mirror fills (§7).

use serde_json::json;

use super::creates::{asked, made};
use super::{ask, claims, login, refusal};
use crate::support::{Login, Registryd, World};

fn world(settings: &[(&str, serde_json::Value)]) -> World {
    let mut world = World::new();
    world.configure("CREATE_NAMESPACE_ON_PUSH", json!(true));
    for (key, value) in settings {
        world.configure(key, value.clone());
    }
    world
}

/// How many namespaces there are of this name.
fn namespaces(world: &World, name: &str) -> String {
    world.database.sql(&format!("SELECT count(*) FROM \"user\" WHERE username = '{name}'"))
}

async fn refused(registryd: &Registryd, who: &Login, name: &str) -> bool {
    let scope = format!("repository:{name}:push,pull");
    let answer = ask(registryd, login(who), &[&scope]).await;
    if answer.status() == 200 {
        return false;
    }
    assert_eq!(refusal(answer).await, (405, "Cannot create organization".to_owned()), "{name}");
    true
}

/// As recorded of a real Quay (418, 422; "auth push creates namespace and repo").
#[tokio::test]
async fn rows_are_quays() {
    let world = world(&[
        ("DEFAULT_TAG_EXPIRATION", json!("1d")),
        ("DEFAULT_NAMESPACE_MAXIMUM_BUILD_COUNT", json!(7)),
    ]);
    let registryd = world.registryd();
    for (name, repository, asks) in
        [("fresh", "img", "fresh/img"), ("library", "busybox", "busybox")]
    {
        for _ in 0..2 {
            let scope = format!("repository:{asks}:push,pull");
            assert_eq!(asked(&registryd, &world.ada, &scope).await, json!(["push", "pull"]));
            // It is hers.
            assert_eq!(asked(&registryd, &world.bob, &scope).await, json!([]));
        }
        assert_eq!(
            world.database.sql(&format!(
                "SELECT n.email, n.password_hash, n.verified, n.organization, n.robot, \
                     n.invoice_email, n.invalid_login_attempts, n.removed_tag_expiration_s, \
                     n.enabled, n.maximum_queued_builds_count, length(n.uuid), \
                     CASE WHEN n.last_invalid_login = n.creation_date THEN 'same' END, t.name, \
                     t.description, r.name, \
                     u.username \
                 FROM \"user\" n JOIN team t ON t.organization_id = n.id \
                 JOIN teamrole r ON r.id = t.role_id JOIN teammember m ON m.team_id = t.id \
                 JOIN \"user\" u ON u.id = m.user_id WHERE n.username = '{name}'"
            )),
            format!("ada+{name}@example.com||f|t|f|f|0|86400|t|7|36|same|owners||admin|ada")
        );
        let expected = format!("{name}|private|image|0||f|36|ada|admin");
        assert_eq!(made(&world, repository), expected);
    }
    assert_eq!(world.database.sql("SELECT count(*) FROM logentry3"), "0");
}

/// Two clients at once: one organization, and both may push to it.
#[tokio::test]
async fn at_once() {
    let world = world(&[]);
    let registryd = world.registryd();
    let scopes = ["repository:raced/a:push", "repository:raced/b:push"];
    let asks = (0..6).map(|i| asked(&registryd, &world.ada, scopes[i % 2]));
    for actions in futures_util::future::join_all(asks).await {
        assert_eq!(actions, json!(["push"]));
    }
    assert_eq!(namespaces(&world, "raced"), "1");
    let teams = "SELECT count(*) FROM team t JOIN \"user\" n ON n.id = t.organization_id
        JOIN teammember m ON m.team_id = t.id WHERE n.username = 'raced'";
    assert_eq!(world.database.sql(teams), "1");
    for repository in ["a", "b"] {
        assert_eq!(made(&world, repository).lines().count(), 1);
    }
}

#[tokio::test]
async fn names_and_creators_that_quay_refuses() {
    let mut world = world(&[]);
    world.database.sql(&format!(
        "INSERT INTO deletednamespace (namespace_id, marked, original_username, original_email)
         VALUES ({}, now(), 'gone', '')",
        world.zoe.id
    ));
    let registryd = world.registryd();
    let long = "n".repeat(256);
    for name in ["UPPER", "under_", "two..dots", "x", &long, "gone"] {
        let name = format!("{name}/img");
        assert!(refused(&registryd, &world.ada, &name).await, "{name}");
    }
    // Its address is none.
    assert!(refused(&registryd, &world.puller, "robots/img").await);
    // A user has the address that the organization would have.
    let taken = "UPDATE \"user\" SET email = 'ada+shared@example.com' WHERE username = 'zoe'";
    world.database.sql(taken);
    assert!(refused(&registryd, &world.ada, "shared/img").await);
    drop(registryd);

    world.configure("FEATURE_MAILING", json!(false));
    let registryd = world.registryd();
    // Without mail any address will do, but a robot's is its own already.
    assert!(refused(&registryd, &world.puller, "robots/img").await);
    drop(registryd);
    world.configure("FEATURE_ORG_SHARED_EMAIL", json!(true));
    let registryd = world.registryd();
    assert!(!refused(&registryd, &world.ada, "shared/img").await);
    assert_eq!(namespaces(&world, "shared"), "1");
    drop(registryd);

    world.configure("REGISTRY_STATE", json!("readonly"));
    let registryd = world.registryd();
    assert!(refused(&registryd, &world.ada, "frozen/img").await);
    let sql = "SELECT count(*) FROM \"user\" WHERE username IN ('gone', 'robots', 'frozen')";
    assert_eq!(world.database.sql(sql), "0");
}

#[tokio::test]
async fn who_makes_none_gets_nothing() {
    let mut world = world(&[]);
    world.configure("FEATURE_RESTRICTED_USERS", json!(true));
    world.configure("RESTRICTED_USERS_WHITELIST", json!(["ada"]));
    let registryd = world.registryd();
    assert_eq!(asked(&registryd, &world.bob, "repository:none/img:push,pull").await, json!([]));
    assert_eq!(asked(&registryd, &world.ada, "repository:none/img:pull").await, json!([]));
    let nobody = claims(ask(&registryd, None, &["repository:none/img:push,pull"]).await).await;
    assert_eq!(nobody["access"][0]["actions"], json!([]));
    assert_eq!(namespaces(&world, "none"), "0");
    drop(registryd);
    world.configure("CREATE_NAMESPACE_ON_PUSH", json!(false));
    let registryd = world.registryd();
    assert_eq!(asked(&registryd, &world.ada, "repository:none/img:push").await, json!([]));
    assert_eq!(namespaces(&world, "none"), "0");
}

/// A login that may not make repositories makes no organization for them.
#[tokio::test]
async fn an_oauth_token_makes_what_its_scopes_allow() {
    let world = world(&[]);
    let registryd = world.registryd();
    let scopes = ["repository:tokens/img:push"];
    for (scope, expected) in
        [("repo:admin", json!([])), ("repo:create,repo:write", json!(["push"]))]
    {
        world.database.sql("DELETE FROM oauthaccesstoken");
        let secret = world.oauth_token(scope, "'2099-01-01 00:00:00'");
        let token = claims(ask(&registryd, Some(("$oauthtoken", &secret)), &scopes).await).await;
        assert_eq!(token["access"][0]["actions"], expected, "{scope}");
        let there = if expected == json!([]) { "0" } else { "1" };
        assert_eq!(namespaces(&world, "tokens"), there, "{scope}");
    }
}

#[tokio::test]
async fn a_mirror_fills_its_organization_alone() {
    let world = world(&[("FEATURE_ORG_MIRROR", json!(true))]);
    let registryd = world.registryd();
    assert_eq!(asked(&registryd, &world.ada, "repository:demo/before:push").await, json!(["push"]));
    let id = world.private.repo_id;
    world.database.sql(&format!(
        "INSERT INTO orgmirrorconfig (organization_id, creation_date, external_registry_type, \
             external_registry_url, external_namespace, external_registry_config, \
             internal_robot_id, repository_filters, visibility_id, sync_interval, \
             architecture_filter) \
         SELECT n.id, now(), 1, '', '', '{{}}', {}, '[]', v.id, 60, '[]' \
         FROM \"user\" n, visibility v WHERE n.username = 'demo' AND v.name = 'private'; \
         INSERT INTO orgmirrorrepository (org_mirror_config_id, repository_name, repository_id, \
             discovery_date, creation_date) \
         SELECT max(id), 'private', {id}, now(), now() FROM orgmirrorconfig",
        world.puller.id
    ));
    for (who, scope, expected) in [
        (&world.ada, "repository:demo/after:push,pull", json!(["pull"])),
        (&world.ada, "repository:demo/before:push", json!(["push"])),
        (&world.ada, "repository:ada/own:push", json!(["push"])),
        (&world.ada, "repository:newer/img:push", json!(["push"])),
    ] {
        assert_eq!(asked(&registryd, who, scope).await, expected, "{scope}");
    }
    assert_eq!(made(&world, "after"), "");
    world.role(&world.puller, id, "write");
    world.state(id, 4);
    let push = "repository:demo/private:push";
    assert_eq!(asked(&registryd, &world.puller, push).await, json!(["push"]));
    assert_eq!(asked(&registryd, &world.ada, push).await, json!([]));
}
