//! Connections that are all in use, and statements that take too long.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::support::World;

/// Two connections and little patience.
fn narrow() -> World {
    let mut world = World::new();
    let settings = json!({
        "db_pool_size": 2, "workers": 1, "db_wait_ms": 200, "db_statement_timeout_ms": 600,
    });
    world.configure("QUAY_SIDECAR", settings);
    world.database.without_write_ahead_log();
    world
}

fn all_let_go(registryd: &Registryd, world: &World) {
    let gone = || {
        let in_use = registryd.metric("db_pool_connections_in_use");
        (in_use == 0.0 && waiting_statements(registryd, &world.database) == 0).then_some(())
    };
    eventually(gone, || {
        let in_use = registryd.metric("db_pool_connections_in_use");
        let waiting = waiting_statements(registryd, &world.database);
        format!("{in_use} connections are in use, {waiting} statements wait")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_are_given_up_and_cancelled() {
    let world = narrow();
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    client.recovers(&tags(image)).await;
    assert_eq!(registryd.metric("db_pool_timeouts_total"), 0.0);

    let lock = TableLock::take(&world.database, "repository").await;
    let asked = Instant::now();
    for path in [tags(image), by_tag(image), config(image)] {
        for answer in client.storm(6, &path).await {
            answer.assert_unavailable(&path);
        }
    }
    assert!(asked.elapsed() < RECOVERY, "refusing took {:?}", asked.elapsed());
    // Two of six listings get a connection and wait with it for the lock; of the others, who ask the
    // same, one asks for all.
    assert_eq!(registryd.metric("db_pool_timeouts_total"), 4.0);
    all_let_go(&registryd, &world);

    lock.release().await;
    for path in [tags(image), by_tag(image), config(image)] {
        client.recovers(&path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_leave_nothing_behind() {
    let world = narrow();
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    client.recovers(&tags(image)).await;

    let lock = TableLock::take(&world.database, "repository").await;
    let address = registryd.base().strip_prefix("http://").unwrap();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {} HTTP/1.1\r\nHost: x\r\n\r\n", tags(image)).unwrap();
        let waits = || (waiting_statements(&registryd, &world.database) > 0).then_some(());
        eventually(waits, || "no statement waits".to_owned());
    }
    all_let_go(&registryd, &world);
    lock.release().await;
    client.recovers(&tags(image)).await;
}
