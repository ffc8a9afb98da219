//! `PUT` and `DELETE` of `/v2/<name>/manifests/<reference>` (contract §1.9.6, §1.9.7).

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use super::App;
use super::access::Access;
use super::error::{
    ApiError, HTML, digest_invalid, manifest_invalid, manifest_type_unsupported, manifest_unknown,
    name_unknown, quota_exceeded, size_invalid, tag_immutable, too_slow,
};
use crate::audit::Client;
use crate::catalog::{Performer, PerformerDetail};
use crate::config::ModelCache;
use crate::events::Action;
use crate::oci::{ManifestType, PushType, UNSUPPORTED_TYPE, is_tag};
use crate::push::{FollowUp, ManifestBody, ManifestPushError, Pushed, Target};

/// Bytes of a manifest at most. The OCI spec asks for 4 MiB at least; Quay has no limit of its own,
/// its nginx takes 1 MiB.
const LARGEST: usize = 4 << 20;

/// How long a client may take to send one.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn put_by_tag(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let tag = request.match_info().query("tag");
    if !is_tag(tag) && !tag.contains(':') {
        return Err(ApiError::NoRoute);
    }
    put(&app, &request, body, Target::Tag(tag)).await
}

pub async fn put_by_digest(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let digest = request.match_info().query("digest");
    put(&app, &request, body, Target::Digest(digest)).await
}

pub async fn delete_by_tag(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let tag = request.match_info().query("tag");
    if !is_tag(tag) {
        return Err(ApiError::NoRoute);
    }
    delete(&app, &request, Target::Tag(tag)).await
}

pub async fn delete_by_digest(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let digest = request.match_info().query("digest");
    delete(&app, &request, Target::Digest(digest)).await
}

async fn put(
    app: &App,
    request: &HttpRequest,
    body: web::Payload,
    target: Target<'_>,
) -> Result<HttpResponse, ApiError> {
    let (access, media_type) = match check_put(app, request).await {
        Ok(checked) => checked,
        Err(error) => return app.hand_back(error, request, body).await,
    };
    if let Target::Tag(tag) = target
        && !is_tag(tag)
    {
        return Err(digest_invalid(format!("{tag:?} is neither a digest nor a tag")));
    }
    let body = ManifestBody { media_type, bytes: read(body).await? };
    let db = app.catalog.session(access.route.name());
    let pushes = &app.shared.pushes;
    match pushes.put_manifest(db, &access.name, target, &body, access.entity()).await {
        Ok(pushed) => stored(app, request, &access, target, media_type, &pushed).await,
        Err(ManifestPushError::Declined(reason)) => {
            let declined = app.decline(access.capability, reason);
            pass_on(app, request, declined, body.bytes).await
        }
        Err(error) => Err(app.manifest_refused(&access, target, error)),
    }
}

/// Who may push, and a type that is ours to read. Quay judges the type first.
async fn check_put(app: &App, request: &HttpRequest) -> Result<(Access, ManifestType), ApiError> {
    let (_, capability, name) = Access::name(app, request)?;
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map(|value| value.to_str().unwrap_or("?"));
    let push_type = PushType::of(content_type, app.shared.config.push.rules(&name.namespace));
    if push_type == PushType::Unsupported {
        return Err(manifest_type_unsupported(UNSUPPORTED_TYPE));
    }
    let access = check(app, request).await?;
    match push_type {
        PushType::Ours(media_type) => Ok((access, media_type)),
        PushType::Python | PushType::Unsupported => Err(app.decline(capability, "schema1")),
    }
}

async fn check(app: &App, request: &HttpRequest) -> Result<Access, ApiError> {
    let (_, capability, _) = Access::name(app, request)?;
    if app.shared.config.audit.logs_model != "database" {
        return Err(app.decline(capability, "logs_model"));
    }
    let access = Access::check_push(app, request).await?;
    let unreached = app.shared.config.model_cache == ModelCache::Unreached;
    if unreached && request.method() == Method::DELETE {
        return Err(app.decline(capability, "model_cache"));
    }
    Ok(access)
}

