//! Paths are read as Quay's framework reads them: an encoded slash is a slash, and a path with
//! doubled slashes, or without the one that its route ends in, is redirected (contract §1.0).

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, Uri, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, web};

use super::App;
use super::error::HTML;

/// The target as the client sent it, where it was rewritten.
pub struct RawTarget(pub Uri);

/// Middleware: rewrites or redirects before a route is chosen.
pub async fn normalise<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if let Some(path) = normalised(request.method(), request.uri().path()) {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if path.redirect {
            let location = format!("{}{}{query}", origin(&request), path.text);
            let response = HttpResponse::build(StatusCode::PERMANENT_REDIRECT)
                .insert_header((header::LOCATION, location.as_str()))
                .insert_header(HTML)
                .body(page(&location));
            return Ok(request.into_response(response));
        }
        if let Ok(uri) = Uri::try_from(format!("{}{query}", path.text)) {
            request.match_info_mut().get_mut().update(&uri);
            let raw = std::mem::replace(&mut request.head_mut().uri, uri);
            request.extensions_mut().insert(RawTarget(raw));
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Scheme and host as the client sees them; a proxy's word counts only where it is nginx. Nothing
/// for a client that names no host: then the path alone must do.
fn origin(request: &ServiceRequest) -> String {
    let behind_nginx = request.app_data::<web::Data<App>>().is_some_and(|app| app.behind_nginx);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let scheme = header("x-forwarded-proto").filter(|_| behind_nginx).unwrap_or("http");
    header("host").map(|host| format!("{scheme}://{host}")).unwrap_or_default()
}

/// What Quay's framework says about a redirect.
pub(super) fn page(location: &str) -> String {
    let mut shown = String::with_capacity(location.len());
    for c in location.chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&#34;"),
            '\'' => shown.push_str("&#39;"),
            c => shown.push(c),
        }
    }
    format!(
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n\
        <h1>Redirecting...</h1>\n<p>You should be redirected automatically to the target URL: \
        <a href=\"{shown}\">{shown}</a>. If not, click the link.\n"
    )
}

struct Normalised {
    text: String,
    redirect: bool,
}

/// The path to use instead, or `None` for one that is fine as it is.
fn normalised(method: &Method, path: &str) -> Option<Normalised> {
    let encoded = path.contains("%2F") || path.contains("%2f");
    // Nearly every path: nothing to do, and nothing to allocate.
    if !encoded && !path.contains("//") && !lacks_slash(method, path) {
        return None;
    }
    let mut text = path.replace("%2F", "/").replace("%2f", "/");
    let bare = lacks_slash(method, &text);
    let redirect = text.contains("//") || bare;
    if bare {
        text.push('/');
    }
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    Some(Normalised { text, redirect })
}

/// Whether there is a route for the path with a slash after it, and none without.
fn lacks_slash(method: &Method, path: &str) -> bool {
    let in_repository = path.strip_prefix("/v2/");
    path == "/v2"
        || (method == Method::POST
            && in_repository.is_some_and(|rest| rest.ends_with("/blobs/uploads")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slashes() {
        let of = |path| normalised(&Method::GET, path).map(|path| (path.text, path.redirect));
        assert_eq!(of("/v2/"), None);
        assert_eq!(of("/v2/a/tags/list"), None);
        assert_eq!(of("/v2"), Some(("/v2/".to_owned(), true)));
        assert_eq!(of("/v2/a%2Fb/tags/list"), Some(("/v2/a/b/tags/list".to_owned(), false)));
        assert_eq!(of("//v2///a"), Some(("/v2/a".to_owned(), true)));
        assert_eq!(of("/v2/a%2f%2Fb"), Some(("/v2/a/b".to_owned(), true)));
        assert_eq!(of("/v2/a/blobs/uploads"), None);
    }

    #[test]
    fn uploads_start_at_a_path_with_a_slash() {
        let of = |path| normalised(&Method::POST, path).map(|path| (path.text, path.redirect));
        let expected = Some(("/v2/a/b/blobs/uploads/".to_owned(), true));
        assert_eq!(of("/v2/a/b/blobs/uploads"), expected);
        assert_eq!(of("/v2/a%2Fb/blobs/uploads"), expected);
        assert_eq!(of("/v2/a/b/blobs/uploads/"), None);
        assert_eq!(of("/v2/blobs/uploads"), None);
    }

    #[test]
    fn a_page_holds_no_markup_of_the_clients() {
        assert!(
            page("http://h/v2/?a&\"><b>").contains("\"http://h/v2/?a&amp;&#34;&gt;&lt;b&gt;\"")
        );
    }

    proptest! {
        #[test]
        fn once_is_enough(path in "(/|a|%2F|%2f|%252F){0,20}") {
            if let Some(once) = normalised(&Method::GET, &path) {
                prop_assert!(!once.text.contains("//"));
                let again = normalised(&Method::GET, &once.text);
                prop_assert!(again.is_none_or(|again| again.text != once.text));
            }
        }
    }
}
