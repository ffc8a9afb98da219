//! The settings of Quay that are a plain value each (contract section 6).

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::ValueKind;

use super::namespaces::{self, NewNamespaces};
use super::reader::{
    Parsed, Reader, Show, Wrong, feature, flag, names, number, one_of, path, secret, text,
};
use super::secret::Secret;

/// What the registry is called, and how it behaves as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `SERVER_HOSTNAME`, with its port if it has one; required. JWT audience, URLs, scope names.
    pub hostname: String,
    /// `PREFERRED_URL_SCHEME`: `http` (default) or `https`.
    pub url_scheme: String,
    /// `PROXY_COUNT`, default 1: how many proxies in front of us add to `X-Forwarded-For`.
    pub proxy_count: u32,
    /// `REGISTRY_STATE` is `readonly` (default `normal`): writes are refused.
    pub registry_state_readonly: bool,
    /// `ACCOUNT_RECOVERY_MODE`, default false: nearly all of `/v2` is refused.
    pub account_recovery_mode: bool,
    /// `LIBRARY_NAMESPACE`, default `library`: the namespace of names without one.
    pub library_namespace: String,
    /// `BLACKLIST_V2_SPEC`, default `<1.6.0`: docker versions that get no `/v2/`.
    pub blacklist_v2_spec: String,
    /// `V2_PAGINATION_SIZE`, default 50, but never less than 100: entries of a page.
    pub v2_pagination_size: u32,
    /// `PAGE_TOKEN_KEY`: what pages of the catalog are encrypted with.
    pub page_token_key: Secret,
}

impl Server {
    /// The registry's address as clients see it: `scheme://hostname`.
    pub fn base_url(&self) -> String {
        format!("{}://{}", self.url_scheme, self.hostname)
    }
}

/// The key that signs registry tokens (contract 2.1, Keys).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceKeys {
    /// `INSTANCE_SERVICE_KEY_SERVICE`, default `quay`: token issuer, and service of the key rows.
    pub service: String,
    /// `INSTANCE_SERVICE_KEY_KID_LOCATION`, default `quay.kid` in Quay's `conf` folder.
    pub kid_path: PathBuf,
    /// `INSTANCE_SERVICE_KEY_LOCATION`, default `quay.pem` in Quay's `conf` folder.
    pub key_path: PathBuf,
    /// `REGISTRY_JWT_AUTH_MAX_FRESH_S`, default 3660 s: the longest lifetime of a token.
    pub max_fresh: Duration,
}

/// Who may log in, and who has special rights (contract 2.2, 2.7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// `AUTHENTICATION_TYPE`, default `Database`; passwords of any other type go to Python.
    pub authentication_type: String,
    /// `DATABASE_SECRET_KEY`, required: as written; contract 2.4 makes a key of it.
    pub database_secret_key: Secret,
    /// `SUPER_USERS`; empty unless `FEATURE_SUPER_USERS` (default true).
    pub super_users: Vec<String>,
    /// `FEATURE_SUPERUSERS_FULL_ACCESS`, default false.
    pub superusers_full_access: bool,
    /// `GLOBAL_READONLY_SUPER_USERS`, default none.
    pub global_readonly_super_users: Vec<String>,
    /// Only LDAP or OIDC can tell who is a superuser or restricted: Python has to decide.
    pub external_superuser_lookup: bool,
    /// `ROBOTS_DISALLOW`, default false: robots cannot log in, except those of the whitelist.
    pub robots_disallow: bool,
    /// `ROBOTS_WHITELIST`, default none.
    pub robots_whitelist: Vec<String>,
    /// `FEATURE_REQUIRE_ENCRYPTED_BASIC_AUTH`, default false: plain passwords are refused.
    pub require_encrypted_basic_auth: bool,
    /// `SECRET_KEY`, which passwords are encrypted with; without it Quay makes up one.
    pub secret_key: Option<Secret>,
    /// `FEATURE_APP_SPECIFIC_TOKENS`, default true.
    pub app_specific_tokens: bool,
    /// `FEATURE_USER_LAST_ACCESSED`, default true: remember when an account was last used.
    pub user_last_accessed: bool,
    /// `LAST_ACCESSED_UPDATE_THRESHOLD_S`, default 60 s: not more often than this.
    pub last_accessed_threshold: Duration,
    /// `OAUTH_TOKEN_LAST_ACCESSED_UPDATE_THRESHOLD_S`, default 60 s.
    pub oauth_last_accessed_threshold: Duration,
    /// Organizations that a push makes.
    pub new_namespaces: NewNamespaces,
    /// `CREATE_PRIVATE_REPO_ON_PUSH`, default true: what a push makes is private.
    pub create_private_repo_on_push: bool,
    /// `FEATURE_ORG_MIRROR`, default false: some organizations take no new repositories.
    pub org_mirror: bool,
    /// Who may not push to a namespace of their own; `None` unless `FEATURE_RESTRICTED_USERS`.
    pub restricted: Option<Restricted>,
    /// `FEATURE_SIGNING`, default false: tokens name a TUF root.
    pub signing: bool,
}

