//! The instance key: rotated, half written, withdrawn, or another pod's.

use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;
use crate::support::World;
use crate::support::keys::InstanceKey;

/// Adds a row for a key, like that of the fixture's own.
fn add(world: &World, key: &InstanceKey) {
    world.database.sql(&format!(
        "INSERT INTO servicekey
             (name, kid, service, jwk, metadata, created_date, expiration_date, approval_id)
         SELECT name, '{}', service, '{}', metadata, created_date, expiration_date, approval_id
         FROM servicekey WHERE kid = '{}'",
        key.kid, key.jwk, world.key.kid
    ));
}

fn change(world: &World, key: &InstanceKey, what: &str) {
    world.database.sql(&format!("UPDATE servicekey SET {what} WHERE kid = '{}'", key.kid));
}

/// A token from registryd, and the id of the key it was signed with.
async fn issue(client: &Client, world: &World) -> (String, String) {
    let scope = format!("/v2/auth?scope=repository:{}:pull", world.public.repo);
    let answer = client.get(&scope).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let token = body["token"].as_str().unwrap().to_owned();
    let head = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let head: Value = serde_json::from_slice(&head).unwrap();
    (token, head["kid"].as_str().unwrap().to_owned())
}

async fn pull(registryd: &Registryd, world: &World, token: String) -> Answer {
    Client::of(registryd).with(token).get(&by_tag(&world.public)).await
}

fn token_of(key: &InstanceKey, world: &World) -> String {
    key.sign(&world.claims(None, &world.public.repo, &["pull"]))
}

#[tokio::test]
async fn a_rotated_key_is_picked_up() {
    let world = World::new();
    let registryd = world.registryd();
    let client = Client::of(&registryd);
    let (old_token, kid) = issue(&client, &world).await;
    assert_eq!(kid, world.key.kid);
    let write = |name: &str, text: &str| std::fs::write(world.conf.join(name), text).unwrap();
    let mut tokens = vec![old_token];
    let mut current = kid;
    // At every step of the rewrite tokens are made, and good, whichever file comes first.
    for order in [["quay.kid", "quay.pem"], ["quay.pem", "quay.kid"]] {
        let new = InstanceKey::generate();
        add(&world, &new);
        for file in order {
            let text = if file == "quay.kid" { &new.kid } else { &new.pem };
            let half = if file == "quay.kid" { "" } else { &text[..text.len() / 2] };
            for part in ["", half, text] {
                if file == order[1] && part == text {
                    current = new.kid.clone();
                }
                write(file, part);
                let (token, kid) = issue(&client, &world).await;
                assert_eq!(kid, current, "after {file} became {part:?}");
                tokens.push(token);
            }
        }
    }
    for token in tokens {
        assert_eq!(pull(&registryd, &world, token).await.status, 200);
    }
    assert_eq!(registryd.admin_get("/readyz").unwrap().0, 200);
}

#[tokio::test]
async fn only_approved_and_unexpired_keys_count() {
    let world = World::new();
    let registryd = world.registryd();
    let key = InstanceKey::generate();
    let refused = |answer: &Answer| {
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 401 && body.contains("Unknown service key"), "{body}");
    };
    refused(&pull(&registryd, &world, token_of(&key, &world)).await);
    add(&world, &key);
    let approval = world.database.sql("SELECT approval_id FROM servicekey LIMIT 1");
    let before = chrono::Utc::now() - Duration::from_secs(1);
    let expired = format!("expiration_date = '{}'", before.format("%Y-%m-%d %H:%M:%S%.6f"));
    for what in ["approval_id = NULL", "service = 'other'", &expired] {
        let mend = format!(
            "approval_id = {approval}, service = 'quay', expiration_date = NULL, name = 'mended'"
        );
        change(&world, &key, &mend);
        change(&world, &key, what);
        refused(&pull(&registryd, &world, token_of(&key, &world)).await);
    }
    // What another pod has just added is good at once.
    let other = InstanceKey::generate();
    add(&world, &other);
    assert_eq!(pull(&registryd, &world, token_of(&other, &world)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_cost_the_database_little() {
    let world = World::new();
    let registryd = world.registryd();
    let reads = || registryd.metric("db_statements_total{route=\"service_keys\"}");
    let (before, asked) = (reads(), Instant::now());
    let storm = (0..200).map(|number| {
        let header = serde_json::json!({"alg": "RS256", "kid": format!("unknown-{number}")});
        let claims = world.claims(None, &world.public.repo, &["pull"]);
        let token = world.key.sign_with(&header, &claims);
        let client = Client::of(&registryd).with(token);
        client.start(&by_tag(&world.public))
    });
    for answer in join_all(storm.collect::<Vec<_>>()).await {
        assert_eq!(answer.unwrap().status, 401);
    }
    // One reading at first, then one every tenth of a second at most.
    let allowed = 2.0 + asked.elapsed().as_secs_f64() * 10.0;
    let cost = reads() - before;
    assert!(cost >= 1.0 && cost <= allowed, "{cost} readings, {allowed} allowed");
}
