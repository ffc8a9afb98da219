//! `GET /v2/_catalog` (contract §1.6.1).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::Utc;
use serde_json::json;

use super::error::ApiError;
use super::{App, Route, json, query};
use crate::catalog::{Beside, Caller, Entity, Listed};

pub async fn list(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let route = Route::Catalog;
    app.check_capability(route.capability(request.method()))?;
    app.check_recovery_mode(route)?;
    let bearer = app.bearer(&request, app.challenge()).await?;
    let user = bearer.as_ref().map(|bearer| bearer.subject.as_str());
    app.check_cohort(&request, None, user)?;
    // A token for nobody is no token: Quay answers 500 (exchange 201).
    let entity = bearer.map_or(Entity::Anonymous, |bearer| bearer.entity.clone());
    app.check_anonymous(route, &entity)?;

    let config = &app.shared.config;
    let text = request.query_string();
    let limit = query::catalog_size(text, config.server.v2_pagination_size);
    let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    let cursor = query::value(text, "next_page").or_else(|| query::value(text, "last"));
    let start = cursor.and_then(|token| app.shared.page_tokens.open(&token, now)).unwrap_or(0);

    let db = app.catalog.session(route.name());
    let caller = db.caller(&entity).await?;
    let page = match beside(&app, caller.as_ref()) {
        Some(beside) => db.visible_repositories(caller.as_ref(), beside, start, limit + 1).await?,
        None => Vec::new(),
    };
    let mut response = HttpResponse::Ok();
    if let Some(next) = page.get(limit as usize).and_then(|next| link(&app, next, limit, now)) {
        response.insert_header((header::LINK, next));
    }
    let names: Vec<&str> =
        page.iter().take(limit as usize).map(|listed| listed.name.as_str()).collect();
    Ok(json::respond(&mut response, &json!({"repositories": names})))
}

/// What is seen beside one's own; `None` for those who see nothing at all.
fn beside(app: &App, caller: Option<&Caller>) -> Option<Beside> {
    let config = &app.shared.config;
    let public = config.features.public_catalog;
    let others = if public { Beside::Public } else { Beside::Nothing };
    match caller {
        Some(caller) if !caller.enabled => None,
        Some(caller) => {
            let all = config.auth.global_readonly_super_users.contains(&caller.username);
            Some(if all { Beside::Everything } else { others })
        }
        None => public.then_some(Beside::Public),
    }
}

fn link(app: &App, next: &Listed, limit: u32, now: u64) -> Option<String> {
    let token = app.shared.page_tokens.seal(next.id, now)?.replace('=', "%3D");
    Some(format!("</v2/_catalog?n={limit}&next_page={token}>; rel=\"next\""))
}