/// `FEATURE_RESTRICTED_USERS` (contract 2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restricted {
    /// `RESTRICTED_USERS_WHITELIST`; nobody is excepted when it is empty.
    pub except: Vec<String>,
}

/// Switches of the registry's own surface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// `FEATURE_ANONYMOUS_ACCESS`, default true: public repositories without a login.
    pub anonymous_access: bool,
    /// `FEATURE_LIBRARY_SUPPORT`, default true: names without a namespace.
    pub library_support: bool,
    /// `FEATURE_EXTENDED_REPOSITORY_NAMES`, default true: slashes in repository names.
    pub extended_repository_names: bool,
    /// `FEATURE_ADVERTISE_V2`, default true: `/v2/` answers at all.
    pub advertise_v2: bool,
    /// `FEATURE_SPARSE_INDEX`, default false: an index may lack some of its manifests.
    pub sparse_index: bool,
    /// `FEATURE_PROXY_CACHE`, default false: some namespaces are a cache of another registry.
    pub proxy_cache: bool,
    /// `FEATURE_REFERRERS_API`, default true.
    pub referrers_api: bool,
    /// `FEATURE_PUBLIC_CATALOG`, default false: public repositories are in everybody's catalog.
    pub public_catalog: bool,
}

/// The action log (contract 4.9).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// `LOGS_MODEL`, default `database`; requests that log to any other go to Python.
    pub logs_model: String,
    /// `ALLOW_PULLS_WITHOUT_STRICT_LOGGING`, default false: a pull may go unlogged.
    pub allow_pulls_without_strict_logging: bool,
    /// `ALLOW_WITHOUT_STRICT_LOGGING`, default false: anything may go unlogged.
    pub allow_without_strict_logging: bool,
    /// `ACTION_LOG_AUDIT_LOGINS`, default true.
    pub log_logins: bool,
    /// `ACTION_LOG_AUDIT_LOGIN_FAILURES`, default false.
    pub log_login_failures: bool,
    /// `SERVICE_LOG_ACCOUNT_ID`, default the first account: whose log has what is nobody's.
    pub service_account_id: Option<i32>,
    /// `ACTION_LOG_AUDIT_PULL_FAILURES`, default false.
    pub log_pull_failures: bool,
    /// `DISABLED_FOR_AUDIT_LOGS`, default none: namespaces that are never logged.
    pub disabled_namespaces: Vec<String>,
    /// `DISABLED_FOR_PULL_LOGS`, default none: namespaces whose pulls are not logged.
    pub disabled_pull_namespaces: Vec<String>,
    /// `FEATURE_DISABLE_PULL_LOGS_FOR_FREE_NAMESPACES`, default false.
    pub skip_free_namespaces: bool,
}

