//! Bearer tokens as Quay makes them (contract §2.1): the other runtime accepts ours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde_json::{Map, Value, json};

use super::instance_key::{InstanceKey, InstanceKeyError};
use super::{Grant, Identity};

/// How long a token is valid, in seconds.
pub const LIFETIME_S: i64 = 3600;

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

/// Signs a token that is valid from now.
pub fn mint(key: &InstanceKey, request: &TokenRequest<'_>) -> Result<String, InstanceKeyError> {
    let now = Utc::now().timestamp();
    let access: Vec<Value> = request
        .grants
        .iter()
        .map(|grant| json!({"type": "repository", "name": grant.name, "actions": grant.actions}))
        .collect();
    let claims = json!({
        "iss": request.issuer,
        "aud": request.audience,
        "nbf": now,
        "iat": now,
        "exp": now + LIFETIME_S,
        "sub": request.identity.and_then(Identity::username).unwrap_or("(anonymous)"),
        "access": access,
        "context": context(request),
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
