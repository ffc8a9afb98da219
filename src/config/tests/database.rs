//! The database's settings, from all their sources.

use super::*;

#[test]
fn connection_arguments() {
    let uri = "DB_URI: postgresql://u:p@h/d?sslmode=require&connect_timeout=3";
    assert_eq!(config(uri).database.tls.mode, SslMode::Require);
    assert_eq!(config(uri).database.connect_timeout, Duration::from_secs(3));
    let args = "DB_CONNECTION_ARGS: {sslmode: disable, connect_timeout: 0, options: -c a=b, application_name: quay, \
                host: elsewhere, port: 6000, user: nobody, keepalives_idle: 30, tcp_user_timeout: 1500, \
                target_session_attrs: primary}";
    let db = config(&format!("{uri}\n{args}")).database;
    assert_eq!((db.tls.mode, db.connect_timeout), (SslMode::Disable, Duration::from_secs(10)));
    assert_eq!(
        (db.options.as_deref(), db.application_name.as_deref()),
        (Some("-c a=b"), Some("quay"))
    );
    assert_eq!((db.user.as_str(), db.hosts), ("u", vec![(Host::Tcp("h".into()), 6000)]));
    assert_eq!(db.keepalives.and_then(|k| k.idle), Some(Duration::from_secs(30)));
    assert_eq!(
        (db.tcp_user_timeout, db.target),
        (Some(Duration::from_millis(1500)), Target::ReadWrite)
    );
    let tls = "DB_CONNECTION_ARGS: {sslmode: verify-full, sslrootcert: /r, sslcert: /c, sslkey: /k, keepalives: 0}";
    let db = config(tls).database;
    assert_eq!((db.tls.mode, db.tls.root_cert), (SslMode::VerifyFull, Some("/r".into())));
    assert_eq!((db.tls.client_cert, db.tls.client_key), (Some("/c".into()), Some("/k".into())));
    assert_eq!(db.keepalives, None);
}

#[test]
fn hosts_and_what_libpq_adds() {
    let tcp = |name: &str, port| (Host::Tcp(name.into()), port);
    let unix = |dir: &str, port| (Host::UnixDir(dir.into()), port);
    let table = [
        ("DB_URI: postgresql://u@/d", vec![unix("/var/run/postgresql", 5432)]),
        ("DB_URI: postgresql://u@/d?host=/run/pg&port=6000", vec![unix("/run/pg", 6000)]),
        ("DB_URI: postgresql://u@%2Frun%2Fpg/d", vec![unix("/run/pg", 5432)]),
        ("DB_URI: postgresql://u@[::1]:7/d", vec![tcp("::1", 7)]),
        ("DB_URI: postgresql://u@a,b:7/d", vec![tcp("a", 7), tcp("b", 7)]),
        (
            "DB_URI: postgresql://u@/d\nDB_CONNECTION_ARGS: {host: 'a,b', port: '1,2'}",
            vec![tcp("a", 1), tcp("b", 2)],
        ),
    ];
    for (lines, hosts) in table {
        assert_eq!(config(lines).database.hosts, hosts, "{lines}");
    }
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".postgresql")).unwrap();
    let root = home.path().join(".postgresql/root.crt");
    fs::write(&root, "").unwrap();
    let env = [
        ("HOME", home.path().to_str().unwrap()),
        ("PGUSER", "u"),
        ("PGPASSWORD", PASSWORD),
        ("PGHOST", "h"),
        ("PGSSLMODE", "verify-ca"),
    ];
    let db =
        load_bytes(replaced("DB_URI: postgresql:///d").as_bytes(), &env).unwrap().config.database;
    assert_eq!((db.user.as_str(), db.hosts), ("u", vec![tcp("h", 5432)]));
    assert_eq!(
        (db.tls.mode, db.tls.root_cert, db.tls.client_cert),
        (SslMode::VerifyCa, Some(root), None)
    );
    assert!(db.password.is_some());
}