/// How we log, by the same variables as Python.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logging {
    /// Variable `JSONLOG` is `true`: one JSON object a line.
    pub json: bool,
    /// Variable `DEBUGLOG` is `true`.
    pub debug: bool,
}

/// Quay's default, the same in every installation: pages of the catalog are no secret.
const PAGE_TOKEN_KEY: &str = "0OYrc16oBuksR8T3JGB-xxYSlZ2-7I_zzqrLzggBJ58=";

pub(super) fn server(r: &mut Reader<'_>) -> Server {
    Server {
        hostname: r.required("SERVER_HOSTNAME", hostname),
        url_scheme: r.setting("PREFERRED_URL_SCHEME", "http".into(), one_of(&["http", "https"])),
        proxy_count: r.setting("PROXY_COUNT", 1, proxy_count),
        registry_state_readonly: r.setting("REGISTRY_STATE", "normal".into(), text) == "readonly",
        account_recovery_mode: r.setting("ACCOUNT_RECOVERY_MODE", false, flag),
        library_namespace: r.setting("LIBRARY_NAMESPACE", "library".into(), text),
        blacklist_v2_spec: r.setting("BLACKLIST_V2_SPEC", "<1.6.0".into(), text),
        page_token_key: r.setting("PAGE_TOKEN_KEY", Secret::new(PAGE_TOKEN_KEY), secret),
        v2_pagination_size: r.setting("V2_PAGINATION_SIZE", 100, |value| {
            // Python takes max(V2_PAGINATION_SIZE, 100), whatever the setting says.
            Ok(u32::try_from(number(i64::MIN..=1_000_000)(value)?.max(100)).unwrap_or(100))
        }),
    }
}

fn hostname(value: &ValueKind) -> Parsed<String> {
    let name = text(value)?;
    let remedy = "set it to the host name with its port if that is not the usual one, such as quay.example:8443";
    if name.contains("://") {
        return Err(Wrong::new("contains a scheme, which belongs to PREFERRED_URL_SCHEME", remedy));
    }
    if name.is_empty()
        || name.contains(|c: char| "/@?#".contains(c) || c.is_whitespace() || c.is_control())
    {
        return Err(Wrong::new("not a host name", remedy));
    }
    Ok(name)
}

/// A count, or a flag: Python only looks at its truth before it counts.
fn proxy_count(value: &ValueKind) -> Parsed<u32> {
    match value {
        ValueKind::Nil => Ok(0),
        ValueKind::Boolean(on) => Ok(u32::from(*on)),
        value => Ok(u32::try_from(number(0..=100)(value)?).unwrap_or_default()),
    }
}

fn seconds(value: &ValueKind) -> Parsed<Duration> {
    Ok(Duration::from_secs(number(0..=i64::from(u32::MAX))(value)?.unsigned_abs()))
}

pub(super) fn instance_keys(r: &mut Reader<'_>, dir: &Path) -> InstanceKeys {
    let conf = conf_dir(dir);
    InstanceKeys {
        service: r.setting("INSTANCE_SERVICE_KEY_SERVICE", "quay".into(), text),
        kid_path: r.setting("INSTANCE_SERVICE_KEY_KID_LOCATION", conf.join("quay.kid"), path),
        key_path: r.setting("INSTANCE_SERVICE_KEY_LOCATION", conf.join("quay.pem"), path),
        max_fresh: r.setting("REGISTRY_JWT_AUTH_MAX_FRESH_S", Duration::from_secs(3660), seconds),
    }
}

/// Where the keys are: beside `config.yaml`, or one level up where that is `conf/stack`, as in
/// Quay's image.
fn conf_dir(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(conf) if dir.ends_with("stack") && !dir.join("quay.kid").exists() => conf.into(),
        _ => dir.into(),
    }
}

