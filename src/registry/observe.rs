//! What is noted of every request: a metric, a log line, an id, and that it is still in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use uuid::Uuid;

use super::error::ApiError;
use super::unread::Unread;
use super::{App, Route};
use crate::telemetry::metrics;

/// Returned to the client and written to the log, so that a complaint finds its line.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware: the outermost one.
pub async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let app = request.app_data::<web::Data<App>>().cloned();
    let Some(app) = app else { return Ok(next.call(request).await?.map_into_boxed_body()) };
    let guard = app.shared.in_flight.enter();
    let request_id = request_id(&request);
    let unread = Unread::of(&mut request);

    let mut response = next.call(request).await?.map_into_boxed_body();
    note(&app, &response, &request_id, started.elapsed());
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if app.shared.in_flight.is_draining() {
        // Not a header of ours: the server writes its own in place of that.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| BoxBody::new(Guarded { body, unread, _guard: guard })))
}

fn note(app: &App, response: &ServiceResponse<BoxBody>, request_id: &str, duration: Duration) {
    let request = response.request();
    let route = Route::of(request).name();
    let status = response.status().as_u16();
    let method = match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    };
    let metrics = &app.shared.metrics;
    metrics.requests.get_or_create(&metrics::Request { route, method, status }).inc();
    metrics.latency.get_or_create(&metrics::Route { route }).observe(duration.as_secs_f64());

    let duration_ms = duration.as_secs_f64() * 1000.0;
    let path = request.path();
    // Errors are logged as texts, which are escaped: they may hold the client's words.
    match response.response().error().and_then(actix_web::Error::as_error::<ApiError>) {
        Some(error @ (ApiError::Unavailable(_) | ApiError::Internal(_))) => {
            tracing::error!(
                request_id,
                route,
                method,
                path,
                status,
                duration_ms,
                error = error.to_string(),
                "request failed"
            );
        }
        Some(error) => {
            tracing::debug!(
                request_id,
                route,
                method,
                path,
                status,
                duration_ms,
                error = error.to_string(),
                "request refused"
            );
        }
        None => {
            tracing::debug!(
                request_id,
                route,
                method,
                path,
                status,
                duration_ms,
                "request answered"
            );
        }
    }
}

/// nginx's id where it sends one, else one of our own.
fn request_id(request: &ServiceRequest) -> String {
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let plain =
        |id: &&str| id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match given.filter(plain) {
        Some(id) => id.to_owned(),
        None => Uuid::new_v4().simple().to_string(),
    }
}

/// Requests that are being answered, bodies included.
#[derive(Clone, Debug)]
pub struct InFlight {
    count: Gauge,
    draining: Arc<AtomicBool>,
}

impl InFlight {
    /// Counts in `count`.
    pub fn new(count: Gauge) -> Self {
        Self { count, draining: Arc::default() }
    }

    /// How many there are.
    pub fn count(&self) -> i64 {
        self.count.get()
    }

    /// From now on every answer closes its connection.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Guard {
        self.count.inc();
        Guard(self.count.clone())
    }
}

struct Guard(Gauge);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body whose request is in flight until the last byte is sent or the client is gone.
struct Guarded {
    body: BoxBody,
    unread: Option<Unread>,
    _guard: Guard,
}

impl MessageBody for Guarded {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.unread.is_some() {
            return Err(self);
        }
        let Self { body, unread, _guard } = self;
        body.try_into_bytes().map_err(|body| Self { body, unread, _guard })
    }
}
