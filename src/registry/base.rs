//! `GET /v2/`: is this a registry, and is the token any good? (contract §1.4)

use std::sync::LazyLock;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use regex::Regex;

use super::access::latin1;
use super::error::{API_VERSION, ApiError, HTML};
use super::{App, Route};

pub async fn ping(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    let route = Route::of(&request);
    app.check_capability(V2_BASE)?;
    let config = &app.shared.config;
    let not_found = ApiError::Abort {
        status: StatusCode::NOT_FOUND,
        message: "Not Found".to_owned(),
        allow: route.allow(),
        challenge: None,
    };
    if !config.features.advertise_v2 {
        return Err(not_found);
    }
    let bearer = app.bearer(&request, app.challenge()).await?;
    app.check_cohort(&request, None, None)?;
    match docker_version(&latin1(&request, &header::USER_AGENT)) {
        Some(_) if config.server.blacklist_v2_spec != DEFAULT_BLACKLIST => {
            return Err(app.decline(V2_BASE, "blacklist_v2_spec"));
        }
        Some(version) if version < FIRST_WITH_V2 => return Err(not_found),
        _ => {}
    }
    let status = if bearer.is_some() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    let sparse = if config.features.sparse_index { "true" } else { "false" };
    Ok(HttpResponse::build(status)
        .insert_header(HTML)
        .insert_header((header::WWW_AUTHENTICATE, app.challenge()))
        .insert_header(API_VERSION)
        .insert_header(("X-Sparse-Manifest-Support", sparse))
        .body("true"))
}

const V2_BASE: &str = "V2_BASE";

/// Quay's default `BLACKLIST_V2_SPEC`, the only one that is read here.
const DEFAULT_BLACKLIST: &str = "<1.6.0";
const FIRST_WITH_V2: (u64, u64, u64) = (1, 6, 0);

/// The version of Docker in a `User-Agent`, if that is what it is.
#[expect(clippy::expect_used, reason = "the pattern is a constant")]
fn docker_version(user_agent: &str) -> Option<(u64, u64, u64)> {
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"docker/([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?")
            .expect("a valid pattern")
    });
    if user_agent == "Go 1.1 package http" {
        return Some((1, 5, 0));
    }
    let parts = VERSION.captures(user_agent)?;
    let number = |part: usize| parts.get(part).map_or(Some(0), |text| text.as_str().parse().ok());
    Some((number(1)?, number(2)?, number(3)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_user_agent_panics(user_agent in ".{0,80}|docker/[0-9.]{0,40}") {
            let _ = docker_version(&user_agent);
        }
    }

    #[test]
    fn old_dockers_are_recognised() {
        assert_eq!(docker_version("docker/1.5.0 go/go1.4"), Some((1, 5, 0)));
        assert_eq!(docker_version("docker/1.6"), Some((1, 6, 0)));
        assert_eq!(docker_version("docker/01.06.00"), Some((1, 6, 0)));
        assert_eq!(docker_version("Go 1.1 package http"), Some((1, 5, 0)));
        assert_eq!(docker_version("containers/5.29 (github.com/containers/image)"), None);
        assert_eq!(docker_version("docker/99999999999999999999.1.1"), None);
    }
}
