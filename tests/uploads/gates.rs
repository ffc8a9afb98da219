//! Who may push, and when: every verb of an upload against every reason to refuse it.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Pusher, refusal};
use crate::support::images::digest_of;
use crate::support::{Registryd, World, http};

/// Every verb, for an upload that is there.
const VERBS: [&str; 6] = ["POST", "GET", "HEAD", "PATCH", "PUT", "DELETE"];

async fn ask(registryd: &Registryd, verb: &str, repo: &str, uuid: &str, token: &str) -> u16 {
    let path = match verb {
        "POST" => "blobs/uploads/".to_owned(),
        "PUT" => format!("blobs/uploads/{uuid}?digest={}", digest_of(b"")),
        _ => format!("blobs/uploads/{uuid}"),
    };
    let method: Method = verb.parse().unwrap();
    let request = http().request(method, registryd.url(&format!("/v2/{repo}/{path}")));
    request.bearer_auth(token).send().await.unwrap().status().as_u16()
}

/// The row of the upload that every verb is tried on.
async fn upload(world: &World) -> String {
    let registryd = world.registryd();
    Pusher::new(&registryd, world).start().await
}

#[tokio::test]
async fn only_who_may_write() {
    let world = World::with_own_storage();
    let uuid = upload(&world).await;
    let registryd = world.registryd();
    for (repo, actions, other) in [
        ("demo/private", &["pull"][..], None),
        ("demo/private", &[], None),
        ("demo/public", &["pull", "push"], Some("demo/private")),
        // The token of a repository that takes no pushes never says that it does.
        ("demo/readonly", &["pull"], None),
    ] {
        let token = world.token(Some(&world.ada), repo, actions);
        for verb in VERBS {
            let status = ask(&registryd, verb, other.unwrap_or(repo), &uuid, &token).await;
            assert_eq!(status, 401, "{verb} with {actions:?} on {repo}");
        }
    }
    assert_eq!(world.database.sql("SELECT count(*) FROM blobupload"), "1");
    // To push is enough.
    let token = world.token(Some(&world.ada), "demo/private", &["push"]);
    assert_eq!(ask(&registryd, "GET", "demo/private", &uuid, &token).await, 204);
}

/// The state of a repository decides about tokens: who has one goes on, as in Quay, unless the
/// repository is about to go.
#[tokio::test]
async fn repositories_that_change_their_state_under_an_upload() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let set = |state: u8| {
        world.database.sql(&format!("UPDATE repository SET state = {state} WHERE name = 'private'"))
    };
    let (normal, marked_for_deletion) = (0, 3);
    // NORMAL, READ_ONLY, MIRROR, MARKED_FOR_DELETION, ORG_MIRROR.
    for state in [0, 1, 2, marked_for_deletion, 4] {
        for verb in VERBS {
            set(normal);
            world.database.sql("DELETE FROM blobupload");
            let uuid = pusher.start().await;
            let before = world.database.sql("SELECT * FROM blobupload");
            set(state);
            let status = ask(&registryd, verb, "demo/private", &uuid, &pusher.token).await;
            if state == marked_for_deletion {
                assert_eq!(status, 404, "{verb}");
                assert_eq!(world.database.sql("SELECT * FROM blobupload"), before, "{verb}");
            } else {
                assert!((200..300).contains(&status), "{verb} in state {state}: {status}");
            }
        }
    }
    let blobs = world.database.sql("SELECT count(*) FROM uploadedblob");
    // Nothing is committed while it is marked.
    set(normal);
    let uuid = pusher.start().await;
    set(marked_for_deletion);
    let mount = "blobs/uploads/?from=demo/public&mount=";
    let layer = world.public.manifest.layers()[0].digest.clone();
    for answer in [
        pusher.finish(&uuid, &digest_of(b"bytes"), "bytes").await,
        pusher.send(Method::POST, &format!("{mount}{layer}"), &[], "").await,
    ] {
        assert_eq!(refusal(answer).await.1, "NAME_UNKNOWN");
    }
    assert_eq!(world.database.sql("SELECT count(*) FROM uploadedblob"), blobs);
}

