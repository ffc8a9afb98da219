//! Verifying the bearer tokens that clients pull with, whichever runtime made them
//! (contract §2.1, Verification). The messages are Quay's, clients print them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use serde_json::{Map, Value};

use super::ACCESS_TOKEN_NAME;
use super::accepted::Accepted;
use super::keys::{Key, KeyError, VerificationKeys};
use crate::catalog::{Catalog, CatalogError, Entity, Role};
use crate::config;
use crate::oci::{NameRules, RepoName};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::outcome;

/// How far clocks may differ, in seconds.
const LEEWAY_S: i64 = 30;

/// A token that was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The client's fault, in Quay's words.
    #[error("{0}")]
    Rejected(String),
    /// It could not be checked.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// An accepted token: what it permits and whom it was made for.
#[derive(Debug)]
pub struct Bearer {
    pub(super) grants: Vec<(RepoName, Role)>,
    /// Whom the action log names.
    pub entity: Entity,
    /// `sub`: the name of the user or robot; of an application token, its owner's.
    pub subject: String,
}

impl Bearer {
    /// Whether it permits to read `repository`. Every action that Quay grants includes that.
    pub fn may_pull(&self, repository: &RepoName) -> bool {
        self.role(repository) >= Role::Read
    }

    /// Whether it permits to write to `repository`.
    pub fn may_push(&self, repository: &RepoName) -> bool {
        self.role(repository) >= Role::Write
    }

    fn role(&self, repository: &RepoName) -> Role {
        let grants = self.grants.iter().filter(|(name, _)| name == repository);
        grants.map(|(_, role)| *role).max().unwrap_or_default()
    }
}

/// Verifies tokens for one installation.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Arc<VerificationKeys>,
    audience: String,
    issuer: String,
    max_fresh_s: i64,
    rules: NameRules,
    metrics: Arc<Metrics>,
    accepted: Arc<Accepted>,
}

