//! Whole files in, settings and reports out.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use super::*;

mod database;
mod hostile;
mod model_cache;
mod problems;
mod s3;

const PASSWORD: &str = "s3cr3t-p4ssw0rd";
const SECRET_KEY: &str = "s3cr3t-d4t4b4s3-k3y";

/// The least that Quay itself needs.
const LEAST: &str = "\
TESTING: false
SERVER_HOSTNAME: quay.example:8443
DB_URI: postgresql://quay:s3cr3t-p4ssw0rd@db.example/quay
DATABASE_SECRET_KEY: s3cr3t-d4t4b4s3-k3y
DISTRIBUTED_STORAGE_CONFIG:
  second: [LocalStorage, {storage_path: /data/second}]
  first:
    - LocalStorage
    - storage_path: /data/first
";

fn load_bytes(file: &[u8], env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.yaml"), file).unwrap();
    let env: HashMap<String, String> =
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let loaded = Config::load(dir.path(), &env);
    let printed = match &loaded {
        Ok(loaded) => format!("{}{:?}{:?}", loaded.report, loaded.report, loaded.config),
        Err(error) => format!("{error}{error:?}"),
    };
    for secret in [PASSWORD, SECRET_KEY] {
        assert!(!printed.contains(secret), "a secret is printed: {printed}");
    }
    loaded
}

fn load(file: &str) -> Result<Loaded, ConfigError> {
    load_bytes(file.as_bytes(), &[])
}

/// The least file with `lines` added; a line for a key that is in it already replaces that one.
fn with(lines: &str) -> Result<Loaded, ConfigError> {
    load(&replaced(lines))
}

fn replaced(lines: &str) -> String {
    let key = lines.split(':').next().unwrap_or_default();
    let kept = LEAST.lines().filter(|line| !line.starts_with(&format!("{key}:")));
    let kept: Vec<&str> = match key {
        "DISTRIBUTED_STORAGE_CONFIG" => kept.filter(|line| !line.starts_with(' ')).collect(),
        _ => kept.collect(),
    };
    format!("{}\n{lines}\n", kept.join("\n"))
}

fn config(lines: &str) -> Config {
    with(lines).unwrap_or_else(|error| panic!("{lines}: {error}")).config
}

/// The problems that `lines` cause, as `key: reason`.
fn problems(lines: &str) -> Vec<String> {
    let problems = match with(lines) {
        Ok(loaded) => loaded.report.problems,
        Err(error) => error.problems,
    };
    problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect()
}

#[test]
fn the_least_file_gets_quays_defaults() {
    let Loaded { config: c, report } = load(LEAST).unwrap();
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(c.server.base_url(), "http://quay.example:8443");
    assert_eq!((c.server.proxy_count, c.server.v2_pagination_size), (1, 100));
    assert_eq!(
        (c.server.library_namespace.as_str(), c.server.blacklist_v2_spec.as_str()),
        ("library", "<1.6.0")
    );
    assert!(!c.testing && !c.server.registry_state_readonly && !c.server.account_recovery_mode);
    assert_eq!(c.database.password.as_ref().map(Secret::expose), Some(PASSWORD));
    assert_eq!(c.database.hosts, [(Host::Tcp("db.example".into()), 5432)]);
    assert_eq!((c.database.user.as_str(), c.database.dbname.as_str()), ("quay", "quay"));
    assert_eq!(
        (c.database.tls, c.database.connect_timeout),
        (Tls::default(), Duration::from_secs(10))
    );
    assert_eq!(c.database.keepalives, Some(Keepalives::default()));
    assert_eq!(c.storage.preference, ["second", "first"], "the order of the file");
    assert_eq!(c.storage.locations["first"], Location::Local { path: "/data/first".into() });
    assert_eq!((c.keys.service.as_str(), c.keys.max_fresh), ("quay", Duration::from_secs(3660)));
    assert_eq!(
        (c.keys.kid_path, c.keys.key_path),
        (c.dir.join("quay.kid"), c.dir.join("quay.pem"))
    );
    assert_eq!(
        (c.auth.authentication_type.as_str(), c.auth.database_secret_key.expose()),
        ("Database", SECRET_KEY)
    );
    assert!(
        c.auth.app_specific_tokens
            && c.auth.user_last_accessed
            && !c.auth.external_superuser_lookup
    );
    assert_eq!(c.auth.last_accessed_threshold, Duration::from_secs(60));
    assert!(
        c.features.anonymous_access
            && c.features.library_support
            && c.features.extended_repository_names
    );
    assert!(c.features.advertise_v2 && c.features.referrers_api);
    assert!(!c.features.sparse_index && !c.features.proxy_cache && !c.storage.proxy_storage);
    assert!(c.audit.logs_model == "database" && c.audit.log_logins && !c.audit.log_login_failures);
    assert_eq!((c.sidecar.db_pool_size, c.sidecar.workers), (16, None));
    assert_eq!(
        (c.sidecar.db_wait, c.sidecar.drain),
        (Duration::from_secs(2), Duration::from_secs(8))
    );
    assert!(c.sidecar.db_prepared_statements && !c.logging.json && !c.logging.debug);
}

