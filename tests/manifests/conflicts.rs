//! Another transaction is in the way.

use super::{StatusCode, World, image, pusher};
use crate::support::postgres::psql;
use crate::support::{Database, eventually, postgres_only};

/// Python takes the same locks in another order: a deadlock, which the client does not see.
#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let world = World::with_own_storage();
    let Database::Postgres(database) = &world.database else {
        postgres_only("deadlocks");
        return;
    };
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    pusher.push("t", &image("one")).await;
    let python = database.connect().await;
    // So that it is not the other one that has to give way.
    python
        .batch_execute(
            "SET deadlock_timeout = '1h'; BEGIN; SELECT id FROM tag WHERE name = 't' FOR UPDATE",
        )
        .await
        .unwrap();
    let deletion = pusher.delete("t");
    let python_waits = async {
        // registryd has the repository's lock by now, and waits for the tag.
        let lock = "SELECT objid::bigint + (classid::bigint << 32) FROM pg_locks WHERE granted
            AND locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND pid IN (SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock')";
        let uri = database.uri().to_owned();
        let held = move || Some(psql(&uri, lock)).filter(|number| !number.is_empty());
        let wait = move || eventually(held, || "nobody waits".to_owned());
        let number = tokio::task::spawn_blocking(wait).await.unwrap();
        let take = format!("SELECT pg_advisory_xact_lock({number})");
        python.batch_execute(&take).await.unwrap();
        python.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(deletion, python_waits);
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(registryd.metric("db_conflicts_total"), 1.0);
    assert_eq!(pusher.manifest("t").await, Err(404));
}