impl Verifier {
    /// `audience` is `SERVER_HOSTNAME`.
    pub fn new(
        keys: Arc<VerificationKeys>,
        audience: &str,
        instance: &config::InstanceKeys,
        rules: NameRules,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            keys,
            audience: audience.to_owned(),
            issuer: instance.service.clone(),
            max_fresh_s: i64::try_from(instance.max_fresh.as_secs()).unwrap_or(i64::MAX),
            rules,
            metrics,
            accepted: Arc::default(),
        }
    }

    /// Verifies the value of an `Authorization` header.
    pub async fn verify(
        &self,
        catalog: &Catalog,
        header: &str,
    ) -> Result<Arc<Bearer>, BearerError> {
        let result = self.accept(catalog, header).await;
        self.metrics.bearer_tokens.get_or_create(&outcome(result.is_ok())).inc();
        result
    }

    async fn accept(&self, catalog: &Catalog, header: &str) -> Result<Arc<Bearer>, BearerError> {
        let malformed = || rejected("Invalid bearer token format");
        let token = header.trim().strip_prefix("Bearer ").ok_or_else(malformed)?;
        if let Some(bearer) = self.accepted.get(&self.keys, token, Utc::now().timestamp()) {
            return Ok(bearer);
        }
        let token = Some(token).filter(|token| has_shape(token)).ok_or_else(malformed)?;
        let (claims, key) = self.claims(catalog, token).await?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (grants, entity) = (self.grants(&claims)?, entity(&claims)?);
        let bearer = Arc::new(Bearer { grants, entity, subject });
        let ends = time(&claims, "exp")?.saturating_add(LEEWAY_S);
        self.accepted.insert(token, key, ends, bearer.clone());
        Ok(bearer)
    }

    /// Whom a token was signed for, whatever it permits.
    pub async fn subject(&self, catalog: &Catalog, token: &str) -> Result<String, BearerError> {
        let token = Some(token).filter(|token| has_shape(token));
        let token = token.ok_or_else(|| rejected("Not enough segments"))?;
        let (claims, _) = self.claims(catalog, token).await?;
        Ok(claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// What a genuine token for this registry says, while it is valid; and who signed it.
    async fn claims(
        &self,
        catalog: &Catalog,
        token: &str,
    ) -> Result<(Map<String, Value>, (String, Arc<Key>)), BearerError> {
        let (signed, signature) =
            token.rsplit_once('.').ok_or_else(|| rejected("Not enough segments"))?;
        let (head, payload) =
            signed.split_once('.').ok_or_else(|| rejected("Not enough segments"))?;

        let head = object(head, "header")?;
        // Whatever key the header carries is ignored: only the table's keys count.
        let kid = head.get("kid").and_then(Value::as_str);
        let kid = kid.ok_or_else(|| rejected("Missing kid header"))?;
        let payload = decode(payload, "payload")?;
        let signature = decode(signature, "crypto")?;
        // The key is looked up first, as in Quay, so that an unknown one is reported as such.
        let rs256 = head.get("alg").and_then(Value::as_str) == Some("RS256");
        let key = match self.keys.key(catalog, kid).await {
            Ok(key) => key,
            Err(KeyError::Unknown) => return Err(rejected("Unknown service key")),
            Err(KeyError::Catalog(error)) => return Err(error.into()),
        };
        if !rs256 {
            return Err(rejected("The specified alg value is not allowed"));
        }
        if !key.verify(signed.as_bytes(), &signature) {
            return Err(rejected("Signature verification failed"));
        }
        let claims = parse_object(&payload, "payload")?;
        self.check_claims(&claims, Utc::now().timestamp())?;
        Ok((claims, (kid.to_owned(), key)))
    }

    fn check_claims(&self, claims: &Map<String, Value>, now: i64) -> Result<(), BearerError> {
        for claim in ["nbf", "iat", "exp"] {
            present(claims, claim)?;
        }
        let (nbf, iat, exp) = (time(claims, "nbf")?, time(claims, "iat")?, time(claims, "exp")?);
        if iat > now + LEEWAY_S {
            return Err(rejected("The token is not yet valid (iat)"));
        }
        if nbf > now + LEEWAY_S {
            return Err(rejected("The token is not yet valid (nbf)"));
        }
        if exp <= now - LEEWAY_S {
            return Err(rejected("Signature has expired"));
        }
        let audience = match present(claims, "aud")? {
            Value::Array(names) => names.iter().any(|name| name == self.audience.as_str()),
            name => name == self.audience.as_str(),
        };
        if !audience {
            return Err(rejected("Audience doesn't match"));
        }
        if present(claims, "iss")? != self.issuer.as_str() {
            return Err(rejected("Invalid issuer"));
        }
        if exp.saturating_sub(iat) > self.max_fresh_s {
            return Err(rejected("Token was signed for too long a time"));
        }
        match claims.get("sub") {
            Some(Value::String(_)) => Ok(()),
            Some(_) => Err(rejected("Subject must be a string")),
            None => Err(rejected("Missing sub field in JWT")),
        }
    }

    /// The repositories of `access`, each with the highest role that its actions stand for. One entry
    /// of another shape spoils the token.
    fn grants(&self, claims: &Map<String, Value>) -> Result<Vec<(RepoName, Role)>, BearerError> {
        let malformed = || rejected("Token contained invalid or malformed access grants");
        let Some(access) = claims.get("access") else { return Ok(Vec::new()) };
        let mut grants = Vec::new();
        for grant in access.as_array().ok_or_else(malformed)? {
            let name = grant.get("name").and_then(Value::as_str).ok_or_else(malformed)?;
            let actions = grant.get("actions").and_then(Value::as_array).ok_or_else(malformed)?;
            let repository = grant.get("type").is_some_and(|kind| kind == "repository");
            let roles: Option<Vec<Role>> = actions.iter().map(role).collect();
            let roles = roles.filter(|_| repository).ok_or_else(malformed)?;
            if let Some(role) = roles.into_iter().max() {
                grants.extend(RepoName::parse(name, &self.rules).map(|name| (name, role)));
            }
        }
        Ok(grants)
    }
}

fn role(action: &Value) -> Option<Role> {
    match action.as_str()? {
        "pull" => Some(Role::Read),
        "push" => Some(Role::Write),
        "*" => Some(Role::Admin),
        _ => None,
    }
}

/// Whom the token was made for. A context without `entity_kind` names nobody, as in Quay.
fn entity(claims: &Map<String, Value>) -> Result<Entity, BearerError> {
    let context = claims.get("context");
    let field = |name| context.and_then(|context| context.get(name)).and_then(Value::as_str);
    let reference = || {
        field("entity_reference")
            // PostgreSQL takes no NUL in a text.
            .filter(|reference| !reference.contains('\0'))
            .map(str::to_owned)
            .ok_or_else(|| rejected("Token context has no entity reference"))
    };
    match field("entity_kind") {
        None | Some("anonymous") => Ok(Entity::Anonymous),
        Some("user") => Ok(Entity::User(reference()?)),
        Some("robot") => Ok(Entity::Robot(reference()?)),
        Some("appspecifictoken") => Ok(Entity::AppToken(reference()?)),
        Some("oauthtoken") => Ok(Entity::OAuthToken(reference()?)),
        Some("token") => Ok(access_token(reference()?)),
        Some(_) => Err(rejected("Token context is of an unknown kind")),
    }
}

/// The rest of what the client sent is a secret, and was compared when the token was made.
fn access_token(mut code: String) -> Entity {
    if let Some((end, _)) = code.char_indices().nth(ACCESS_TOKEN_NAME) {
        code.truncate(end);
    }
    Entity::AccessToken(code)
}

/// Two or more segments of base64 in either alphabet.
fn has_shape(token: &str) -> bool {
    token.contains('.')
        && token.split('.').all(|segment| {
            !segment.is_empty()
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-_/".contains(&b))
        })
}

fn rejected(message: &str) -> BearerError {
    BearerError::Rejected(message.to_owned())
}

fn decode(segment: &str, what: &str) -> Result<Vec<u8>, BearerError> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| rejected(&format!("Invalid {what} padding")))
}

