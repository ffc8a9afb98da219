//! Bearer tokens as Quay makes them (contract §2.1): the other runtime accepts ours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde_json::{Map, Value, json};

use super::instance_key::{InstanceKey, InstanceKeyError};
use super::{Grant, Identity};

/// How long a token is valid, in seconds.
pub const LIFETIME_S: i64 = 3600;

/// How long a URL through nginx can be used, in seconds: as long as the one that it stands for.
const STORAGE_PROXY_LIFETIME_S: i64 = 600;

/// Quay signs image metadata nowhere that we serve: a repository with trust enabled is declined.
const NOT_SIGNED: &str = "$disabled";

/// What goes into a token.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// `INSTANCE_SERVICE_KEY_SERVICE`
    pub issuer: &'a str,
    /// `SERVER_HOSTNAME`, whatever service the client named (CVE-2026-123710).
    pub audience: &'a str,
    /// Who logged in.
    pub identity: Option<&'a Identity>,
    /// What each scope got, in order.
    pub grants: &'a [Grant],
}

/// Signs a token for a client of the registry that is valid from now.
pub fn mint(key: &InstanceKey, request: &TokenRequest<'_>) -> Result<String, InstanceKeyError> {
    let access: Vec<Value> = request
        .grants
        .iter()
        .map(|grant| json!({"type": "repository", "name": grant.name, "actions": grant.actions}))
        .collect();
    let subject = request.identity.and_then(Identity::username).unwrap_or("(anonymous)");
    sign(key, (request.issuer, request.audience), subject, LIFETIME_S, &access, context(request))
}

/// Signs a token with which nginx fetches one object, `uri` without the slash before it
/// (contract §5.6).
pub fn mint_storage_proxy(
    key: &InstanceKey,
    issuer: &str,
    audience: &str,
    scheme: &str,
    host: &str,
    uri: &str,
) -> Result<String, InstanceKeyError> {
    let access = json!({"type": "storageproxy", "uri": uri, "host": host, "scheme": scheme});
    let lifetime_s = STORAGE_PROXY_LIFETIME_S;
    sign(key, (issuer, audience), "storageproxy", lifetime_s, &[access], Map::new())
}

fn sign(
    key: &InstanceKey,
    (issuer, audience): (&str, &str),
    subject: &str,
    lifetime_s: i64,
    access: &[Value],
    context: Map<String, Value>,
) -> Result<String, InstanceKeyError> {
    let now = Utc::now().timestamp();
    let claims = json!({
        "iss": issuer,
        "aud": audience,
        "nbf": now,
        "iat": now,
        "exp": now + lifetime_s,
        "sub": subject,
        "access": access,
        "context": context,
    });
    let (signed, signature) = key.sign(|kid| {
        let header = json!({"alg": "RS256", "kid": kid, "typ": "JWT"});
        format!("{}.{}", part(&header), part(&claims))
    })?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What the other runtime rebuilds the performer of a pull from.
fn context(request: &TokenRequest<'_>) -> Map<String, Value> {
    let mut context = Map::new();
    if let Some(identity) = request.identity {
        let (kind, reference) = identity.entity();
        context.insert("version".into(), json!(2));
        context.insert("entity_kind".into(), json!(kind));
        context.insert("entity_reference".into(), json!(reference));
        let (kind, name) = match identity {
            Identity::OAuthToken { .. } => ("oauth", Some(("oauth", reference))),
            Identity::AccessToken { .. } => ("token", Some(("token", reference))),
            _ => ("user", None),
        };
        context.insert("kind".into(), json!(kind));
        if let Some((key, reference)) = name {
            context.insert(key.into(), json!(reference));
        }
        if let Some(username) = identity.username() {
            context.insert("user".into(), json!(username));
        }
    }
    let roots: Map<String, Value> = request
        .grants
        .iter()
        .map(|grant| (grant.repository.to_string(), json!(NOT_SIGNED)))
        .collect();
    context.insert("com.apostille.roots".into(), Value::Object(roots));
    context.insert("com.apostille.root".into(), json!(NOT_SIGNED));
    context
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
