//! Everything that is not a success, as the client sees it (contract §1.8).

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Value, json};

use super::json;
use crate::audit::AuditError;
use crate::auth::{BearerError, InstanceKeyError};
use crate::catalog::CatalogError;

/// An answer that is not a success.
#[derive(Debug)]
pub enum ApiError {
    /// The registry's own shape.
    Oci(OciError),
    /// The shape that Quay answers bad tokens with.
    Abort {
        /// The status.
        status: StatusCode,
        /// What the client is told.
        message: String,
        /// The methods of the route.
        allow: &'static str,
        /// The value of `WWW-Authenticate`, if there is to be one.
        challenge: Option<String>,
    },
    /// A path that Quay has no route for.
    NoRoute,
    /// A method that the route has not.
    NoMethod {
        /// Those that it has.
        allow: &'static str,
    },
    /// A body in a content coding, which is stored by nobody.
    ContentCoding(String),
    /// Too soon after wrong passwords.
    Throttled {
        /// How long to wait.
        seconds: i64,
    },
    /// nginx asks Python instead.
    Python,
    /// Something that is needed is away; the log says what.
    Unavailable(String),
    /// Our own fault; the log says what.
    Internal(String),
}

/// An error in the registry's shape.
#[derive(Debug)]
pub struct OciError {
    /// The status.
    pub status: StatusCode,
    /// Quay's code.
    pub code: &'static str,
    /// What the client is told.
    pub message: String,
    /// More about it, `{}` where there is no more.
    pub detail: Value,
    /// Whether the registry as a whole takes no writes, which Quay says beside the error.
    pub read_only: bool,
    /// The value of `WWW-Authenticate`, if there is to be one.
    pub challenge: Option<String>,
}

/// Seconds after which a client may ask again when something was away.
const RETRY_AFTER: &str = "1";

/// Named as in the OCI distribution spec where that has a name.
pub fn blob_unknown() -> ApiError {
    oci_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
}

/// No such manifest, or none that is alive.
pub fn manifest_unknown() -> ApiError {
    oci_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
}

