//! Uploads of blobs: `/v2/<name>/blobs/uploads/…` (contract §1.9.1 to §1.9.5). An upload that Python
//! has begun goes on here, and the other way round.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde_json::json;

use super::App;
use super::access::Access;
use super::error::{
    ApiError, HTML, invalid_request, name_unknown, quota_exceeded, size_invalid, too_slow,
    upload_invalid, upload_unknown,
};
use super::query;
use crate::blobs::UploadError;
use crate::oci::{Digest, RepoName};
use crate::push::{Body, BodyError, ContentRange, Open, Phase, PushError};

/// `POST`: begins an upload, mounts a blob of another repository, or takes a blob whole.
pub async fn start(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let access = match Access::check_push(&app, &request).await {
        Ok(access) => access,
        Err(error) => return app.hand_back(error, &request, body).await,
    };
    let db = app.catalog.session(access.route.name());
    let pushes = &app.shared.pushes;
    let held = pushes.hold_to_quota(db, &access.name, access.entity(), Phase::Begin).await;
    held.map_err(|error| app.refused(&access, error))?;
    let query = request.query_string();
    if let Some(digest) = query::value(query, "mount") {
        let from = query::value(query, "from").unwrap_or_default();
        if let Some(mounted) = mount(&app, &access, &digest, &from).await? {
            return Ok(mounted);
        }
    }
    let mut open = match pushes.begin(db, &access.name).await {
        Ok(open) => open,
        Err(error) => {
            let error = app.refused(&access, error);
            return app.hand_back(error, &request, body).await;
        }
    };
    let Some(digest) = query::value(query, "digest") else {
        let location = location(&app, &access.name, open.uuid());
        return Ok(HttpResponse::Accepted()
            .insert_header((UPLOAD_UUID, open.uuid()))
            .insert_header((header::RANGE, "bytes=0--1"))
            .insert_header((header::LOCATION, location))
            .insert_header(HTML)
            .finish());
    };
    let finished = match content_range(&request) {
        Ok(range) => pushes.finish(db, &mut open, range, Body::new(body), &digest).await,
        Err(error) => {
            pushes.cancel(db, &open).await.map_err(|error| app.refused(&access, error))?;
            return Err(error);
        }
    };
    match finished {
        Ok(digest) => Ok(created(&app, &access.name, &digest)),
        Err(error) => {
            // Nobody knows this upload, so nobody can go on with it.
            let _ = pushes.cancel(db, &open).await;
            Err(app.refused(&access, error))
        }
    }
}

/// `GET` and `HEAD`: how far an upload has come.
pub async fn status(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let access = Access::check_push(&app, &request).await?;
    let open = open(&app, &access, &request).await?;
    let last = open.byte_count().saturating_sub(1);
    Ok(HttpResponse::NoContent()
        .insert_header((UPLOAD_UUID, open.uuid()))
        .insert_header((header::RANGE, format!("0-{last}")))
        .insert_header(HTML)
        .finish())
}

/// `PATCH`: adds the bytes of the body.
pub async fn append(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let (access, mut open) = match check_open(&app, &request).await {
        Ok(checked) => checked,
        Err(error) => return app.hand_back(error, &request, body).await,
    };
    has_room(&app, &access, &open).await?;
    let range = content_range(&request)?;
    let db = app.catalog.session(access.route.name());
    let pushes = &app.shared.pushes;
    match pushes.add(db, &mut open, range, Body::new(body)).await {
        Ok(()) => {
            let range = match open.byte_count() {
                0 => "0--1".to_owned(),
                count => format!("0-{}", count - 1),
            };
            Ok(described(&app, &request, &mut HttpResponse::Accepted(), &open, range))
        }
        Err(error) => {
            if ends_upload(&error) {
                let _ = pushes.cancel(db, &open).await;
            }
            failed(&app, &request, &access, &open, error)
        }
    }
}

/// `PUT`: adds what is left, and makes a blob of it.
pub async fn finish(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let access = match Access::check_push(&app, &request).await {
        Ok(access) => access,
        Err(error) => return app.hand_back(error, &request, body).await,
    };
    let Some(digest) = query::value(request.query_string(), "digest") else {
        let reason = "Missing digest arg on monolithic upload";
        return Err(upload_invalid(json!({"reason": reason})));
    };
    let mut open = match open(&app, &access, &request).await {
        Ok(open) => open,
        Err(error) => return app.hand_back(error, &request, body).await,
    };
    has_room(&app, &access, &open).await?;
    let db = app.catalog.session(access.route.name());
    let pushes = &app.shared.pushes;
    let range = match content_range(&request) {
        Ok(range) => range,
        Err(error) => {
            let _ = pushes.cancel(db, &open).await;
            return Err(error);
        }
    };
    match pushes.finish(db, &mut open, range, Body::new(body), &digest).await {
        Ok(digest) => Ok(created(&app, &access.name, &digest)),
        Err(error) => {
            if ends_upload(&error) {
                let _ = pushes.cancel(db, &open).await;
            }
            failed(&app, &request, &access, &open, error)
        }
    }
}

/// `DELETE`: gives an upload up.
pub async fn cancel(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let (access, open) = check_open(&app, &request).await?;
    let db = app.catalog.session(access.route.name());
    let cancelled = app.shared.pushes.cancel(db, &open).await;
    cancelled.map_err(|error| app.refused(&access, error))?;
    Ok(HttpResponse::NoContent().insert_header(HTML).finish())
}

