//! `kill -9` at every step of a manifest's push and deletion.

use reqwest::{Method, StatusCode};

use quay_sidecar::push::MANIFEST_STEPS;

use super::{image, pusher};
use crate::support::{Registryd, World, eventually};

#[tokio::test]
async fn killed_at_every_step() {
    for step in MANIFEST_STEPS {
        let world = World::with_own_storage();
        let manifest = image(step);
        let before = world.registryd();
        pusher(&before, &world).prepare(&manifest).await;
        if step.starts_with("delete") {
            pusher(&before, &world).push("v1", &manifest).await;
        }
        drop(before);

        let dying = Registryd::start_with(&world.conf, &[], &[("QUAY_SIDECAR_DIE_AT", step)]);
        let method = if step.starts_with("delete") { Method::DELETE } else { Method::PUT };
        let headers = [("Content-Type", manifest.media_type)];
        let answer = pusher(&dying, &world)
            .try_send(method, "manifests/v1", &headers, manifest.bytes.clone())
            .await;
        assert!(answer.is_err(), "{step}: it answered {answer:?}");
        eventually(
            || dying.admin_get("/healthz").is_none().then_some(()),
            || format!("{step}: it did not die"),
        );

        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world);
        let stored = (manifest.media_type.to_owned(), manifest.bytes.clone());
        let expected = match step {
            // One transaction: it has happened, or it has not.
            "manifest: stored" => Ok(stored.clone()),
            _ => Err(StatusCode::NOT_FOUND.as_u16()),
        };
        assert_eq!(pusher.manifest("v1").await, expected, "{step}");
        // The same push again succeeds, whatever there was.
        pusher.push("v1", &manifest).await;
        assert_eq!(pusher.manifest("v1").await, Ok(stored), "{step}");
        let alive = "SELECT count(*) FROM tag WHERE name = 'v1' AND lifetime_end_ms IS NULL";
        let repo = format!("{alive} AND repository_id = {}", world.nested.repo_id);
        assert_eq!(world.database.sql(&repo), "1", "{step}");
    }
}
