//! Who may read a repository or write to it, by the token in the request (contract §1.3, §2.6).

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::{Method, StatusCode, header};

use super::error::{ApiError, pushes_disabled, read_only, unauthorized, unsupported};
use super::{App, Route};
use crate::audit::Client;
use crate::auth::Bearer;
use crate::catalog::{Entity, Repository};
use crate::oci::RepoName;

/// A request for something in a repository: its name is read, its token checked.
pub struct Access {
    /// The route it came by.
    pub route: Route,
    /// The capability that the request is one of.
    pub capability: &'static str,
    /// The repository's name.
    pub name: RepoName,
    bearer: Option<Arc<Bearer>>,
}

impl Access {
    /// Reads the name and the token. Nothing about the repository is known yet.
    pub async fn check(app: &App, request: &HttpRequest) -> Result<Self, ApiError> {
        Self::begin(app, request, "pull").await
    }

    /// The same for what changes something, or tells how far a change is: the token must permit it,
    /// and the registry take writes.
    pub async fn check_push(app: &App, request: &HttpRequest) -> Result<Self, ApiError> {
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let actions = if reads { "pull" } else { "pull,push" };
        let access = Self::begin(app, request, actions).await?;
        let route = access.route;
        let bearer = access.bearer.as_ref().filter(|bearer| bearer.may_push(&access.name));
        let Some(bearer) = bearer else {
            let push = &app.shared.config.push;
            let manifest = [Route::ManifestByTag, Route::ManifestByDigest].contains(&route);
            let (logged, reason) = match manifest && request.method() == Method::DELETE {
                true => (push.log_delete_failures, "audit_delete_failures"),
                false => (push.log_failures, "audit_push_failures"),
            };
            if logged {
                return Err(app.decline("V2_PUSH", reason));
            }
            return Err(unauthorized(None, app.scope_challenge(&access.name, "pull,push")));
        };
        if bearer.subject == access.name.namespace
            && app.shared.authorizer.is_restricted(&bearer.subject)
        {
            let challenge = app.scope_challenge(&access.name, "pull,push");
            return Err(
                unauthorized(None, challenge).with_detail("Disallowed for restricted users.")
            );
        }
        app.check_anonymous(access.route, access.entity())?;
        if !reads {
            app.check_writable(access.route, request.method())?;
            check_content_coding(request)?;
        }
        Ok(access)
    }

    async fn begin(
        app: &App,
        request: &HttpRequest,
        actions: &'static str,
    ) -> Result<Self, ApiError> {
        let (route, capability, name) = Self::name(app, request)?;
        let bearer = app.bearer(request, app.scope_challenge(&name, actions)).await?;
        let user = bearer.as_ref().map(|bearer| bearer.subject.as_str());
        app.check_cohort(request, Some(&name), user)?;
        Ok(Self { route, capability, name, bearer })
    }

    /// Reads the name alone.
    pub fn name(
        app: &App,
        request: &HttpRequest,
    ) -> Result<(Route, &'static str, RepoName), ApiError> {
        let route = Route::of(request);
        let path = request.match_info().query("name");
        if !app.shared.config.features.library_support && !path.contains('/') {
            return Err(ApiError::NoRoute);
        }
        let capability = route.capability(request.method());
        app.check_capability(capability)?;
        app.check_recovery_mode(route)?;
        let name = RepoName::parse(path, &app.shared.rules)
            .ok_or_else(|| app.decline(capability, "repository_name"))?;
        Ok((route, capability, name))
    }

    /// Whether the token permits to read another repository.
    pub fn may_pull(&self, other: &RepoName) -> bool {
        self.bearer.as_ref().is_some_and(|bearer| bearer.may_pull(other))
    }

    /// Whom the action log names.
    pub fn entity(&self) -> &Entity {
        self.bearer.as_ref().map_or(&Entity::Anonymous, |bearer| &bearer.entity)
    }

    /// Whether the repository may be read. A grant in the token is enough, whatever has changed
    /// since; without one the repository must be public and hold images.
    pub fn permit(&self, app: &App, repository: Option<&Repository>) -> Result<(), ApiError> {
        let features = &app.shared.config.features;
        // A cache makes repositories when they are first pulled.
        if features.proxy_cache && repository.is_none_or(|repository| repository.proxy_cache) {
            return Err(app.decline(self.capability, "proxy_cache"));
        }
        let granted = self.bearer.as_ref().is_some_and(|bearer| bearer.may_pull(&self.name));
        let public = repository.filter(|repository| repository.public && features.anonymous_access);
        match public {
            _ if granted => {}
            None => return Err(self.refuse(app, repository)),
            Some(repository) if repository.kind != "image" => {
                let kind = &repository.kind;
                return Err(unsupported(format!(
                    "This repository is for managing {kind} and not container images."
                )));
            }
            Some(_) => {}
        }
        app.check_anonymous(self.route, self.entity())
    }

