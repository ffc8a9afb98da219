//! Every refusal and every warning.

use super::*;

#[test]
fn errors() {
    let table = [
        ("SERVER_HOSTNAME: https://quay.example", "SERVER_HOSTNAME: contains a scheme"),
        ("SERVER_HOSTNAME: quay.example/path", "SERVER_HOSTNAME: not a host name"),
        ("SERVER_HOSTNAME: null", "SERVER_HOSTNAME: expected text, found null"),
        ("SERVER_HOSTNAME: [a]", "SERVER_HOSTNAME: expected text, found a list"),
        ("PROXY_COUNT: -1", "PROXY_COUNT: -1 is out of range"),
        ("V2_PAGINATION_SIZE: many", "V2_PAGINATION_SIZE: expected a whole number, found text"),
        (
            "V2_PAGINATION_SIZE: 1.5",
            "V2_PAGINATION_SIZE: expected a whole number, found a fraction",
        ),
        (
            "ACCOUNT_RECOVERY_MODE: \"false\"",
            "ACCOUNT_RECOVERY_MODE: expected true or false, found text",
        ),
        ("FEATURE_SIGNING: {}", "FEATURE_SIGNING: expected true or false, found a map"),
        ("SUPER_USERS: [1]", "SUPER_USERS: expected a list of text, found a number"),
        ("DATABASE_SECRET_KEY: ''", "DATABASE_SECRET_KEY: empty"),
        ("DB_URI: 'sqlite:///:memory:'", "DB_URI: names no file"),
        ("DB_URI: sqlite://s3cr3t-p4ssw0rd", "DB_URI: names no file"),
        (
            "DB_URI: mysql+pymysql://u:s3cr3t-p4ssw0rd@h/d",
            "DB_URI: mysql is not served by this program; Python keeps",
        ),
        ("DB_URI: oracle://u:s3cr3t-p4ssw0rd@h/d", "DB_URI: not the URI of a PostgreSQL or SQLite"),
        ("DB_URI: s3cr3t-p4ssw0rd", "DB_URI: not of the form"),
        ("DB_URI: postgresql://u:x@s3cr3t-p4ssw0rd/x@h/d", "DB_URI: an @ stands where none can be"),
        ("DB_URI: postgresql://u:s3cr3t-p4ssw0rd@h", "DB_URI: names no database"),
        ("DB_URI: postgresql://h/d", "DB_URI: names no user"),
        ("DB_URI: 12", "DB_URI: expected text, found a number"),
        (
            "DB_CONNECTION_ARGS: {sslmode: s3cr3t-p4ssw0rd}",
            "DB_CONNECTION_ARGS.sslmode: not a word",
        ),
        (
            "DB_CONNECTION_ARGS: {sslmode: verify-ca}",
            "DB_CONNECTION_ARGS.sslmode: nothing to verify",
        ),
        (
            "DB_CONNECTION_ARGS: {sslrootcert: system}",
            "DB_CONNECTION_ARGS.sslrootcert: the system's",
        ),
        (
            "DB_CONNECTION_ARGS: {connect_timeout: soon}",
            "DB_CONNECTION_ARGS.connect_timeout: not a whole number",
        ),
        (
            "DB_CONNECTION_ARGS: {options: [a]}",
            "DB_CONNECTION_ARGS.options: expected text or a number, found a list",
        ),
        ("DB_CONNECTION_ARGS: []", "DB_CONNECTION_ARGS: expected a map, found a list"),
        ("DB_CONNECTION_ARGS: {port: 0}", "DB_CONNECTION_ARGS.port: not a port number"),
        ("DISTRIBUTED_STORAGE_CONFIG: {}", "DISTRIBUTED_STORAGE_CONFIG: holds no location"),
        (
            "DISTRIBUTED_STORAGE_CONFIG: []",
            "DISTRIBUTED_STORAGE_CONFIG: expected a map of locations, found a list",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: LocalStorage}",
            "DISTRIBUTED_STORAGE_CONFIG: a: not a list",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: []}",
            "DISTRIBUTED_STORAGE_CONFIG: a: starts with no driver name",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: [LocalStorage]}",
            "DISTRIBUTED_STORAGE_CONFIG: a: LocalStorage without",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: [S3Storage, {s3_secret_key: s3cr3t-p4ssw0rd}]}",
            "DISTRIBUTED_STORAGE_CONFIG: a: S3Storage cannot be used: it has no s3_bucket",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: [RadosGWStorage, {bucket_name: b, access_key: k, secret_key: s, hostname: h, port: x}]}",
            "DISTRIBUTED_STORAGE_CONFIG: a: RadosGWStorage cannot be used: port is not",
        ),
        (
            "DISTRIBUTED_STORAGE_PREFERENCE: [third]",
            "DISTRIBUTED_STORAGE_PREFERENCE: third is not a location",
        ),
        ("QUAY_SIDECAR: 1", "QUAY_SIDECAR: expected a map, found a number"),
        ("QUAY_SIDECAR: {db_pool_size: 1}", "QUAY_SIDECAR.db_pool_size: 1 is out of range"),
        ("QUAY_SIDECAR: {drain: 1}", "QUAY_SIDECAR.drain: there is no such setting"),
        (
            "QUAY_SIDECAR: {repo_mirror_admin: '0.0.0.0:9194'}",
            "QUAY_SIDECAR.repo_mirror_admin: it is open to other machines",
        ),
        (
            "QUAY_SIDECAR: {repo_mirror_admin: localhost}",
            "QUAY_SIDECAR.repo_mirror_admin: it is no address to listen on",
        ),
    ];
    for (lines, expected) in table {
        assert!(with(lines).is_err(), "{lines}: accepted");
        let found = problems(lines);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{lines}: {found:?}");
    }
}