#[test]
fn a_file_as_quays_own_tools_write_it() {
    let file = "\
SETUP_COMPLETE: true
TESTING: false
SERVER_HOSTNAME: localhost:18080
PREFERRED_URL_SCHEME: https
DB_URI: postgresql://quay:quay@127.0.0.1:5433/quay
DB_CONNECTION_ARGS:
  autorollback: true
  threadlocals: true
BUILDLOGS_REDIS: {host: 127.0.0.1, port: 6379}
DISTRIBUTED_STORAGE_CONFIG:
  default:
    - LocalStorage
    - storage_path: /datastorage/registry
DISTRIBUTED_STORAGE_PREFERENCE: [default]
SECRET_KEY: \"0123456789abcdef\"
DATABASE_SECRET_KEY: 524328711234567890123456789
SUPER_USERS: [admin]
TAG_EXPIRATION_OPTIONS: [0s, 1d, 1w, 2w, 4w]
";
    let Loaded { config, report } = load(file).unwrap();
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(config.server.base_url(), "https://localhost:18080");
    assert_eq!(config.auth.super_users, ["admin"]);
    assert_eq!(config.auth.database_secret_key.expose(), "524328711234567890123456789");
    let row = report.settings.iter().find(|setting| setting.key == "DB_URI").unwrap();
    assert_eq!(row.value, "postgresql://quay:***@127.0.0.1:5433/quay");
    assert!(row.place.ends_with("config.yaml:5"), "{}", row.place);
}

#[test]
fn all_problems_are_reported_at_once_with_their_places() {
    let error =
        load("PREFERRED_URL_SCHEME: ftp\nSUPER_USERS: admin\nLOGS_MODEL: splunk\n").unwrap_err();
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "TESTING",
            "SERVER_HOSTNAME",
            "PREFERRED_URL_SCHEME",
            "DB_URI",
            "DISTRIBUTED_STORAGE_CONFIG",
            "SUPER_USERS",
            "DATABASE_SECRET_KEY",
            "LOGS_MODEL"
        ]
    );
    let printed = error.to_string();
    assert!(
        printed
            .contains("config.yaml:2)\n  reason: expected a list of text, found text\n  remedy: "),
        "{printed}"
    );
    assert!(printed.contains("warning: TESTING (default)\n"), "{printed}");
}

#[test]
fn values_by_pythons_rules() {
    assert!(config("FEATURE_SIGNING: 'TRUE'").auth.signing);
    assert!(!config("FEATURE_SIGNING: 'yes'").auth.signing);
    assert!(config("FEATURE_SIGNING: yes").auth.signing);
    assert!(!config("FEATURE_ANONYMOUS_ACCESS: null").features.anonymous_access);
    assert!(config("FEATURE_PROXY_CACHE: 1").features.proxy_cache);
    assert!(!config("ACTION_LOG_AUDIT_LOGINS:").audit.log_logins);
    assert!(config("REGISTRY_STATE: readonly").server.registry_state_readonly);
    for (text, count) in [("false", 0), ("0", 0), ("null", 0), ("true", 1), ("3", 3)] {
        assert_eq!(config(&format!("PROXY_COUNT: {text}")).server.proxy_count, count, "{text}");
    }
    for (text, size) in [("5", 100), ("-5", 100), ("250", 250)] {
        assert_eq!(
            config(&format!("V2_PAGINATION_SIZE: {text}")).server.v2_pagination_size,
            size,
            "{text}"
        );
    }
    assert!(config("SUPER_USERS: null").auth.super_users.is_empty());
    assert!(config("SUPER_USERS: [a]\nFEATURE_SUPER_USERS: false").auth.super_users.is_empty());
    let oidc = "AUTHENTICATION_TYPE: OIDC\nOIDC_LOGIN_CONFIG: {SUPERUSER_GROUP: admins}";
    assert!(config(oidc).auth.external_superuser_lookup);
    assert!(!config("OIDC_LOGIN_CONFIG: {SUPERUSER_GROUP: admins}").auth.external_superuser_lookup);
    assert_eq!(config("DATABASE_SECRET_KEY: 123").auth.database_secret_key.expose(), "123");
    assert!(!config("QUAY_SIDECAR: {db_prepared_statements: off}").sidecar.db_prepared_statements);
    assert_eq!(config("QUAY_SIDECAR: {workers: 3, drain_s: 0}").sidecar.workers, Some(3));
    config("QUAY_SIDECAR:");
    let admin = |lines: &str| config(lines).sidecar.mirror_admin.to_string();
    assert_eq!(admin(""), "127.0.0.1:9194");
    assert_eq!(admin("QUAY_SIDECAR: {repo_mirror_admin: '[::1]:0'}"), "[::1]:0");
    assert_eq!(admin("QUAY_SIDECAR: {repo_mirror_admin: '0.0.0.0:1,public'}"), "0.0.0.0:1");
    config("SOME_KEY_OF_QUAY: {a: [1, .5, ~]}");
}

