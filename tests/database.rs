//! Ways to reach the database: TLS as libpq does it, unix sockets, poolers.

use serde_json::json;

use crate::support::{Cluster, Folder, Registryd, Server, World, postgres_only};

/// A certificate for `localhost`, not for the address; made by the server, which owns its files.
fn switch_tls_on(world: &World) -> String {
    let openssl = "openssl req -new -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout server.key -out server.crt 2>&1";
    world.database.sql(&format!("COPY (SELECT 1) TO PROGRAM '{openssl}'"));
    world.database.sql("ALTER SYSTEM SET ssl = on");
    world.database.sql("SELECT pg_reload_conf()");
    world.database.sql("SELECT pg_read_file('server.crt')")
}

/// Whether our connections are encrypted, as the server sees them.
fn encrypted(world: &World) -> String {
    world.database.sql(
        "SELECT DISTINCT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
         WHERE a.application_name = 'quay-sidecar'",
    )
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    if !postgres_only("TLS") {
        return;
    }
    let (mut world, Server::Postgres(cluster)) = World::apart() else { unreachable!() };
    let folder = Folder::new();
    let certificate = switch_tls_on(&world);
    let path = |name: &str, pem: &str| {
        std::fs::write(folder.path().join(name), pem).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let right = path("right.crt", &certificate);
    let other = "openssl req -new -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=other \
        -keyout /dev/null -out other.crt 2>&1";
    world.database.sql(&format!("COPY (SELECT 1) TO PROGRAM '{other}'"));
    let wrong = path("wrong.crt", &world.database.sql("SELECT pg_read_file('other.crt')"));
    let by_address = cluster.uri(world.database.name());
    let by_name = by_address.replace("127.0.0.1", "localhost");

    for (uri, arguments, expected) in [
        (&by_address, json!({"sslmode": "disable"}), "f"),
        (&by_address, json!({}), "t"),
        (&by_address, json!({"sslmode": "require"}), "t"),
        (&by_address, json!({"sslmode": "verify-ca", "sslrootcert": right}), "t"),
        (&by_name, json!({"sslmode": "verify-full", "sslrootcert": right}), "t"),
    ] {
        world.configure("DB_URI", uri.as_str().into());
        world.configure("DB_CONNECTION_ARGS", arguments.clone());
        let registryd = world.registryd();
        assert_eq!(encrypted(&world), expected, "{uri} {arguments}\n{}", registryd.logs());
    }
    for (uri, arguments) in [
        (&by_address, json!({"sslmode": "verify-full", "sslrootcert": right})),
        (&by_name, json!({"sslmode": "verify-full", "sslrootcert": wrong})),
        (&by_name, json!({"sslmode": "verify-ca", "sslrootcert": wrong})),
    ] {
        world.configure("DB_URI", uri.as_str().into());
        world.configure("DB_CONNECTION_ARGS", arguments.clone());
        let registryd = Registryd::launch(&world.conf, &[]);
        let (status, body) = registryd.admin_get("/readyz").unwrap();
        assert_eq!(status, 503, "{uri} {arguments}: {body}");
        assert!(body.contains("certificate"), "{uri} {arguments}: {body}");
    }
}

#[test]
fn a_unix_socket_will_do() {
    if !postgres_only("unix sockets") {
        return;
    }
    let mut world = World::new();
    let cluster = Cluster::shared();
    let (folder, port) = (cluster.socket_folder().display(), cluster.port());
    let uri =
        format!("postgresql://quay:quay@/{}?host={folder}&port={port}", world.database.name());
    world.configure("DB_URI", uri.into());
    world.registryd();
}

/// What a pooler in transaction mode needs: no statement outlives its round trip.
#[test]
fn prepared_statements_can_be_switched_off() {
    if !postgres_only("poolers") {
        return;
    }
    let mut world = World::new();
    world.configure("QUAY_SIDECAR", json!({"db_prepared_statements": false}));
    let registryd = world.registryd();
    let url = registryd.url("/v2/demo/public/tags/list");
    let fetched = std::process::Command::new("curl").args(["-sf", &url]).output().unwrap();
    assert!(fetched.status.success(), "{}", registryd.logs());
}

#[test]
fn db_check_names_what_differs_and_what_stays_with_python() {
    let world = World::new();
    let check = || {
        let program = env!("CARGO_BIN_EXE_quay");
        let output = std::process::Command::new(program)
            .args(["db", "check", "--config"])
            .arg(&world.conf)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let good = "V2_AUTH: ok\nV2_PULL: ok\nV2_PUSH: ok\nrepomirrorworker: ok\n";
    assert_eq!(check(), (Some(0), good.to_owned()));
    // Nothing but the worker that fills mirrors needs it.
    world.database.sql("ALTER TABLE repomirrorconfig RENAME COLUMN skopeo_timeout TO timeout");
    let (code, said) = check();
    assert_eq!(code, Some(1));
    let kept =
        "V2_PUSH: ok\nrepomirrorworker: stays with Python\n  repomirrorconfig.skopeo_timeout";
    assert!(said.contains(kept), "{said}");
    world.database.sql("ALTER TABLE tag RENAME COLUMN hidden TO concealed");
    world.database.sql("ALTER TABLE tag ADD COLUMN new text");
    let (code, said) = check();
    assert_eq!(code, Some(1));
    assert!(said.starts_with("V2_AUTH: ok\nV2_PULL: stays with Python\n  "), "{said}");
    assert!(said.contains("tag.hidden"), "{said}");
}