fn object(segment: &str, what: &str) -> Result<Map<String, Value>, BearerError> {
    parse_object(&decode(segment, what)?, what)
}

fn parse_object(json: &[u8], what: &str) -> Result<Map<String, Value>, BearerError> {
    serde_json::from_slice(json)
        .map_err(|_| rejected(&format!("Invalid {what} string: must be a json object")))
}

fn present<'a>(claims: &'a Map<String, Value>, claim: &str) -> Result<&'a Value, BearerError> {
    match claims.get(claim) {
        None | Some(Value::Null) => {
            Err(rejected(&format!("Token is missing the \"{claim}\" claim")))
        }
        Some(value) => Ok(value),
    }
}

fn time(claims: &Map<String, Value>, claim: &str) -> Result<i64, BearerError> {
    let value = present(claims, claim)?;
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    seconds.ok_or_else(|| rejected(&format!("The {claim} claim must be an integer")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn verifier() -> Verifier {
        let metrics = Arc::new(Metrics::default());
        Verifier {
            keys: Arc::new(VerificationKeys::new("quay", metrics.clone())),
            audience: "host:8443".into(),
            issuer: "quay".into(),
            max_fresh_s: 3660,
            rules: NameRules { library_namespace: "library".into(), extended: true },
            metrics,
            accepted: Arc::default(),
        }
    }

    fn claims(change: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let claims = json!({
            "iss": "quay", "aud": "host:8443", "sub": "ada",
            "nbf": NOW, "iat": NOW, "exp": NOW + 3600,
            "access": [{"type": "repository", "name": "a/b", "actions": ["pull"]}],
        });
        let Value::Object(mut claims) = claims else { unreachable!() };
        change(&mut claims);
        claims
    }

    fn set(name: &'static str, value: Value) -> impl FnOnce(&mut Map<String, Value>) {
        move |claims| {
            claims.insert(name.to_owned(), value);
        }
    }

    fn message(change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let result = verifier().check_claims(&claims(change), NOW);
        result.err().map_or_else(|| "accepted".to_owned(), |error| error.to_string())
    }

    #[test]
    fn claims_at_the_edge() {
        assert_eq!(message(|_| ()), "accepted");
        assert_eq!(message(set("exp", json!(NOW - 29))), "accepted");
        assert_eq!(message(set("exp", json!(NOW - 30))), "Signature has expired");
        assert_eq!(message(set("nbf", json!(NOW + 30))), "accepted");
        assert_eq!(message(set("nbf", json!(NOW + 31))), "The token is not yet valid (nbf)");
        assert_eq!(message(set("iat", json!(NOW + 31))), "The token is not yet valid (iat)");
        assert_eq!(message(set("exp", json!(NOW + 3660))), "accepted");
        assert_eq!(message(set("exp", json!(NOW + 3661))), "Token was signed for too long a time");
        assert_eq!(message(set("exp", json!("soon"))), "The exp claim must be an integer");
        assert_eq!(message(set("aud", json!(["x", "host:8443"]))), "accepted");
        assert_eq!(message(set("aud", json!(["x"]))), "Audience doesn't match");
        assert_eq!(message(set("aud", json!(null))), "Token is missing the \"aud\" claim");
        assert_eq!(message(set("iss", json!("other"))), "Invalid issuer");
        assert_eq!(message(set("sub", json!(1))), "Subject must be a string");
        let no_sub = message(|claims| drop(claims.remove("sub")));
        assert_eq!(no_sub, "Missing sub field in JWT");
    }

    #[test]
    fn grants() {
        let granted = |access: Value| {
            verifier()
                .grants(&claims(set("access", access)))
                .map(|grants| {
                    let named = |(name, role): &(RepoName, Role)| format!("{name} {role:?}");
                    grants.iter().map(named).collect::<Vec<_>>()
                })
                .map_err(|error| error.to_string())
        };
        let grant =
            |name, actions| json!([{"type": "repository", "name": name, "actions": actions}]);
        assert_eq!(granted(grant("a/b", json!(["push"]))).unwrap(), ["a/b Write"]);
        assert_eq!(granted(grant("a/b", json!(["pull"]))).unwrap(), ["a/b Read"]);
        let library = granted(grant("busybox", json!(["*", "pull"])));
        assert_eq!(library.unwrap(), ["library/busybox Admin"]);
        assert!(granted(grant("a/b", json!([]))).unwrap().is_empty());
        assert!(granted(json!([])).unwrap().is_empty());
        let malformed = "Token contained invalid or malformed access grants";
        for bad in [
            json!(null),
            json!({}),
            json!([1]),
            grant("a/b", json!(["delete"])),
            grant("a/b", json!("pull")),
            json!([{"type": "registry", "name": "catalog", "actions": ["*"]}]),
        ] {
            assert_eq!(granted(bad.clone()).unwrap_err(), malformed, "{bad}");
        }
    }

    #[test]
    fn entities() {
        let entity = |context: Value| entity(&claims(set("context", context)));
        let of = |kind, reference| json!({"entity_kind": kind, "entity_reference": reference});
        assert_eq!(entity(of("user", "u")).unwrap(), Entity::User("u".into()));
        assert_eq!(entity(of("robot", "a+b")).unwrap(), Entity::Robot("a+b".into()));
        assert_eq!(entity(json!({"kind": "user", "user": "x"})).unwrap(), Entity::Anonymous);
        assert_eq!(entity(json!(null)).unwrap(), Entity::Anonymous);
        let code = "n".repeat(32) + "secret";
        assert_eq!(entity(of("token", &code)).unwrap(), Entity::AccessToken("n".repeat(32)));
        assert!(matches!(entity(of("nobody", "t")), Err(BearerError::Rejected(_))));
        assert!(matches!(entity(json!({"entity_kind": "user"})), Err(BearerError::Rejected(_))));
    }

    proptest! {
        #[test]
        fn shapes(token in ".{0,80}") {
            if has_shape(&token) {
                prop_assert!(token.is_ascii() && token.contains('.'));
            }
        }

        #[test]
        fn any_claims_are_judged(text in "[ -~]{0,60}", number: f64) {
            for name in ["iat", "aud", "access", "context", "sub"] {
                for value in [json!(text), json!(number), json!([text]), json!({"type": text})] {
                    let claims = claims(set(name, value));
                    let _ = verifier().check_claims(&claims, NOW);
                    let _ = verifier().grants(&claims);
                    let _ = entity(&claims);
                }
            }
        }
    }
}