/// A manifest that is none, or names what is not there.
pub fn manifest_invalid(detail: Value) -> ApiError {
    detailed(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", "manifest invalid", detail)
}

/// A manifest of a type that is not taken.
pub fn manifest_type_unsupported(message: &str) -> ApiError {
    let detail = json!({"message": message});
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    detailed(status, "MANIFEST_INVALID", "manifest invalid", detail)
}

/// What stands where a digest is to stand, and is none.
pub fn digest_invalid(message: String) -> ApiError {
    oci_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
}

/// A tag that may not be moved or deleted.
pub fn tag_immutable(message: &str) -> ApiError {
    let detail = json!({"message": message});
    let told = "tag is immutable and cannot be overwritten";
    detailed(StatusCode::CONFLICT, "TAG_IMMUTABLE", told, detail)
}

/// The tag was there once.
pub fn tag_expired(tag: &str) -> ApiError {
    let message = format!("Tag {tag} was deleted or has expired. To pull, revive via time machine");
    oci_error(StatusCode::NOT_FOUND, "TAG_EXPIRED", message)
}

/// A token permits it, but there is no such repository.
pub fn name_unknown() -> ApiError {
    oci_error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository not found")
}

/// A name that no repository can have.
pub fn name_invalid(message: String) -> ApiError {
    oci_error(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
}

/// A parameter that cannot be read.
pub fn invalid_request(message: String) -> ApiError {
    oci_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
}

/// Something that this registry does not do, or not for this repository.
pub fn unsupported(message: String) -> ApiError {
    oci_error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
}

/// The namespace is switched off.
pub fn denied(message: String) -> ApiError {
    oci_error(StatusCode::METHOD_NOT_ALLOWED, "DENIED", message)
}

/// No bytes of the blob are in the range.
pub fn range_invalid(length: u64) -> ApiError {
    let message = format!("the blob has {length} bytes, none of them in the range");
    oci_error(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", message)
}

/// An upload that cannot become the blob it was to be.
pub fn upload_invalid(detail: Value) -> ApiError {
    let message = "blob upload invalid";
    detailed(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message, detail)
}

/// No such upload in this repository.
pub fn upload_unknown() -> ApiError {
    let message = "blob upload unknown to registry";
    oci_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
}

/// A body larger than the operator allows.
pub fn size_invalid(message: String) -> ApiError {
    oci_error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
}

/// The client's bytes did not come in time.
pub fn too_slow(message: String) -> ApiError {
    oci_error(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", message)
}

/// The namespace has as many bytes as it may.
pub fn quota_exceeded() -> ApiError {
    oci_error(StatusCode::FORBIDDEN, "DENIED", "Quota has been exceeded on namespace")
}

/// `DISABLE_PUSHES`. The code is Quay's, spaces and all.
pub fn pushes_disabled() -> ApiError {
    let message = "Pushes to the registry are currently disabled. \
        Please contact the administrator for more information.";
    oci_error(StatusCode::METHOD_NOT_ALLOWED, "METHOD NOT ALLOWED", message)
}

/// `REGISTRY_STATE: readonly`
pub fn read_only() -> ApiError {
    ApiError::Oci(OciError {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "DENIED",
        message: "System is currently read-only. Pulls will succeed but all write operations are \
            currently suspended."
            .to_owned(),
        detail: json!({}),
        read_only: true,
        challenge: None,
    })
}

/// The client must log in, or log in as somebody else.
pub fn unauthorized(message: Option<String>, challenge: String) -> ApiError {
    let message =
        message.unwrap_or_else(|| "access to the requested resource is not authorized".to_owned());
    ApiError::Oci(OciError {
        status: StatusCode::UNAUTHORIZED,
        code: "UNAUTHORIZED",
        message,
        detail: json!({}),
        read_only: false,
        challenge: Some(challenge),
    })
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match error.is_transient() {
            true => Self::Unavailable(error.to_string()),
            false => Self::Internal(error.to_string()),
        }
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        match error.is_transient() {
            true => Self::Unavailable(error.to_string()),
            false => Self::Internal(error.to_string()),
        }
    }
}

impl From<InstanceKeyError> for ApiError {
    fn from(error: InstanceKeyError) -> Self {
        Self::Unavailable(format!("no token can be signed: {error}"))
    }
}

impl ApiError {
    /// The error of a bearer token that Python need not see.
    pub(super) fn from_bearer(error: BearerError, allow: &'static str, challenge: String) -> Self {
        match error {
            BearerError::Catalog(error) => error.into(),
            other => Self::Abort {
                status: StatusCode::UNAUTHORIZED,
                message: other.to_string(),
                allow,
                challenge: Some(challenge),
            },
        }
    }

    /// The same with more about it.
    pub fn with_detail(mut self, detail: impl Into<Value>) -> Self {
        if let Self::Oci(error) = &mut self {
            error.detail = detail.into();
        }
        self
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Oci(error) => error.status,
            Self::Abort { status, .. } => *status,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentCoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Python => StatusCode::OK,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(error) => write!(f, "{}: {}", error.code, error.message),
            Self::Abort { message, .. } => f.write_str(message),
            Self::NoRoute => f.write_str("no such route"),
            Self::NoMethod { .. } => f.write_str("no such method"),
            Self::ContentCoding(coding) => write!(f, "Content-Encoding: {coding}"),
            Self::Throttled { seconds } => write!(f, "throttled for {seconds} s"),
            Self::Python => f.write_str("handed back to Python"),
            Self::Unavailable(reason) => write!(f, "unavailable: {reason}"),
            Self::Internal(reason) => write!(f, "internal error: {reason}"),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        match self {
            Self::Oci(error) => error.respond(&mut response),
            Self::Abort { message, allow, challenge, .. } => {
                add_challenge(&mut response, challenge.as_deref());
                abort(&mut response, message, allow)
            }
            Self::NoRoute => html(&mut response, NO_ROUTE),
            Self::NoMethod { allow } => {
                response.insert_header((header::ALLOW, *allow));
                html(&mut response, NO_METHOD)
            }
            Self::ContentCoding(coding) => {
                // RFC 9110, 15.5.16
                response.insert_header((header::ACCEPT_ENCODING, "identity"));
                let message = format!(
                    "Content-Encoding {coding:?} is not taken: bytes are stored as they are sent"
                );
                oci_body(&mut response, "UNSUPPORTED", &message)
            }
            Self::Throttled { seconds } => throttled(&mut response, *seconds),
            Self::Python => response.insert_header((ACCEL_REDIRECT, "@quay_python")).finish(),
            Self::Unavailable(_) => {
                response.insert_header((header::RETRY_AFTER, RETRY_AFTER));
                let message = "the registry cannot answer right now, try again";
                oci_body(&mut response, "UNAVAILABLE", message)
            }
            Self::Internal(_) => oci_body(&mut response, "UNKNOWN", "internal server error"),
        }
    }
}

fn oci_error(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
    detailed(status, code, message, json!({}))
}

fn detailed(
    status: StatusCode,
    code: &'static str,
    message: impl Into<String>,
    detail: Value,
) -> ApiError {
    let message = message.into();
    ApiError::Oci(OciError { status, code, message, detail, read_only: false, challenge: None })
}

impl OciError {
    fn respond(&self, response: &mut HttpResponseBuilder) -> HttpResponse {
        add_challenge(response, self.challenge.as_deref());
        let mut error = json!({"code": self.code, "detail": self.detail, "message": self.message});
        if self.read_only {
            error["is_readonly"] = true.into();
        }
        json::respond(response, &json!({"errors": [error]}))
    }
}

/// Makes nginx serve another location instead (nginx, ngx_http_proxy_module).
pub(super) const ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// Sent with every challenge, as clients of Docker's first registries expect.
pub(super) const API_VERSION: (HeaderName, &str) =
    (HeaderName::from_static("docker-distribution-api-version"), "registry/2.0");

/// The media type of everything that Quay answers without naming one.
pub(super) const HTML: (HeaderName, &str) = (header::CONTENT_TYPE, "text/html; charset=utf-8");

/// The pages of Quay's framework, which clients see for paths and methods without a route.
const NO_ROUTE: &str = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n\
    <h1>Not Found</h1>\n<p>The requested URL was not found on the server. \
    If you entered the URL manually please check your spelling and try again.</p>\n";
const NO_METHOD: &str = "<!doctype html>\n<html lang=en>\n\
    <title>405 Method Not Allowed</title>\n<h1>Method Not Allowed</h1>\n\
    <p>The method is not allowed for the requested URL.</p>\n";

fn html(response: &mut HttpResponseBuilder, body: &'static str) -> HttpResponse {
    response.insert_header(HTML).body(body)
}

fn add_challenge(response: &mut HttpResponseBuilder, challenge: Option<&str>) {
    if let Some(challenge) = challenge {
        response.insert_header((header::WWW_AUTHENTICATE, challenge)).insert_header(API_VERSION);
    }
}

fn oci_body(response: &mut HttpResponseBuilder, code: &str, message: &str) -> HttpResponse {
    let error = json!({"errors": [{"code": code, "detail": {}, "message": message}]});
    json::respond(response, &error)
}

fn abort(response: &mut HttpResponseBuilder, message: &str, allow: &str) -> HttpResponse {
    let message = json::to_ascii(&Value::from(message));
    response
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, allow))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "21600"))
        .append_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization"))
        .append_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"))
        .insert_header((header::VARY, "Origin"))
        .insert_header(HTML)
        .body(format!("{{\"error\": {message}}}"))
}

fn throttled(response: &mut HttpResponseBuilder, seconds: i64) -> HttpResponse {
    response
        .insert_header((header::RETRY_AFTER, seconds.to_string()))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "DELETE, GET, HEAD, OPTIONS, POST, PUT",
        ))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "21600"))
        .insert_header((
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "AUTHORIZATION, CONTENT-TYPE, X-REQUESTED-WITH",
        ))
        .insert_header(HTML)
        .body("Too many login attempts. \nPlease reset your Quay password and try again.")
}
