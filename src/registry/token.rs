//! `GET /v2/auth`: tokens (contract §1.5, §2.3).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::access::latin1;
use super::error::{
    ApiError, denied, invalid_request, name_invalid, read_only, unauthorized, unsupported,
};
use super::{App, Route, json, query};
use crate::audit::{FailedLogin, LoggedInBy};
use crate::auth::{
    Basic, Declined, FailureLog, Grant, GrantError, Identity, LoginError, Refusal, ScopeError,
    ScopeRequest, TokenRequest, mint,
};
use crate::events::Action;

/// The capability of this route.
const V2_AUTH: &str = "V2_AUTH";

/// Scopes in one request at most. Clients send one, or two when they mount a blob.
const MAX_SCOPES: usize = 50;

pub async fn issue(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    app.check_capability(V2_AUTH)?;
    // By the name that is claimed: what Python is to check, we must not have checked before.
    let header = latin1(&request, &header::AUTHORIZATION);
    let basic = Basic::parse(&header);
    app.check_cohort(&request, None, basic.as_ref().map(|basic| basic.username.as_str()))?;
    let query = request.query_string();
    let scopes: Vec<String> = query::values(query, "scope").take(MAX_SCOPES + 1).collect();
    if scopes.len() > MAX_SCOPES {
        return Err(invalid_request(format!("more than {MAX_SCOPES} scopes in one request")));
    }
    let service = query::value(query, "service");
    let hostname = &app.shared.config.server.hostname;
    if let Some(other) = service.filter(|service| service != hostname) {
        // A token for another audience is a key to another service (CVE-2026-123710).
        return Err(invalid_request(format!("this registry is {hostname}, not {other:?}")));
    }
    // What cannot be read is refused, but only once the login is known to be good.
    let parsed: Vec<_> = scopes.iter().map(|scope| parse(&app, scope)).collect();

    let sent = (!header.is_empty()).then_some(basic);
    let identity = login(&app, &request, sent, scopes.is_empty()).await?;
    if identity.is_none() && scopes.is_empty() {
        return Err(unauthorized(None, app.challenge()));
    }
    let mut grants = Vec::new();
    for scope in parsed {
        match scope? {
            Some(scope) => grants.push(grant(&app, &scope, identity.as_ref()).await?),
            None if identity.is_none() => return Err(unauthorized(None, app.challenge())),
            None => {}
        }
    }
    if let Some(identity) = identity.as_ref().filter(|_| scopes.is_empty()) {
        note_login(&app, &request, identity).await?;
    }
    if let Some(username) = identity.as_ref().and_then(Identity::username) {
        let first = grants.first().map(|grant| (&grant.repository, grant.actions.as_slice()));
        app.shared.events.user_did(username, Action::Token(first));
    }
    let token = mint(
        &app.shared.instance_key,
        &TokenRequest {
            issuer: &app.shared.config.keys.service,
            audience: hostname,
            identity: identity.as_ref(),
            grants: &grants,
        },
    )?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"));
    Ok(json::respond(&mut response, &json!({"token": token})))
}

/// An empty scope is none.
fn parse(app: &App, scope: &str) -> Result<Option<ScopeRequest>, ApiError> {
    if scope.is_empty() {
        return Ok(None);
    }
    app.shared.scopes.parse(scope).map(Some).map_err(|error| match error {
        ScopeError::Undecodable(_) => invalid_request(error.to_string()),
        ScopeError::InvalidName(_) => name_invalid(error.to_string()),
    })
}

