//! The table of routes (contract §1.2), in the order in which they are tried.

use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, Resource, guard};

use super::error::{ApiError, HTML};
use super::python::has_body;
use super::{App, base, blobs, catalog, manifests, referrers, tags, token};
use crate::oci::is_tag;

/// A route: what Quay's clients see of it and what metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Base,
    /// `/v2/auth`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags,
    /// `/v2/<name>/referrers/<digest>`
    Referrers,
    /// `/v2/<name>/manifests/<tag>`
    ManifestByTag,
    /// `/v2/<name>/manifests/<digest>`
    ManifestByDigest,
    /// `/v2/<name>/blobs/<digest>`
    Blob,
    /// `/v2/<name>/blobs/<anything else>`
    BlobDelete,
    /// `/v2/<name>/blobs/uploads/`
    Uploads,
    /// `/v2/<name>/blobs/uploads/<uuid>`
    Upload,
    /// Everything of the first registry protocol.
    V1,
    /// Every other path.
    Other,
}

impl Route {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Token => "token",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::ManifestByTag => "manifest_by_tag",
            Self::ManifestByDigest => "manifest_by_digest",
            Self::Blob => "blob",
            Self::BlobDelete => "blob_delete",
            Self::Uploads => "uploads",
            Self::Upload => "upload",
            Self::V1 => "v1",
            Self::Other => "other",
        }
    }

    /// The capability that owns its reads, as in the owner switches.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Base => "V2_BASE",
            Self::Token => "V2_AUTH",
            Self::BlobDelete | Self::Uploads | Self::Upload => "V2_PUSH",
            Self::V1 => "V1",
            _ => "V2_PULL",
        }
    }

    /// The number of its reads in the catalogue of switches; `None` for what we never answer.
    pub fn id(self, head: bool) -> Option<u16> {
        Some(match self {
            Self::Base => 319,
            Self::Blob if head => 321,
            Self::Blob => 320,
            Self::ManifestByDigest => 323,
            Self::Referrers => 325,
            Self::ManifestByTag => 327,
            Self::Tags => 335,
            Self::Catalog => 336,
            Self::Token => 337,
            Self::BlobDelete | Self::Uploads | Self::Upload | Self::V1 | Self::Other => {
                return None;
            }
        })
    }

    /// The methods that Quay has for it.
    pub fn allow(self) -> &'static str {
        match self {
            Self::ManifestByTag | Self::ManifestByDigest => "DELETE, GET, HEAD, OPTIONS, PUT",
            Self::Blob => "DELETE, GET, HEAD, OPTIONS",
            Self::BlobDelete => "DELETE, OPTIONS",
            Self::Uploads => "OPTIONS, POST",
            Self::Upload => "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// The route of a request.
    pub fn of(request: &HttpRequest) -> Self {
        request.app_data::<Self>().copied().unwrap_or(Self::Other)
    }
}

const DIGEST: &str = "[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+";

/// Registers every route: what is asked for most is tried first, and digests before tags, whose
/// pattern fits them too.
pub fn configure(service: &mut ServiceConfig) {
    let name = |rest: &str| format!("/v2/{{name:.+}}/{rest}");
    service
        .service(
            reads(Route::Blob, &name(&format!("blobs/{{digest:{DIGEST}}}")))
                .route(web::get().to(blobs::get))
                .route(web::head().to(blobs::head))
                .route(write().to(not_built)),
        )
        .service(
            reads(Route::ManifestByDigest, &name(&format!("manifests/{{digest:{DIGEST}}}")))
                .route(read().to(manifests::by_digest))
                .route(write().to(not_built)),
        )
        .service(
            reads(Route::ManifestByTag, &name("manifests/{tag:[^/]+}"))
                .route(read().to(manifests::by_tag))
                .route(write().to(write_by_tag)),
        )
        .service(reads(Route::Base, "/v2/").route(read().to(base::ping)))
        .service(reads(Route::Token, "/v2/auth").route(read().to(token::issue)))
        .service(reads(Route::Catalog, "/v2/_catalog").route(read().to(catalog::list)))
        .service(reads(Route::Tags, &name("tags/list")).route(read().to(tags::list)))
        .service(
            reads(Route::Referrers, &name(&format!("referrers/{{digest:{DIGEST}}}")))
                .route(read().to(referrers::list)),
        )
        .service(reads(Route::Uploads, &name("blobs/uploads/")).route(write().to(not_built)))
        .service(
            reads(Route::Upload, &name("blobs/uploads/{upload:[^/]+}"))
                .route(read().to(not_built))
                .route(write().to(not_built)),
        )
        .service(reads(Route::BlobDelete, &name("blobs/{any:[^/]+}")).route(write().to(not_built)))
        .service(reads(Route::V1, "/v1/{rest:.*}").default_service(web::to(not_built)))
        .default_service(web::to(no_route));
}