#[allow(clippy::disallowed_methods, reason = "a manifest is small, and read as a whole")]
async fn read(body: web::Payload) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(PATIENCE, body.to_bytes_limited(LARGEST)).await;
    let too_large = || size_invalid(format!("a manifest has {LARGEST} bytes at most"));
    match read {
        Err(_) => Err(too_slow(format!("no manifest within {} s", PATIENCE.as_secs()))),
        Ok(Err(_)) => Err(too_large()),
        Ok(Ok(Err(error))) => {
            Err(manifest_invalid(json!({"message": format!("the body broke off: {error}")})))
        }
        Ok(Ok(Ok(bytes))) => Ok(bytes),
    }
}

/// Hands a request back whose body was read. nginx has kept it; elsewhere we send it again.
async fn pass_on(
    app: &App,
    request: &HttpRequest,
    declined: ApiError,
    body: Bytes,
) -> Result<HttpResponse, ApiError> {
    match declined {
        ApiError::Python if !app.behind_nginx => {
            let once = stream::once(std::future::ready(Ok(body)));
            app.ask_python(request, Payload::Stream { payload: Box::pin(once) }).await
        }
        error => Err(error),
    }
}

/// What follows a push; then browsers are told.
async fn stored(
    app: &App,
    request: &HttpRequest,
    access: &Access,
    target: Target<'_>,
    media_type: ManifestType,
    pushed: &Pushed,
) -> Result<HttpResponse, ApiError> {
    let name = &access.name;
    app.follow_up(&app.client(request)).pushed(name, target, media_type, pushed).await?;
    if let Target::Tag(_) = target {
        tell(app, pushed.change.performer.as_ref(), Action::Push(name));
    }
    let digest = pushed.digest.as_str();
    let mut response = HttpResponse::Created();
    response
        .insert_header(("Docker-Content-Digest", digest))
        .insert_header((header::LOCATION, format!("/v2/{name}/manifests/{digest}")))
        .insert_header(HTML);
    if let Some(subject) = pushed.subject.as_deref().filter(|_| app.lists_referrers()) {
        response.insert_header(("OCI-Subject", subject));
    }
    Ok(response.body("OK"))
}

async fn delete(
    app: &App,
    request: &HttpRequest,
    target: Target<'_>,
) -> Result<HttpResponse, ApiError> {
    let access = check(app, request).await?;
    let db = app.catalog.session(access.route.name());
    let deleted = app.shared.pushes.delete_manifest(db, &access.name, target, access.entity());
    let (change, deleted) =
        deleted.await.map_err(|error| app.manifest_refused(&access, target, error))?;
    let (name, client) = (&access.name, app.client(request));
    let logged = app.follow_up(&client).deleted(name, target, &change, &deleted).await?;
    for _ in 0..logged {
        tell(app, change.performer.as_ref(), Action::Delete(name));
    }
    Ok(HttpResponse::Accepted().insert_header(HTML).finish())
}

/// Of what robots do nobody's browser is told.
fn tell(app: &App, performer: Option<&Performer>, action: Action<'_>) {
    let user = performer.filter(|performer| performer.detail != PerformerDetail::Robot);
    if let Some(username) = user.and_then(|performer| performer.username.as_deref()) {
        app.shared.events.user_did(username, action);
    }
}

impl App {
    fn lists_referrers(&self) -> bool {
        self.shared.config.features.referrers_api
    }

    fn follow_up<'a>(&'a self, client: &'a Client) -> FollowUp<'a> {
        FollowUp { stale: &self.shared.stale, audit: &self.shared.audit, client }
    }

    /// What the client is told. Of a push by digest Quay says no more than that it failed.
    fn manifest_refused(
        &self,
        access: &Access,
        target: Target<'_>,
        error: ManifestPushError,
    ) -> ApiError {
        let message = error.to_string();
        match error {
            ManifestPushError::NoRepository => name_unknown(),
            ManifestPushError::Unknown => manifest_unknown(),
            ManifestPushError::Immutable(_) => tag_immutable(&message),
            ManifestPushError::OverQuota => quota_exceeded(),
            ManifestPushError::Unparsable(_) | ManifestPushError::Digest => {
                manifest_invalid(json!({"message": message}))
            }
            ManifestPushError::Refused(_) => match target {
                Target::Tag(_) => manifest_invalid(json!({"message": message})),
                Target::Digest(_) => manifest_invalid(json!({})),
            },
            ManifestPushError::Bytes(_) => ApiError::Unavailable(message),
            ManifestPushError::Catalog(error) => error.into(),
            ManifestPushError::Declined(reason) => self.decline(access.capability, reason),
        }
    }
}
