//! `GET` and `HEAD` of `/v2/<name>/blobs/<digest>` (contract §1.6.5). Ranges are ours: Quay sends
//! the whole blob whatever is asked for. Behind nginx it is nginx that sends the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError, web};
use chrono::Utc;
use futures_util::stream;

use super::App;
use super::access::Access;
use super::error::{ACCEL_REDIRECT, ApiError, HTML, blob_unknown, range_invalid, unsupported};
use super::paths::page;
use crate::blobs::{BlobPath, LocalBlob, LocalError, Source, presigned};
use crate::bundle::STREAM_HEADER;
use crate::catalog::Blob;
use crate::config::S3;
use crate::oci::{ByteRange, Digest, Span};

/// Quay's two numbers differ, so ours do.
const CACHE_HEAD: &str = "max-age=31436000";
const CACHE_GET: &str = "max-age=31536000";

pub async fn head(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let found = Found::check(&app, &request).await?;
    let bucket = found.bucket(&app).is_some();
    let size = match found.blob.size {
        Some(size) => size,
        // Python asks the storage.
        None if bucket => return Err(app.decline(found.access.capability, "blob_size")),
        None => found.open(&app).await?.length,
    };
    let mut response = HttpResponse::Ok();
    describe(&mut response, &found.digest, CACHE_HEAD);
    if bucket {
        response.insert_header(ACCEPT_RANGES);
    }
    Ok(response.body(SizedStream::new(size, stream::empty::<Result<_, actix_web::Error>>())))
}

pub async fn get(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let found = Found::check(&app, &request).await?;
    if let Some(storage) = found.bucket(&app) {
        return found.elsewhere(&app, storage);
    }
    let mut response = HttpResponse::Ok();
    describe(&mut response, &found.digest, CACHE_GET);
    if let Some(redirect) = found.redirect(&app, &request) {
        // nginx would send whatever is there: whether it is the blob is looked at first.
        let (root, path) = found.file(&app)?;
        let looked = app.looks.look(path, found.blob.size).await;
        looked.map_err(|error| found.unreadable(root, &error))?;
        return Ok(response.insert_header((ACCEL_REDIRECT, redirect)).finish());
    }
    let file = found.open(&app).await?;
    let length = file.length;
    let mut span = Span { offset: 0, length };
    if let Some(range) = range(&request) {
        let Some(part) = range.within(length) else { return Ok(unsatisfiable(length)) };
        span = part;
        let last = span.offset + span.length - 1;
        response.status(StatusCode::PARTIAL_CONTENT).insert_header((
            header::CONTENT_RANGE,
            format!("bytes {}-{last}/{length}", span.offset),
        ));
    }
    app.shared.metrics.blob_bytes.inc_by(span.length);
    Ok(response.body(SizedStream::new(span.length, file.read(span))))
}

/// Blobs go when nothing refers to them: Quay deletes none on request (contract §1.2, route 19).
pub async fn delete(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    Access::check_push(&app, &request).await?;
    Err(unsupported("The operation is unsupported.".to_owned()))
}

/// Object storages take ranges.
const ACCEPT_RANGES: (&str, &str) = ("Accept-Ranges", "bytes");