/// A resource that knows its route, answers OPTIONS, and refuses what no route of it takes.
fn reads(route: Route, path: &str) -> Resource {
    web::resource(path)
        .app_data(route)
        .route(web::method(Method::OPTIONS).to(options))
        .default_service(web::to(no_method))
}

/// GET, and HEAD as Quay answers it: the same, without the body.
fn read() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// Methods that change something, where the route has them.
fn write() -> actix_web::Route {
    web::route().guard(guard::fn_guard(|context| {
        let method = &context.head().method;
        let changes = [Method::PUT, Method::POST, Method::PATCH, Method::DELETE].contains(method);
        let allow = context.app_data::<Route>().map_or("", |route| route.allow());
        changes && allow.split(", ").any(|allowed| allowed == method.as_str())
    }))
}

async fn options(request: HttpRequest) -> HttpResponse {
    let allow = Route::of(&request).allow();
    HttpResponse::Ok().insert_header(("Allow", allow)).insert_header(HTML).finish()
}

async fn no_method(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoMethod { allow: Route::of(&request).allow() })
}

/// A path that is no tag is no route either.
async fn write_by_tag(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    match is_tag(request.match_info().query("tag")) {
        true => not_built(request, body, app).await,
        false => no_route().await,
    }
}

async fn no_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoRoute)
}

/// nginx can ask Python in our place, but not with the body of an upload, which it has not kept.
async fn not_built(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let route = Route::of(&request);
    let read = [Method::GET, Method::HEAD].contains(request.method());
    let capability = if read { route.capability() } else { "V2_PUSH" };
    let declined = app.decline(capability, "not_built");
    let streamed = [Route::Uploads, Route::Upload].contains(&route) || !app.behind_nginx;
    match declined {
        ApiError::Python if app.python.is_some() && streamed && has_body(&request) => {
            app.ask_python(&request, body.into_inner()).await
        }
        declined => Err(declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::catalogue;

    #[test]
    fn numbers_are_those_of_the_catalogue() {
        for (route, head, path) in [
            (Route::Base, false, "/v2/"),
            (Route::Token, false, "/v2/auth"),
            (Route::Catalog, false, "/v2/_catalog"),
            (Route::Tags, false, "/tags/list"),
            (Route::Referrers, false, "/referrers/"),
            (Route::ManifestByTag, false, "manifests/<tag>"),
            (Route::ManifestByDigest, false, "manifests/<digest>"),
            (Route::Blob, false, "/blobs/<digest>"),
            (Route::Blob, true, "/blobs/<digest>"),
        ] {
            let known = catalogue().route(route.id(head).unwrap()).unwrap();
            assert!(known.path.contains(path), "{route:?}: {}", known.path);
            let method = if head { "HEAD" } else { "GET" };
            assert!(known.methods.iter().any(|m| m == method), "{route:?}: {:?}", known.methods);
            assert_eq!(known.capability, route.capability());
        }
    }
}
