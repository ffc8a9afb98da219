//! An action log that cannot be written, or takes one row less.

use std::time::Instant;

use serde_json::json;

use super::*;
use crate::support::World;

/// Peak memory that no storm may reach.
const MEMORY: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_log_refuses_pulls_in_time_and_nothing_else() {
    let mut world = World::new();
    let limits = json!({"audit_timeout_ms": 300, "db_statement_timeout_ms": 300});
    world.configure("QUAY_SIDECAR", limits);
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    client.recovers(&by_tag(image)).await;

    let lock = TableLock::take(&world.database, "logentry3").await;
    let asked = Instant::now();
    let pulls = (0..300).map(|_| client.start(&by_tag(image))).collect::<Vec<_>>();
    for path in [config(image), tags(image)] {
        assert_eq!(client.get(&path).await.status, 200, "{path}");
    }
    for pull in pulls {
        pull.await.unwrap().assert_unavailable("a pull that cannot be logged");
    }
    assert!(asked.elapsed() < RECOVERY, "refusing took {:?}", asked.elapsed());
    let (_, peak) = registryd.memory();
    assert!(peak < MEMORY, "{peak} bytes");

    lock.release().await;
    client.recovers(&by_tag(image)).await;
    assert_eq!(registryd.metric("audit_queue_length"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let mut world = World::new();
    world.configure("QUAY_SIDECAR", patient(json!({"audit_queue": 1})));
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    let lock = TableLock::take(&world.database, "logentry3").await;

    let being_written = client.start(&by_tag(image));
    a_row_waits(&registryd, &world.database);
    let queued = client.start(&by_tag(image));
    queue_reaches(&registryd, 1);
    let asked = Instant::now();
    client.get(&by_tag(image)).await.assert_unavailable("no room in the queue");
    assert!(asked.elapsed() < RECOVERY, "refusing took {:?}", asked.elapsed());
    logs_say(&registryd, &["ERROR", "queue is full"]);
    assert!(!being_written.is_finished() && !queued.is_finished());

    lock.release().await;
    for pull in [being_written, queued] {
        assert_eq!(pull.await.unwrap().status, 200);
    }
    assert_eq!(logged(&world.database, "user-agent"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_fails_one_pull() {
    const PULLS: usize = 50;
    let mut world = World::new();
    world.configure("QUAY_SIDECAR", patient(json!({})));
    world.database.sql(match on_sqlite() {
        false => "ALTER TABLE logentry3 ADD CHECK (metadata_json NOT LIKE '%poison%')",
        true => {
            "CREATE TRIGGER taste BEFORE INSERT ON logentry3
             WHEN NEW.metadata_json LIKE '%poison%' BEGIN SELECT RAISE(ABORT, 'poison'); END"
        }
    });
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);

    // While the first is being written the others gather.
    let lock = TableLock::take(&world.database, "logentry3").await;
    let mut pulls = Vec::new();
    for number in 0..PULLS {
        let agent = if number == 20 { "poison".to_owned() } else { format!("agent-{number}.") };
        let (client, path, name) = (client.clone(), by_tag(image), agent.clone());
        let answer = tokio::spawn(async move { client.try_as(&path, &agent).await.unwrap() });
        pulls.push((name, answer));
        if number == 0 {
            a_row_waits(&registryd, &world.database);
        }
    }
    queue_reaches(&registryd, PULLS - 1);
    lock.release().await;
    for (agent, answer) in pulls {
        let answer = answer.await.unwrap();
        let (status, rows) = if agent == "poison" { (500, 0) } else { (200, 1) };
        assert_eq!((answer.status, logged(&world.database, &agent)), (status, rows), "{agent}");
    }
    logs_say(&registryd, &["ERROR", "action log row refused"]);
}

/// These settings, and that nothing times out while the test holds a lock.
fn patient(mut settings: Value) -> Value {
    for key in ["audit_timeout_ms", "db_statement_timeout_ms", "db_wait_ms"] {
        settings[key] = json!(20_000);
    }
    settings
}

/// Until the first batch was sent, and waits for the lock.
fn a_row_waits(registryd: &Registryd, database: &Database) {
    let waits = || {
        let sent = registryd.metric("db_statements_total{route=\"audit\"}") > 0.0;
        (sent && waiting_statements(registryd, database) == 1).then_some(())
    };
    eventually(waits, || "no row is being written".to_owned());
}

fn queue_reaches(registryd: &Registryd, length: usize) {
    let length = length as f64;
    let reached = || (registryd.metric("audit_queue_length") == length).then_some(());
    eventually(reached, || format!("{} rows wait", registryd.metric("audit_queue_length")));
}