#[test]
fn warnings() {
    let table = [
        ("TESTING: true", "TESTING"),
        ("LOGS_MODEL: elasticsearch", "LOGS_MODEL"),
        ("AUTHENTICATION_TYPE: LDAP", "AUTHENTICATION_TYPE"),
        ("LDAP_SUPERUSER_FILTER: (a=b)", "LDAP_SUPERUSER_FILTER"),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {s3: [S3Storage, {s3_bucket: b, s3_secret_key: s3cr3t-p4ssw0rd}]}",
            "DISTRIBUTED_STORAGE_CONFIG",
        ),
        (
            "DISTRIBUTED_STORAGE_CONFIG: {a: [LocalStorage, {storage_path: data}]}",
            "DISTRIBUTED_STORAGE_CONFIG",
        ),
        ("DB_CONNECTION_ARGS: {sslcrl: /x}", "DB_CONNECTION_ARGS.sslcrl"),
        ("DB_URI: postgresql://u:s3cr3t-p4ssw0rd@h/d?sslmode=require", "DB_URI"),
    ];
    for (lines, key) in table {
        let loaded = with(lines).unwrap_or_else(|error| panic!("{lines}: {error}"));
        let keys: Vec<_> =
            loaded.report.problems.iter().map(|p| (p.severity, p.key.as_str())).collect();
        assert_eq!(keys, [(Severity::Warning, key)], "{lines}");
    }
}

/// What Redis is told is never needed to serve, so its maps cannot keep us from it.
#[test]
fn redis_maps_that_cannot_be_used_are_left_out() {
    for (map, reason) in [
        ("{port: 6379}", "it has no host"),
        ("localhost", "expected a map, found text"),
        ("{host: h, port: 0}", "port: 0 is out of range"),
        ("{host: h, db: many}", "db: expected a whole number, found text"),
        ("{host: h, ssl: true, ssl_cert_reqs: none}", "without a good certificate"),
        ("{host: h, ssl: true, ssl_certfile: c}", "certificates of clients are not built"),
    ] {
        let loaded = with(&format!("USER_EVENTS_REDIS: {map}\n")).unwrap();
        let events = loaded.config.events;
        assert_eq!((events.user_events, events.blob_locks), (None, Locks::Nowhere), "{map}");
        let report = loaded.report.to_string();
        let line = report.lines().find(|line| line.contains("nothing is sent there"));
        assert!(line.is_some_and(|line| line.contains(reason)), "{map}: {report}");
    }
}

#[test]
fn redis_is_where_quay_says() {
    let redis = |map: &str| {
        with(&format!("USER_EVENTS_REDIS: {map}\n")).unwrap().config.events.user_events.unwrap()
    };
    let at = |host: &str, port| RedisAddress::Tcp(host.to_owned(), port);
    let events = with("TESTING: false\n").unwrap().config.events;
    let found = events.user_events.map(|redis| (redis.address, redis.db));
    assert_eq!((found, events.pull_stats), (Some((at("localhost", 6379), 0)), None));
    // Quay locks there whether or not it tells browsers anything.
    let events = with("FEATURE_USER_EVENTS: false\n").unwrap().config.events;
    assert_eq!(events.user_events, None);
    assert!(
        matches!(events.blob_locks, Locks::Redis(redis) if redis.address == at("localhost", 6379))
    );
    let events = with("FEATURE_IMAGE_PULL_STATS: true\n").unwrap().config.events;
    assert_eq!(
        events.pull_stats.map(|redis| (redis.address, redis.db)),
        Some((at("localhost", 6379), 1))
    );
    let full = redis("{host: r, port: 7000, db: 3, username: u, password: s3cr3t-p4ssw0rd}");
    assert_eq!((full.address, full.db, full.username.as_deref()), (at("r", 7000), 3, Some("u")));
    assert_eq!(full.password.unwrap().expose(), PASSWORD);
    assert_eq!(
        redis("{unix_socket_path: /run/redis}").address,
        RedisAddress::Unix("/run/redis".into())
    );
    let tls = redis("{host: r, ssl: true, ssl_ca_certs: /ca.pem}").address;
    assert_eq!(tls, RedisAddress::Tls("r".to_owned(), 6379, Some("/ca.pem".into())));
}