#[test]
fn a_misspelt_setting_of_ours_is_named() {
    let error = with("QUAY_SIDECAR: {db_poolsize: 8, colour: red}").unwrap_err();
    let remedies: Vec<&str> =
        error.problems.iter().map(|problem| problem.remedy.as_str()).collect();
    assert!(remedies[0].starts_with("the settings are db_pool_size, "), "{remedies:?}");
    assert_eq!(remedies[1], "did you mean db_pool_size?");
}

#[test]
fn keys_lie_beside_the_file_or_above_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let stack = folder.path().join("stack");
    std::fs::create_dir(&stack).unwrap();
    std::fs::write(stack.join("config.yaml"), LEAST).unwrap();
    let key_path = || {
        let env = HashMap::<String, String>::new();
        Config::load(&stack, &env).unwrap().config.keys.key_path
    };
    assert_eq!(key_path(), folder.path().join("quay.pem"));
    std::fs::write(stack.join("quay.kid"), "kid").unwrap();
    assert_eq!(key_path(), stack.join("quay.pem"));
}

#[test]
fn the_environment_wins() {
    let env = [
        ("QUAY_OVERRIDE_CONFIG", r#"{"SERVER_HOSTNAME": "other.example", "SUPER_USERS": null}"#),
        ("QUAY_DISTRIBUTED_STORAGE_PREFERENCE", " first  second "),
        ("JSONLOG", "True"),
        ("DEBUGLOG", "1"),
    ];
    let file = replaced("SUPER_USERS: [a]\nDISTRIBUTED_STORAGE_PREFERENCE: [second]");
    let Loaded { config, report } = load_bytes(file.as_bytes(), &env).unwrap();
    assert_eq!(config.server.hostname, "other.example");
    assert!(config.auth.super_users.is_empty());
    assert_eq!(config.storage.preference, ["first", "second"]);
    assert!(config.logging.json && !config.logging.debug);
    let place =
        |key: &str| report.settings.iter().find(|s| s.key == key).map(|s| s.place.clone()).unwrap();
    assert_eq!(place("SERVER_HOSTNAME"), "environment QUAY_OVERRIDE_CONFIG");
    assert_eq!(
        place("DISTRIBUTED_STORAGE_PREFERENCE"),
        "environment QUAY_DISTRIBUTED_STORAGE_PREFERENCE"
    );
    assert_eq!(place("JSONLOG"), "environment JSONLOG");
    assert_eq!(place("PROXY_COUNT"), "default");
}

#[test]
fn a_broken_override_is_refused_without_being_quoted() {
    let table = [
        ("\"s3cr3t-p4ssw0rd\"", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{\"DB_URI\": \"s3cr3t-p4ssw0rd", "not valid JSON at line 1 column"),
        ("{\"A\": 1} s3cr3t-p4ssw0rd", "not valid JSON at line 1 column"),
    ];
    for (json, expected) in table {
        let error = load_bytes(LEAST.as_bytes(), &[("QUAY_OVERRIDE_CONFIG", json)]).unwrap_err();
        assert!(error.problems[0].reason.starts_with(expected), "{json}: {error}");
    }
    load_bytes(LEAST.as_bytes(), &[("QUAY_OVERRIDE_CONFIG", "{}")]).unwrap();
    load_bytes(LEAST.as_bytes(), &[("QUAY_OVERRIDE_CONFIG", "")]).unwrap();
}

#[test]
fn unusable_files() {
    let reason = |error: ConfigError| error.problems[0].reason.clone();
    assert!(reason(load_bytes(b"a: \xff", &[]).unwrap_err()).starts_with("not UTF-8 at byte 3"));
    assert!(
        reason(load_bytes(&vec![b'#'; (4 << 20) + 1], &[]).unwrap_err())
            .starts_with("larger than 4 MiB")
    );
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(dir.path(), &HashMap::new()).unwrap_err();
    assert!(missing.problems[0].remedy.contains("folder that holds"), "{missing}");
    fs::create_dir(dir.path().join("config.yaml")).unwrap();
    assert!(
        reason(Config::load(dir.path(), &HashMap::new()).unwrap_err())
            .starts_with("cannot be read")
    );
    load(&format!("\u{feff}{LEAST}")).unwrap();
}

#[test]
fn the_keys_lie_above_the_stack_folder() {
    let dir = tempfile::tempdir().unwrap();
    let stack = dir.path().join("stack");
    fs::create_dir(&stack).unwrap();
    fs::write(stack.join("config.yaml"), LEAST).unwrap();
    let loaded = Config::load(&stack, &HashMap::new()).unwrap();
    assert_eq!(loaded.config.keys.kid_path, dir.path().join("quay.kid"));
}