const UPLOAD_UUID: &str = "Docker-Upload-UUID";

async fn check_open(app: &App, request: &HttpRequest) -> Result<(Access, Open), ApiError> {
    let access = Access::check_push(app, request).await?;
    let open = open(app, &access, request).await?;
    Ok((access, open))
}

/// An upload may go on while its namespace has room. One that may not is cancelled, as in Quay.
async fn has_room(app: &App, access: &Access, open: &Open) -> Result<(), ApiError> {
    let db = app.catalog.session(access.route.name());
    let pushes = &app.shared.pushes;
    let held = pushes.hold_to_quota(db, &access.name, access.entity(), Phase::GoOn).await;
    if let Err(PushError::OverQuota) = held {
        let _ = pushes.cancel(db, open).await;
    }
    held.map_err(|error| app.refused(access, error))
}

async fn open(app: &App, access: &Access, request: &HttpRequest) -> Result<Open, ApiError> {
    let db = app.catalog.session(access.route.name());
    let uuid = request.match_info().query("upload");
    let opened = app.shared.pushes.open(db, &access.name, uuid).await;
    opened.map_err(|error| app.refused(access, error))
}

/// Shows a blob that the caller may read in another repository, which is named and has it.
/// `None` is no error: then the client uploads it. Nothing tells why.
async fn mount(
    app: &App,
    access: &Access,
    digest: &str,
    from: &str,
) -> Result<Option<HttpResponse>, ApiError> {
    let db = app.catalog.session(access.route.name());
    let target = db.repository(&access.name).await?.ok_or_else(name_unknown)?;
    let from = RepoName::parse(from, &app.shared.rules);
    let Some((from, digest)) = from.zip(Digest::parse(digest)) else { return Ok(None) };
    let Some(source) = db.blob(&from, &digest).await? else { return Ok(None) };
    let readable = access.may_pull(&from) || source.repository.public;
    if !readable || source.blob.is_none() {
        return Ok(None);
    }
    let keep = app.shared.config.push.temp_tag_expiration;
    let mounted = db.mount_blob(target.repository.id, &digest, keep).await?;
    Ok(mounted.then(|| created(app, &access.name, &digest)))
}

/// `first-last`, as the distribution protocol writes it, without the unit of RFC 9110.
fn content_range(request: &HttpRequest) -> Result<Option<ContentRange>, ApiError> {
    let Some(value) = request.headers().get(header::CONTENT_RANGE) else { return Ok(None) };
    let range = value.to_str().ok().and_then(ContentRange::parse);
    range.map(Some).ok_or_else(|| invalid_request("Invalid range header".to_owned()))
}

/// Whether nobody can go on with the upload after this.
fn ends_upload(error: &PushError) -> bool {
    matches!(error, PushError::Digest { .. } | PushError::TooLarge { .. })
}

fn location(app: &App, name: &RepoName, uuid: &str) -> String {
    format!("{}/v2/{name}/blobs/uploads/{uuid}", app.shared.config.server.base_url())
}

fn created(app: &App, name: &RepoName, digest: &Digest) -> HttpResponse {
    let location = format!("{}/v2/{name}/blobs/{digest}", app.shared.config.server.base_url());
    HttpResponse::Created()
        .insert_header(("Docker-Content-Digest", digest.as_str()))
        .insert_header((header::LOCATION, location))
        .insert_header(HTML)
        .finish()
}

/// An answer about an upload that goes on.
fn described(
    app: &App,
    request: &HttpRequest,
    response: &mut HttpResponseBuilder,
    open: &Open,
    range: String,
) -> HttpResponse {
    let location = format!("{}{}", app.shared.config.server.base_url(), request.path());
    response
        .insert_header((header::LOCATION, location))
        .insert_header((header::RANGE, range))
        .insert_header((UPLOAD_UUID, open.uuid()))
        .insert_header(HTML)
        .finish()
}

/// Bytes out of order are told where to go on; the upload stays.
fn failed(
    app: &App,
    request: &HttpRequest,
    access: &Access,
    open: &Open,
    error: PushError,
) -> Result<HttpResponse, ApiError> {
    match error {
        PushError::OutOfOrder { byte_count } => {
            let mut response = HttpResponse::build(StatusCode::RANGE_NOT_SATISFIABLE);
            Ok(described(app, request, &mut response, open, format!("0-{byte_count}")))
        }
        error => Err(app.refused(access, error)),
    }
}

impl App {
    /// What the client is told of a push that did not happen.
    pub(super) fn refused(&self, access: &Access, error: PushError) -> ApiError {
        match error {
            PushError::NoRepository => name_unknown(),
            PushError::NoUpload => upload_unknown(),
            PushError::Declined(reason) => self.decline(access.capability, reason),
            PushError::Catalog(error) => error.into(),
            PushError::TooLarge { .. } => size_invalid(error.to_string()),
            PushError::OverQuota => quota_exceeded(),
            PushError::Body(BodyError::TooSlow) => too_slow(error.to_string()),
            PushError::Bytes(UploadError::Invalid(_)) => {
                let (repo, error) = (&access.name, error.to_string());
                tracing::warn!(%repo, error, "upload unusable");
                upload_invalid(json!({}))
            }
            PushError::Bytes(_) | PushError::Body(BodyError::NoMemory(_)) => {
                ApiError::Unavailable(error.to_string())
            }
            PushError::Digest { .. } | PushError::Body(_) | PushError::OutOfOrder { .. } => {
                upload_invalid(json!({}))
            }
        }
    }
}