pub(super) fn auth(r: &mut Reader<'_>) -> Auth {
    let authentication_type = r.setting("AUTHENTICATION_TYPE", "Database".into(), text);
    if authentication_type != "Database" {
        r.warn(
            "AUTHENTICATION_TYPE",
            format!(
                "passwords of type {} are not checked by this program yet",
                authentication_type.show()
            ),
            "nothing to do: Python keeps checking them",
        );
    }
    let external_superuser_lookup = external_superuser_lookup(r, &authentication_type);
    let super_users_on = r.setting("FEATURE_SUPER_USERS", true, feature);
    let mut super_users = r.setting("SUPER_USERS", Vec::new(), names);
    if !super_users_on {
        super_users.clear();
    }
    Auth {
        authentication_type,
        database_secret_key: r.required("DATABASE_SECRET_KEY", secret),
        super_users,
        superusers_full_access: r.setting("FEATURE_SUPERUSERS_FULL_ACCESS", false, feature),
        global_readonly_super_users: r.setting("GLOBAL_READONLY_SUPER_USERS", Vec::new(), names),
        external_superuser_lookup,
        robots_disallow: r.setting("ROBOTS_DISALLOW", false, flag),
        robots_whitelist: r.setting("ROBOTS_WHITELIST", Vec::new(), names),
        require_encrypted_basic_auth: r.setting(
            "FEATURE_REQUIRE_ENCRYPTED_BASIC_AUTH",
            false,
            feature,
        ),
        secret_key: r.setting("SECRET_KEY", None, optional_secret),
        app_specific_tokens: r.setting("FEATURE_APP_SPECIFIC_TOKENS", true, feature),
        user_last_accessed: r.setting("FEATURE_USER_LAST_ACCESSED", true, feature),
        last_accessed_threshold: r.setting(
            "LAST_ACCESSED_UPDATE_THRESHOLD_S",
            Duration::from_secs(60),
            seconds,
        ),
        oauth_last_accessed_threshold: r.setting(
            "OAUTH_TOKEN_LAST_ACCESSED_UPDATE_THRESHOLD_S",
            Duration::from_secs(60),
            seconds,
        ),
        new_namespaces: namespaces::read(r),
        create_private_repo_on_push: r.setting("CREATE_PRIVATE_REPO_ON_PUSH", true, flag),
        org_mirror: r.setting("FEATURE_ORG_MIRROR", false, feature),
        restricted: restricted(r),
        signing: r.setting("FEATURE_SIGNING", false, feature),
    }
}

/// Python makes up a key where this is null, as it does for an empty one.
fn optional_secret(value: &ValueKind) -> Parsed<Option<Secret>> {
    match value {
        ValueKind::Nil => Ok(None),
        ValueKind::String(text) if text.is_empty() => Ok(None),
        value => secret(value).map(Some),
    }
}

fn restricted(r: &mut Reader<'_>) -> Option<Restricted> {
    let on = r.setting("FEATURE_RESTRICTED_USERS", false, feature);
    let except = r.setting("RESTRICTED_USERS_WHITELIST", Vec::new(), names);
    on.then_some(Restricted { except })
}

/// Whether a filter or group of LDAP or OIDC takes part in deciding who is special (contract 8).
fn external_superuser_lookup(r: &mut Reader<'_>, authentication_type: &str) -> bool {
    const FILTERS: [&str; 3] = [
        "LDAP_SUPERUSER_FILTER",
        "LDAP_GLOBAL_READONLY_SUPERUSER_FILTER",
        "LDAP_RESTRICTED_USER_FILTER",
    ];
    const GROUPS: [&str; 2] = ["SUPERUSER_GROUP", "GLOBAL_READONLY_SUPERUSER_GROUP"];
    let is_set = |value: &ValueKind| !matches!(value, ValueKind::Nil);
    let filter = FILTERS.into_iter().find(|key| r.source.get(key).is_some_and(is_set));
    // The groups stand in the login provider's own map, such as OIDC_LOGIN_CONFIG.
    let has_group = |(key, value): &(&str, &ValueKind)| match value {
        ValueKind::Table(map) if key.ends_with("_LOGIN_CONFIG") => {
            GROUPS.iter().any(|group| map.get(*group).is_some_and(|value| is_set(&value.kind)))
        }
        value => GROUPS.contains(key) && is_set(value),
    };
    let oidc = authentication_type == "OIDC";
    let group = r.source.iter().filter(has_group).map(|(key, _)| key).min().filter(|_| oidc);
    let Some(key) = filter.or(group) else {
        return false;
    };
    let reason = "superusers or restricted users are looked up outside the database";
    r.warn(key, reason, "nothing to do: Python keeps issuing tokens");
    true
}

