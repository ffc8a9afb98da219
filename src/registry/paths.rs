//! Paths are read as Quay's framework reads them: an encoded slash is a slash, and a path with
//! doubled slashes is redirected to the one without (contract §1.0).

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, Uri, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, web};

use super::App;
use super::error::HTML;

/// Middleware: rewrites or redirects before a route is chosen.
pub async fn normalise<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if let Some(path) = normalised(request.uri().path()) {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if path.redirect {
            let location = format!("{}{}{query}", origin(&request), path.text);
            let response = HttpResponse::build(StatusCode::PERMANENT_REDIRECT)
                .insert_header((header::LOCATION, location))
                .insert_header(HTML)
                .finish();
            return Ok(request.into_response(response));
        }
        if let Ok(uri) = Uri::try_from(format!("{}{query}", path.text)) {
            request.match_info_mut().get_mut().update(&uri);
            request.head_mut().uri = uri;
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Scheme and host as the client sees them; a proxy's word counts only where it is nginx.
fn origin(request: &ServiceRequest) -> String {
    let behind_nginx = request.app_data::<web::Data<App>>().is_some_and(|app| app.behind_nginx);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let scheme = header("x-forwarded-proto").filter(|_| behind_nginx).unwrap_or("http");
    format!("{scheme}://{}", header("host").unwrap_or_default())
}

struct Normalised {
    text: String,
    redirect: bool,
}

/// The path to use instead, or `None` for one that is fine as it is.
fn normalised(path: &str) -> Option<Normalised> {
    let encoded = path.contains("%2F") || path.contains("%2f");
    let bare = path == "/v2";
    if !encoded && !path.contains("//") && !bare {
        return None;
    }
    let mut text = path.replace("%2F", "/").replace("%2f", "/");
    let redirect = text.contains("//") || bare;
    if bare {
        text.push('/');
    }
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    Some(Normalised { text, redirect })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slashes() {
        let of = |path| normalised(path).map(|path| (path.text, path.redirect));
        assert_eq!(of("/v2/"), None);
        assert_eq!(of("/v2/a/tags/list"), None);
        assert_eq!(of("/v2"), Some(("/v2/".to_owned(), true)));
        assert_eq!(of("/v2/a%2Fb/tags/list"), Some(("/v2/a/b/tags/list".to_owned(), false)));
        assert_eq!(of("//v2///a"), Some(("/v2/a".to_owned(), true)));
        assert_eq!(of("/v2/a%2f%2Fb"), Some(("/v2/a/b".to_owned(), true)));
    }

    proptest! {
        #[test]
        fn once_is_enough(path in "(/|a|%2F|%2f|%252F){0,20}") {
            if let Some(once) = normalised(&path) {
                prop_assert!(!once.text.contains("//"));
                prop_assert!(normalised(&once.text).is_none_or(|again| again.text != once.text));
            }
        }
    }
}
