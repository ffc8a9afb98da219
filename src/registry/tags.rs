//! `GET /v2/<name>/tags/list` (contract §1.6.2).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::Utc;
use serde_json::json;

use super::access::Access;
use super::error::{ApiError, name_unknown};
use super::{App, json, query};

pub async fn list(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let access = Access::check(&app, &request).await?;
    let query = request.query_string();
    let limit = query::page_size(query, app.shared.config.server.v2_pagination_size);
    let last = query::value(query, "last");
    // No tag has a NUL in its name, and PostgreSQL takes none in a text.
    let last = last.as_deref().map(str::trim).filter(|last| !last.contains('\0'));

    let db = app.catalog.session(access.route.name());
    let page = db.tags(&access.name, last, limit, Utc::now().timestamp_millis()).await?;
    access.permit(&app, page.as_ref().map(|page| &page.repository))?;
    let page = page.ok_or_else(name_unknown)?;

    let mut response = HttpResponse::Ok();
    if let Some(last) = page.names.last().filter(|_| page.has_more) {
        let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
        let next = format!("/v2/{}/tags/list?n={limit}&last={last}", access.name);
        response.insert_header((header::LINK, format!("<{next}>; rel=\"next\"")));
    }
    let body = json!({"name": access.name.to_string(), "tags": page.names});
    Ok(json::respond(&mut response, &body))
}
