//! What was taken away is gone: nothing here remembers an answer, and no token lasts longer than
//! it says (CVE-2026-35172 and zot's stale groups).

use reqwest::StatusCode;

use super::*;
use crate::support::Image;

async fn pull(registryd: &Registryd, path: &str, token: Option<&str>) -> StatusCode {
    let mut request = http().get(registryd.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let accept = crate::support::images::ACCEPT;
    request.header("Accept", accept).send().await.unwrap().status()
}

fn manifest(image: &Image) -> String {
    format!("/v2/{}/manifests/{}", image.repo, image.tag)
}

fn layer(image: &Image) -> String {
    format!("/v2/{}/blobs/{}", image.repo, image.manifest.layers()[0].digest)
}

#[tokio::test]
async fn a_blob_is_each_repositorys_own() {
    let world = World::new();
    let registryd = world.registryd();
    let (here, there) = (&world.public, &world.private);
    assert_eq!(here.manifest.layers()[0].digest, there.manifest.layers()[0].digest);
    let token = world.token(Some(&world.ada), &there.repo, &["pull"]);
    let both = async || {
        let here = pull(&registryd, &layer(here), None).await;
        (here, pull(&registryd, &layer(there), Some(&token)).await)
    };
    assert_eq!(both().await, (StatusCode::OK, StatusCode::OK));
    for table in ["manifestblob", "uploadedblob"] {
        let id = here.repo_id;
        world.database.sql(&format!("DELETE FROM {table} WHERE repository_id = {id}"));
    }
    assert_eq!(both().await, (StatusCode::NOT_FOUND, StatusCode::OK));
}

#[tokio::test]
async fn what_was_public_is_not_any_more() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.public;
    let all = async |token: Option<&str>| {
        let found = pull(&registryd, &manifest(image), token).await;
        (found, pull(&registryd, &layer(image), token).await)
    };
    let (ok, no, gone) = (StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND);
    let token = world.token(Some(&world.ada), &image.repo, &["pull"]);
    assert_eq!(all(None).await, (ok, ok));
    world.database.sql(&format!(
        "UPDATE repository SET visibility_id = (SELECT id FROM visibility WHERE name = 'private') \
         WHERE id = {}",
        image.repo_id
    ));
    assert_eq!((all(None).await, all(Some(&token)).await), ((no, no), (ok, ok)));
    let expire =
        format!("UPDATE tag SET lifetime_end_ms = 1 WHERE repository_id = {}", image.repo_id);
    world.database.sql(&expire);
    assert_eq!(pull(&registryd, &manifest(image), Some(&token)).await, gone);
    world.database.sql(&format!("UPDATE repository SET state = 3 WHERE id = {}", image.repo_id));
    assert_eq!((all(None).await, all(Some(&token)).await), ((no, no), (gone, gone)));
}

#[tokio::test]
async fn the_next_token_lacks_what_was_taken() {
    let world = World::new();
    let registryd = world.registryd();
    let pulls = async |who| actions(&registryd, login(who), "demo/private").await;
    let (nothing, pull) = (json!([]), json!(["pull"]));
    // A robot by its permission, an owner by the team, and a member of no team any more.
    assert_eq!((pulls(&world.puller).await, pulls(&world.ada).await), (pull.clone(), pull));
    world.database.sql("DELETE FROM repositorypermission; DELETE FROM teammember");
    assert_eq!((pulls(&world.puller).await, pulls(&world.ada).await), (nothing.clone(), nothing));
    // Nor do they get any that are no longer let in.
    world.database.sql("DELETE FROM robotaccounttoken; UPDATE \"user\" SET enabled = false");
    for who in [&world.puller, &world.ada] {
        let refused = ask(&registryd, login(who), &["repository:demo/private:pull"]).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{}", who.username);
    }
}
