//! The table of routes (contract §1.2), in the order in which they are tried.

use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, Resource, guard};

use super::error::{ApiError, HTML};
use super::{
    App, base, blobs, catalog, manifests, manifests_push, referrers, tags, token, uploads,
};

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

    /// The capability that owns a request, as in the owner switches.
    pub fn capability(self, method: &Method) -> &'static str {
        match self {
            Self::Base => "V2_BASE",
            Self::Token => "V2_AUTH",
            Self::V1 => "V1",
            Self::BlobDelete | Self::Uploads | Self::Upload => "V2_PUSH",
            _ if changes(method) => "V2_PUSH",
            _ => "V2_PULL",
        }
    }

    /// The number of a request in the catalogue of switches, by which a canary decides. `None` for
    /// the middle of an upload, which ends where it is, and for what we never answer.
    pub fn id(self, method: &Method) -> Option<u16> {
        Some(match (self, method.as_str()) {
            (Self::Base, _) => 319,
            (Self::Blob, "HEAD") => 321,
            (Self::Blob | Self::BlobDelete, "DELETE") => 329,
            (Self::Blob, _) => 320,
            (Self::ManifestByDigest, "DELETE") => 322,
            (Self::ManifestByDigest, "PUT") => 324,
            (Self::ManifestByDigest, _) => 323,
            (Self::Referrers, _) => 325,
            (Self::ManifestByTag, "DELETE") => 326,
            (Self::ManifestByTag, "PUT") => 328,
            (Self::ManifestByTag, _) => 327,
            (Self::Uploads, _) => 330,
            (Self::Tags, _) => 335,
            (Self::Catalog, _) => 336,
            (Self::Token, _) => 337,
            (Self::BlobDelete | Self::Upload | Self::V1 | Self::Other, _) => return None,
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
                .route(write().to(blobs::delete)),
        )
        .service(
            reads(Route::ManifestByDigest, &name(&format!("manifests/{{digest:{DIGEST}}}")))
                .route(read().to(manifests::by_digest))
                .route(web::put().to(manifests_push::put_by_digest))
                .route(web::delete().to(manifests_push::delete_by_digest)),
        )
        .service(
            reads(Route::ManifestByTag, &name("manifests/{tag:[^/]+}"))
                .route(read().to(manifests::by_tag))
                .route(web::put().to(manifests_push::put_by_tag))
                .route(web::delete().to(manifests_push::delete_by_tag)),
        )
        .service(reads(Route::Base, "/v2/").route(read().to(base::ping)))
        .service(reads(Route::Token, "/v2/auth").route(read().to(token::issue)))
        .service(reads(Route::Catalog, "/v2/_catalog").route(read().to(catalog::list)))
        .service(reads(Route::Tags, &name("tags/list")).route(read().to(tags::list)))
        .service(
            reads(Route::Referrers, &name(&format!("referrers/{{digest:{DIGEST}}}")))
                .route(read().to(referrers::list)),
        )
        .service(reads(Route::Uploads, &name("blobs/uploads/")).route(write().to(uploads::start)))
        .service(
            reads(Route::Upload, &name("blobs/uploads/{upload:[^/]+}"))
                .route(read().to(uploads::status))
                .route(web::patch().to(uploads::append))
                .route(web::put().to(uploads::finish))
                .route(web::delete().to(uploads::cancel)),
        )
        .service(
            reads(Route::BlobDelete, &name("blobs/{any:[^/]+}")).route(write().to(blobs::delete)),
        )
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
        let allow = context.app_data::<Route>().map_or("", |route| route.allow());
        changes(method) && allow.split(", ").any(|allowed| allowed == method.as_str())
    }))
}

fn changes(method: &Method) -> bool {
    [Method::PUT, Method::POST, Method::PATCH, Method::DELETE].contains(method)
}

async fn options(request: HttpRequest) -> HttpResponse {
    let allow = Route::of(&request).allow();
    HttpResponse::Ok().insert_header(("Allow", allow)).insert_header(HTML).finish()
}

async fn no_method(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoMethod { allow: Route::of(&request).allow() })
}

async fn no_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoRoute)
}

async fn not_built(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, ApiError> {
    let capability = Route::of(&request).capability(request.method());
    let declined = app.decline(capability, "not_built");
    app.hand_back(declined, &request, body).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::catalogue;

    #[test]
    fn numbers_are_those_of_the_catalogue() {
        for (route, method, path) in [
            (Route::Base, "GET", "/v2/"),
            (Route::Token, "GET", "/v2/auth"),
            (Route::Catalog, "GET", "/v2/_catalog"),
            (Route::Tags, "GET", "/tags/list"),
            (Route::Referrers, "GET", "/referrers/"),
            (Route::ManifestByTag, "GET", "manifests/<tag>"),
            (Route::ManifestByTag, "PUT", "manifests/<tag>"),
            (Route::ManifestByTag, "DELETE", "manifests/<tag>"),
            (Route::ManifestByDigest, "GET", "manifests/<digest>"),
            (Route::ManifestByDigest, "PUT", "manifests/<digest>"),
            (Route::ManifestByDigest, "DELETE", "manifests/<digest>"),
            (Route::Blob, "GET", "/blobs/<digest>"),
            (Route::Blob, "HEAD", "/blobs/<digest>"),
            (Route::Blob, "DELETE", "/blobs/<digest>"),
            (Route::Uploads, "POST", "/blobs/uploads/"),
        ] {
            let method: Method = method.parse().unwrap();
            let known = catalogue().route(route.id(&method).unwrap()).unwrap();
            assert!(known.path.contains(path), "{route:?}: {}", known.path);
            assert!(known.methods.iter().any(|m| m == method.as_str()), "{route:?}: {known:?}");
            assert_eq!(known.capability, route.capability(&method));
        }
        assert_eq!(Route::Upload.id(&Method::PATCH), None);
    }
}
