//! The admin listener: `/metrics`, `/healthz`, `/readyz`, and a page for people. Never on a public address unless told.

use actix_web::http::StatusCode;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Responder};
use serde_json::json;

use super::health::Health;
use super::status_page;

/// The content type of Prometheus' text format, as OpenMetrics names it.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Registers the admin routes.
pub fn configure(service: &mut ServiceConfig) {
    service
        .route("/metrics", web::get().to(metrics))
        .route("/healthz", web::get().to(alive))
        .route("/readyz", web::get().to(ready))
        .configure(status_page::configure);
}

async fn metrics(health: web::Data<Health>) -> impl Responder {
    HttpResponse::Ok().content_type(OPENMETRICS).body(health.shared.metrics.text())
}

async fn alive() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

async fn ready(health: web::Data<Health>) -> impl Responder {
    let problems = health.problems().await;
    let (status, word) = match problems.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    HttpResponse::build(status).json(json!({"status": word, "problems": problems}))
}