#[tokio::test]
async fn modes_in_which_nothing_is_written() {
    // The mode, what is told, and the verbs that go on.
    for (key, value, told, spared) in [
        ("REGISTRY_STATE", json!("readonly"), "read-only", &["GET", "HEAD"][..]),
        ("DISABLE_PUSHES", json!(true), "currently disabled", &["GET", "HEAD", "PUT"]),
        ("ACCOUNT_RECOVERY_MODE", json!(true), "", &[]),
    ] {
        let mut world = World::with_own_storage();
        let uuid = upload(&world).await;
        world.configure(key, value);
        let registryd = world.registryd();
        let pusher = Pusher::new(&registryd, &world);
        for verb in VERBS {
            let status = ask(&registryd, verb, "demo/private", &uuid, &pusher.token).await;
            match spared.contains(&verb) {
                true => assert!((200..300).contains(&status), "{verb} under {key}: {status}"),
                false => assert_eq!(status, 405, "{verb} under {key}"),
            }
        }
        if !told.is_empty() {
            let answer = pusher.send(Method::POST, "blobs/uploads/", &[], "").await;
            let (_, _, message) = refusal(answer).await;
            assert!(message.contains(told), "{message}");
        }
        let left = if spared.contains(&"PUT") { "0" } else { "1" };
        assert_eq!(world.database.sql("SELECT count(*) FROM blobupload"), left, "{key}");
    }
}

#[tokio::test]
async fn restricted_users_do_not_push_to_their_own_namespace() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_RESTRICTED_USERS", json!(true));
    let registryd = world.registryd();
    let own = Pusher::of(&registryd, &world, &world.ada, "ada/own");
    let (status, code, _) = refusal(own.send(Method::POST, "blobs/uploads/", &[], "").await).await;
    assert_eq!((status, code.as_str()), (401, "UNAUTHORIZED"));
    Pusher::new(&registryd, &world).start().await;
}

#[tokio::test]
async fn blobs_larger_than_allowed() {
    let mut world = World::with_own_storage();
    world.configure("MAXIMUM_LAYER_SIZE", json!("1KiB"));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let just = vec![b'x'; 1024];
    let digest = digest_of(&just);
    assert_eq!(
        pusher.finish(&pusher.start().await, &digest, just.clone()).await.status(),
        StatusCode::CREATED
    );
    let large = vec![b'x'; 1025];
    let chunked = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([
            Ok::<_, std::io::Error>(vec![b'x'; 1000]),
            Ok(vec![b'x'; 25]),
        ]))
    };
    for body in [reqwest::Body::from(large), chunked()] {
        let uuid = pusher.start().await;
        let (status, code, message) = refusal(pusher.patch(&uuid, body).await).await;
        assert_eq!((status, code.as_str()), (413, "SIZE_INVALID"));
        assert!(message.contains("1024") && message.contains("MAXIMUM_LAYER_SIZE"), "{message}");
        assert_eq!(pusher.status(&uuid).await.status(), StatusCode::NOT_FOUND);
    }
    // Together they are too large.
    let uuid = pusher.start().await;
    pusher.patch(&uuid, just).await;
    let (status, ..) = refusal(pusher.finish(&uuid, &digest, "x").await).await;
    assert_eq!(status, 413);
    assert_eq!(super::leftovers(&world), ("0".to_owned(), 0));
}

#[tokio::test]
async fn a_missing_repository_is_told() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    for repo in ["demo/nope", "nobody/nope", "demo/gone"] {
        let pusher = Pusher::of(&registryd, &world, &world.ada, repo);
        let answer = pusher.send(Method::POST, "blobs/uploads/", &[], "").await;
        let (status, code, _) = refusal(answer).await;
        assert_eq!((status, code.as_str()), (404, "NAME_UNKNOWN"), "{repo}");
    }
    assert_eq!(super::leftovers(&world), ("0".to_owned(), 0));
}