/// Who asks: nobody where no `Authorization` header was `sent`, and nobody good where it cannot be
/// read. A login without a scope, `bare`, is logged.
async fn login(
    app: &App,
    request: &HttpRequest,
    sent: Option<Option<Basic>>,
    bare: bool,
) -> Result<Option<Identity>, ApiError> {
    let config = &app.shared.config;
    let Some(basic) = sent else {
        return match config.features.anonymous_access {
            true => Ok(None),
            false => Err(app.anonymous_refused(Route::Token)),
        };
    };
    // Decided before the password is looked at: Python will look at it too, and a wrong one
    // must be counted once.
    let decline = |reason| app.decline(V2_AUTH, reason);
    let logs = bare || config.audit.log_login_failures;
    if logs && config.audit.logs_model != "database" {
        return Err(decline("logs_model"));
    }
    let refused = |message| match config.features.anonymous_access {
        true => unauthorized(message, app.challenge()),
        // A failed login is an anonymous one.
        false => app.anonymous_refused(Route::Token),
    };
    let invalid = || Some("Specified credentials are invalid".to_owned());
    let Some(basic) = basic else { return Err(refused(invalid())) };
    match app.shared.logins.check(&app.catalog, &basic).await {
        Ok(identity) => Ok(Some(identity)),
        Err(LoginError::Invalid(refusal)) => {
            note_failure(app, request, &basic, &refusal).await?;
            Err(refused(refusal.message.or_else(invalid)))
        }
        Err(LoginError::Throttled(seconds)) => Err(ApiError::Throttled { seconds }),
        Err(error @ LoginError::Busy) => Err(ApiError::Unavailable(error.to_string())),
        Err(LoginError::Declined(Declined(reason))) => Err(decline(reason)),
        Err(LoginError::Catalog(error)) => Err(error.into()),
    }
}

async fn grant(
    app: &App,
    scope: &ScopeRequest,
    identity: Option<&Identity>,
) -> Result<Grant, ApiError> {
    let db = app.catalog.session(Route::Token.name());
    app.shared.authorizer.grant(db, scope, identity).await.map_err(|error| match error {
        GrantError::NamespaceDisabled(_) => denied(error.to_string()),
        GrantError::NotImages(_) | GrantError::NoOrganization => unsupported(error.to_string()),
        GrantError::ReadOnly => read_only(),
        GrantError::Declined(Declined(reason)) => app.decline(V2_AUTH, reason),
        GrantError::Catalog(error) => error.into(),
    })
}

/// A failed login is logged before it is refused, where the operator wants that.
async fn note_failure(
    app: &App,
    request: &HttpRequest,
    basic: &Basic,
    refusal: &Refusal,
) -> Result<(), ApiError> {
    let (config, audit) = (&app.shared.config, &app.shared.audit);
    let Some(message) = refusal.message.as_deref().filter(|_| audit.logs_login_failures()) else {
        return Ok(());
    };
    let (username, performer, title) = match &refusal.log {
        FailureLog::Nowhere => return Ok(()),
        FailureLog::Python => {
            return Err(app.decline(V2_AUTH, "audit_login_failures"));
        }
        FailureLog::Service => (None, None, None),
        FailureLog::User(username) => (Some(username.as_str()), None, None),
        FailureLog::Account { username, performer, title } => {
            (Some(username.as_str()), Some(*performer), title.as_deref())
        }
    };
    let service = config.audit.service_account_id;
    let db = app.catalog.session(Route::Token.name());
    let account = db.log_account(username, performer.is_some(), service).await?;
    let tried = basic.username.as_str();
    let failed = match (tried, tried.split_once('+')) {
        ("$app", _) if config.auth.app_specific_tokens => {
            FailedLogin { kind: "app_specific_token", robot: None, title, username, message }
        }
        ("$oauthtoken", _) => {
            FailedLogin { kind: "oauth", robot: None, title: None, username: None, message }
        }
        (robot, Some((owner, _))) => FailedLogin {
            kind: "robot",
            robot: Some(robot),
            title: None,
            username: Some(owner),
            message,
        },
        (user, None) => {
            FailedLogin { kind: "user", robot: None, title: None, username: Some(user), message }
        }
    };
    Ok(audit.login_failed(account, performer, &failed, &app.client(request)).await?)
}

/// A token for no repository is how clients check a password: `podman login`.
async fn note_login(app: &App, request: &HttpRequest, identity: &Identity) -> Result<(), ApiError> {
    let (account, by) = match identity {
        Identity::User { id, username, .. } => ((*id, username), LoggedInBy::Password),
        Identity::Robot { owner_id, owner, username, .. } => {
            ((*owner_id, owner), LoggedInBy::Robot(username))
        }
        Identity::AppToken { id, username, title, .. } => {
            ((*id, username), LoggedInBy::AppToken(title))
        }
        Identity::OAuthToken { id, username, .. } => ((*id, username), LoggedInBy::OAuthToken),
        // Nobody's.
        Identity::AccessToken { .. } => return Ok(()),
    };
    let performer = identity.id().unwrap_or(account.0);
    let client = app.client(request);
    Ok(app.shared.audit.login((account.0, account.1), performer, by, &client).await?)
}
