//! A database that is not the one we know.

use super::*;
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_column_leaves_pulls_to_python() {
    let world = World::new();
    world.database.sql("ALTER TABLE tag RENAME COLUMN hidden TO concealed");
    let alone = Registryd::launch(&world.conf, &[]);
    let behind_nginx = Registryd::launch(&world.conf, &["--behind-nginx"]);
    for registryd in [&alone, &behind_nginx] {
        let names_it = || {
            let (status, body) = registryd.admin_get("/readyz")?;
            let drift = body.contains("schema") && body.contains("tag") && body.contains("hidden");
            (status == 503 && drift).then_some(())
        };
        eventually(names_it, || format!("{:?}", registryd.admin_get("/readyz")));
    }
    let path = by_tag(&world.public);
    let answer = Client::of(&alone).get(&path).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "UNSUPPORTED"));
    assert!(answer.body.windows(15).any(|part| part == b"schema_contract"), "{:?}", answer.body);
    let answer = Client::of(&behind_nginx).get(&path).await;
    assert_eq!((answer.status, answer.header("x-accel-redirect")), (200, "@quay_python"));
    let declined = "quay_declined_total{reason=\"schema_contract\"}";
    assert_eq!((alone.metric(declined), behind_nginx.metric(declined)), (1.0, 1.0));
    assert_eq!(logged(&world.database, "user-agent"), 0);

    // A migration that is rolled back needs no restart either.
    world.database.sql("ALTER TABLE tag RENAME COLUMN concealed TO hidden");
    alone.wait_until_ready();
    assert_eq!(Client::of(&alone).get(&path).await.status, 200);
}

#[tokio::test]
async fn what_is_added_changes_nothing() {
    let world = World::new();
    world.database.sql(
        "ALTER TABLE tag ADD COLUMN shiny text;
         CREATE TABLE shinier (id integer);
         CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) NOT NULL);
         DELETE FROM alembic_version;
         INSERT INTO alembic_version VALUES ('ffffffffffff')",
    );
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    for path in [by_tag(image), by_digest(image), config(image), tags(image)] {
        assert_eq!(client.get(&path).await.status, 200, "{path}");
    }
}