pub(super) fn features(r: &mut Reader<'_>) -> Features {
    Features {
        anonymous_access: r.setting("FEATURE_ANONYMOUS_ACCESS", true, feature),
        library_support: r.setting("FEATURE_LIBRARY_SUPPORT", true, feature),
        extended_repository_names: r.setting("FEATURE_EXTENDED_REPOSITORY_NAMES", true, feature),
        advertise_v2: r.setting("FEATURE_ADVERTISE_V2", true, feature),
        sparse_index: r.setting("FEATURE_SPARSE_INDEX", false, feature),
        proxy_cache: r.setting("FEATURE_PROXY_CACHE", false, feature),
        referrers_api: r.setting("FEATURE_REFERRERS_API", true, feature),
        public_catalog: r.setting("FEATURE_PUBLIC_CATALOG", false, feature),
    }
}

/// `user.id`
fn account_id(value: &ValueKind) -> Parsed<Option<i32>> {
    match value {
        ValueKind::Nil => Ok(None),
        value => Ok(i32::try_from(number(0..=i64::from(i32::MAX))(value)?).ok()),
    }
}

pub(super) fn audit(r: &mut Reader<'_>) -> Audit {
    let logs_model = r.setting("LOGS_MODEL", "database".into(), text);
    if logs_model != "database" {
        r.warn(
            "LOGS_MODEL",
            format!(
                "action logs of type {} are not written by this program yet",
                logs_model.show()
            ),
            "nothing to do: Python keeps answering every request that has to be logged",
        );
    }
    Audit {
        logs_model,
        allow_pulls_without_strict_logging: r.setting(
            "ALLOW_PULLS_WITHOUT_STRICT_LOGGING",
            false,
            flag,
        ),
        allow_without_strict_logging: r.setting("ALLOW_WITHOUT_STRICT_LOGGING", false, flag),
        log_logins: r.setting("ACTION_LOG_AUDIT_LOGINS", true, flag),
        log_login_failures: r.setting("ACTION_LOG_AUDIT_LOGIN_FAILURES", false, flag),
        service_account_id: r.setting("SERVICE_LOG_ACCOUNT_ID", None, account_id),
        log_pull_failures: r.setting("ACTION_LOG_AUDIT_PULL_FAILURES", false, flag),
        disabled_namespaces: r.setting("DISABLED_FOR_AUDIT_LOGS", Vec::new(), names),
        disabled_pull_namespaces: r.setting("DISABLED_FOR_PULL_LOGS", Vec::new(), names),
        skip_free_namespaces: r.setting(
            "FEATURE_DISABLE_PULL_LOGS_FOR_FREE_NAMESPACES",
            false,
            feature,
        ),
    }
}

pub(super) fn logging(r: &mut Reader<'_>) -> Logging {
    let mut variable = |name: &str| {
        let value = r.env.var(name);
        let place = if value.is_some() { format!("environment {name}") } else { "default".into() };
        let on = value.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        r.show(name, on.show(), place);
        on
    };
    Logging { json: variable("JSONLOG"), debug: variable("DEBUGLOG") }
}

pub(super) fn testing(r: &mut Reader<'_>) -> bool {
    let testing = r.setting("TESTING", true, flag);
    if testing {
        r.warn(
            "TESTING",
            "Quay runs in its test mode, without its global locks; that is its default",
            "set TESTING: false",
        );
    }
    testing
}