    /// A refusal in a repository that is not there is logged under other accounts: Python's to do.
    fn refuse(&self, app: &App, repository: Option<&Repository>) -> ApiError {
        let manifest = [Route::ManifestByTag, Route::ManifestByDigest].contains(&self.route);
        if manifest && repository.is_none() && app.shared.config.audit.log_pull_failures {
            return app.decline(self.capability, "audit_pull_failures");
        }
        unauthorized(None, app.scope_challenge(&self.name, "pull"))
    }
}

impl App {
    /// The token of a request, if it has one. A bad one is refused even where none is needed.
    pub(super) async fn bearer(
        &self,
        request: &HttpRequest,
        challenge: String,
    ) -> Result<Option<Arc<Bearer>>, ApiError> {
        let route = Route::of(request);
        let header = latin1(request, &header::AUTHORIZATION);
        if header.is_empty() {
            return Ok(None);
        }
        match self.shared.verifier.verify(&self.catalog, &header).await {
            Ok(bearer) => Ok(Some(bearer)),
            Err(error) => Err(ApiError::from_bearer(error, route.allow(), challenge)),
        }
    }

    /// Where to get a token (contract §1.8, WWW-Authenticate).
    pub(super) fn challenge(&self) -> String {
        let server = &self.shared.config.server;
        format!("Bearer realm=\"{}/v2/auth\",service=\"{}\"", server.base_url(), server.hostname)
    }

    fn scope_challenge(&self, name: &RepoName, actions: &str) -> String {
        format!("{},scope=\"repository:{name}:{actions}\"", self.challenge())
    }

    /// `REGISTRY_STATE: readonly` and `DISABLE_PUSHES`, which lets uploads finish (contract §1.3).
    fn check_writable(&self, route: Route, method: &Method) -> Result<(), ApiError> {
        let config = &self.shared.config;
        if config.server.registry_state_readonly {
            return Err(read_only());
        }
        let finishes = route == Route::Upload && method == Method::PUT;
        if config.push.disabled && !finishes {
            return Err(pushes_disabled());
        }
        Ok(())
    }

    /// `FEATURE_ANONYMOUS_ACCESS: false` keeps out everybody without a name.
    pub(super) fn check_anonymous(&self, route: Route, entity: &Entity) -> Result<(), ApiError> {
        if self.shared.config.features.anonymous_access || *entity != Entity::Anonymous {
            return Ok(());
        }
        Err(self.anonymous_refused(route))
    }

    /// The refusal itself: no challenge, for no token would help.
    pub(super) fn anonymous_refused(&self, route: Route) -> ApiError {
        ApiError::Abort {
            status: StatusCode::UNAUTHORIZED,
            message: "Anonymous access is not allowed".to_owned(),
            allow: route.allow(),
            challenge: None,
        }
    }

    /// `ACCOUNT_RECOVERY_MODE` leaves only `/v2/` and `/v2/auth`.
    pub(super) fn check_recovery_mode(&self, route: Route) -> Result<(), ApiError> {
        if !self.shared.config.server.account_recovery_mode {
            return Ok(());
        }
        Err(ApiError::Abort {
            status: StatusCode::METHOD_NOT_ALLOWED,
            message: "Quay running for account recoveries only.".to_owned(),
            allow: route.allow(),
            challenge: None,
        })
    }

    /// Where a request came from. A proxy's word counts only where the proxy is nginx, and then
    /// the last address it names (`PROXY_COUNT`, contract §1.0).
    pub(super) fn client(&self, request: &HttpRequest) -> Client {
        let forwarded = latin1(request, &header::X_FORWARDED_FOR);
        let last = forwarded.rsplit(',').next().unwrap_or_default().trim();
        let believed = self.behind_nginx && self.shared.config.server.proxy_count > 0;
        let ip = match last {
            address if believed && !address.is_empty() => address.chars().take(255).collect(),
            _ => request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default(),
        };
        Client { ip, user_agent: latin1(request, &header::USER_AGENT) }
    }
}

/// Bytes are what they are called by their digest: nobody unpacks what a client has packed for the
/// way, and what was packed is another blob.
fn check_content_coding(request: &HttpRequest) -> Result<(), ApiError> {
    let coding = latin1(request, &header::CONTENT_ENCODING);
    let plain = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    match coding.split(',').map(str::trim).all(plain) {
        true => Ok(()),
        false => Err(ApiError::ContentCoding(coding.chars().take(100).collect())),
    }
}

/// A header as Python sees it: each byte a character, several lines joined by commas.
pub(super) fn latin1(request: &HttpRequest, name: &header::HeaderName) -> String {
    let mut text = String::new();
    for value in request.headers().get_all(name) {
        if !text.is_empty() {
            text.push(',');
        }
        match value.to_str() {
            Ok(ascii) => text.push_str(ascii),
            Err(_) => text.extend(value.as_bytes().iter().map(|byte| char::from(*byte))),
        }
    }
    text
}