/// With the length, so that the client can ask for a part that there is (RFC 9110 §15.5.17).
fn unsatisfiable(length: u64) -> HttpResponse {
    let mut response = range_invalid(length).error_response();
    if let Ok(range) = header::HeaderValue::from_str(&format!("bytes */{length}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// We send no validator that `If-Range` could be held against, so it never matches.
fn range(request: &HttpRequest) -> Option<ByteRange> {
    let headers = request.headers();
    if headers.contains_key(header::IF_RANGE) {
        return None;
    }
    headers.get(header::RANGE)?.to_str().ok().and_then(ByteRange::parse)
}

fn describe(response: &mut HttpResponseBuilder, digest: &Digest, cache: &'static str) {
    response
        .insert_header(("Docker-Content-Digest", digest.as_str()))
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CACHE_CONTROL, cache));
}

/// A blob that the caller may read.
struct Found {
    access: Access,
    digest: Digest,
    blob: Arc<Blob>,
}

impl Found {
    async fn check(app: &App, request: &HttpRequest) -> Result<Self, ApiError> {
        let access = Access::check(app, request).await?;
        let digest = Digest::parse(request.match_info().query("digest"));
        let db = app.catalog.session(access.route.name());
        let found = match &digest {
            Some(digest) => db.blob(&access.name, digest).await?,
            // What is no digest of ours is in no repository, but who may not read is told that
            // first.
            None => db.repository(&access.name).await?,
        };
        access.permit(app, found.as_deref().map(|found| &found.repository))?;
        let blob = found.and_then(|found| found.blob.clone());
        let (digest, blob) = digest.zip(blob).ok_or_else(blob_unknown)?;
        if blob.locations.is_empty() {
            return Err(app.decline(access.capability, "no_placement"));
        }
        Ok(Self { access, digest, blob })
    }

    /// Its path below the root of its storage.
    fn path(&self) -> Result<BlobPath, ApiError> {
        let path = self.blob.stored_at.path(&self.digest);
        path.ok_or_else(|| ApiError::Internal(format!("{} has no usable path", self.digest)))
    }

    /// The object storage that it is in, if it is in one.
    fn bucket<'a>(&self, app: &'a App) -> Option<&'a S3> {
        match app.shared.storage.source(&self.blob.locations) {
            Source::S3(storage) => Some(storage),
            _ => None,
        }
    }

    /// Sends the client to the object storage. Whether the object is there is not asked, as in
    /// Quay: that would cost more than the whole answer.
    fn elsewhere(&self, app: &App, storage: &S3) -> Result<HttpResponse, ApiError> {
        let mut url = presigned(storage, &self.path()?, Utc::now());
        if app.shared.config.storage.proxy_storage {
            url = app.proxied(&url)?;
        }
        let mut response = HttpResponse::Found();
        response
            .insert_header(HTML)
            .insert_header((header::LOCATION, url.as_str()))
            .insert_header(("Docker-Content-Digest", self.digest.as_str()))
            .insert_header(ACCEPT_RANGES)
            .insert_header((header::CACHE_CONTROL, CACHE_GET));
        Ok(response.body(page(&url)))
    }

    async fn open(&self, app: &App) -> Result<LocalBlob, ApiError> {
        let (root, path) = self.file(app)?;
        let opened = LocalBlob::open(path, self.blob.size).await;
        opened.map_err(|error| self.unreadable(root, &error))
    }

    /// The root of its storage on this machine, and its file there.
    fn file<'a>(&self, app: &'a App) -> Result<(&'a Path, PathBuf), ApiError> {
        let Self { access, digest, blob } = self;
        match app.shared.storage.source(&blob.locations) {
            Source::Local(root) => Ok((root, self.path()?.below(root))),
            Source::S3(_) | Source::Unsupported(_) => {
                Err(app.decline(access.capability, "storage_driver"))
            }
            Source::Unknown => {
                let locations = blob.locations.join(", ");
                Err(ApiError::Internal(format!(
                    "{digest} is at {locations}, which DISTRIBUTED_STORAGE_CONFIG does not name"
                )))
            }
        }
    }

    fn unreadable(&self, root: &Path, error: &LocalError) -> ApiError {
        match error {
            LocalError::Missing(_) if !root.is_dir() => {
                ApiError::Unavailable(format!("{error}, with all of its storage"))
            }
            LocalError::Missing(_) => {
                let (repo, digest) = (&self.access.name, &self.digest);
                tracing::error!(%error, %repo, %digest, "blob is in the catalog only");
                blob_unknown()
            }
            LocalError::Damaged { .. } => ApiError::Internal(error.to_string()),
            LocalError::Io { .. } => ApiError::Unavailable(error.to_string()),
        }
    }

    /// What makes nginx send the file, unless it has tried and asks us to.
    fn redirect(&self, app: &App, request: &HttpRequest) -> Option<String> {
        let sendfile = app.sendfile.as_ref()?;
        if request.headers().contains_key(STREAM_HEADER) {
            return None;
        }
        let Source::Local(root) = app.shared.storage.source(&self.blob.locations) else {
            return None;
        };
        let (index, _) = sendfile.roots.iter().find(|(_, known)| known == root)?;
        Some(sendfile.redirect(*index, self.path().ok()?.as_str()))
    }
}
