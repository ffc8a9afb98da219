//! `GET` and `HEAD` of `/v2/<name>/manifests/<reference>` (contract §1.6.4).

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use super::access::Access;
use super::error::{ApiError, manifest_unknown, name_unknown, tag_expired};
use super::{App, Route};
use crate::audit::{Pull, Reference};
use crate::catalog::{Found, Manifest, ManifestLookup, PerformerDetail};
use crate::events::{Action, Pulled};
use crate::oci::{Accept, amd64_linux, is_index, is_schema1, is_tag};

pub async fn by_tag(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let tag = request.match_info().query("tag");
    if !is_tag(tag) {
        return Err(ApiError::NoRoute);
    }
    let access = check(&app, &request).await?;
    let db = app.catalog.session(access.route.name());
    let found = db.manifest_by_tag(&access.name, tag, access.entity()).await?;
    permit(&app, &request, &access, found.as_deref(), Reference::Tag(tag)).await?;
    let found = found.ok_or_else(name_unknown)?;

    let manifest = match &found.manifest {
        Some(manifest) => manifest,
        None if found.expired => return Err(tag_expired(tag)),
        None => return Err(manifest_unknown()),
    };
    let lines = request.headers().get_all(header::ACCEPT).filter_map(|line| line.to_str().ok());
    let accept = Accept::parse(lines);
    let reference = Reference::Tag(tag);
    if accept.takes(&manifest.media_type) {
        return send(&app, &request, &access, &found, manifest, reference).await;
    }
    let child = child(&app, &access, manifest).await?;
    let child = child.as_ref().and_then(|found| found.manifest.as_ref());
    match child.filter(|child| accept.takes(&child.media_type) && !is_schema1(&child.media_type)) {
        Some(child) => send(&app, &request, &access, &found, child, reference).await,
        None => Err(app.decline(access.capability, "manifest_conversion")),
    }
}

/// What clients that take no index get of it, as in Quay (contract §1.6.4).
async fn child(
    app: &App,
    access: &Access,
    manifest: &Manifest,
) -> Result<Found<ManifestLookup>, ApiError> {
    let index = is_index(&manifest.media_type).then_some(&manifest.bytes);
    let Some(digest) = index.and_then(|index| amd64_linux(index)) else { return Ok(None) };
    let db = app.catalog.session(access.route.name());
    Ok(db.manifest_by_digest(&access.name, &digest, access.entity()).await?)
}

pub async fn by_digest(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let access = check(&app, &request).await?;
    let digest = request.match_info().query("digest");
    let db = app.catalog.session(access.route.name());
    let found = db.manifest_by_digest(&access.name, digest, access.entity()).await?;
    permit(&app, &request, &access, found.as_deref(), Reference::Digest(digest)).await?;
    let found = found.ok_or_else(name_unknown)?;

    let manifest = found.manifest.as_ref().ok_or_else(manifest_unknown)?;
    send(&app, &request, &access, &found, manifest, Reference::Digest(digest)).await
}

async fn check(app: &App, request: &HttpRequest) -> Result<Access, ApiError> {
    if app.shared.config.audit.logs_model != "database" {
        return Err(app.decline(Route::of(request).capability(request.method()), "logs_model"));
    }
    Access::check(app, request).await
}

/// Whether the caller may pull; who may not is logged where the operator wants that.
async fn permit(
    app: &App,
    request: &HttpRequest,
    access: &Access,
    found: Option<&ManifestLookup>,
    reference: Reference<'_>,
) -> Result<(), ApiError> {
    let permitted = access.permit(app, found.map(|found| &found.repository));
    let refusal = match &permitted {
        Err(ApiError::Oci(error)) if error.status == StatusCode::UNAUTHORIZED => &error.message,
        _ => return permitted,
    };
    if let Some(found) = found.filter(|_| app.shared.config.audit.log_pull_failures) {
        let pull = Pull {
            name: &access.name,
            repository: &found.repository,
            performer: found.performer.as_ref(),
            reference,
            media_type: "",
        };
        app.shared.audit.pull_failed(&pull, refusal, &app.client(request)).await?;
    }
    permitted
}

/// Tells the rest of Quay: of a robot's pulls nobody's browser is told.
fn tell(app: &App, pull: &Pull<'_>, manifest: &Manifest) {
    let events = &app.shared.events;
    let user = pull.performer.filter(|performer| performer.detail != PerformerDetail::Robot);
    if let Some(username) = user.and_then(|performer| performer.username.as_deref()) {
        events.user_did(username, Action::Pull(pull.name));
    }
    let tag = match pull.reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    };
    let repository_id = pull.repository.id;
    events.pulled(Pulled { repository_id, tag, digest: &manifest.digest });
}

/// Logs the pull, then sends the stored bytes. HEAD logs too, as in Quay.
async fn send(
    app: &App,
    request: &HttpRequest,
    access: &Access,
    found: &ManifestLookup,
    manifest: &Manifest,
    reference: Reference<'_>,
) -> Result<HttpResponse, ApiError> {
    if manifest.bytes.is_empty() {
        return Err(app.decline(access.capability, "sparse_manifest"));
    }
    let pull = Pull {
        name: &access.name,
        repository: &found.repository,
        performer: found.performer.as_ref(),
        reference,
        media_type: &manifest.media_type,
    };
    app.shared.audit.pull(&pull, &app.client(request)).await?;
    tell(app, &pull, manifest);
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, manifest.media_type.as_str()))
        .insert_header(("Docker-Content-Digest", manifest.digest.as_str()))
        .body(manifest.bytes.clone()))
}
