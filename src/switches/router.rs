//! METHOD and PATH to the route they mean, for `explain`; nginx decides with the same patterns.

use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};

use super::catalogue::{Route, catalogue};
use super::paths::{Naming, normalise};

/// Finds routes. Compiles every pattern, so build one and keep it.
#[derive(Debug)]
pub struct Router {
    naming: Naming,
    /// The closest first.
    routes: Vec<&'static Route>,
    patterns: RegexSet,
}

/// A request, found in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// 320 for `ROUTE-0320`.
    pub id: u16,
    /// `namespace/name`, for a path of the registry that names a repository.
    pub repository: Option<String>,
}

impl Router {
    /// A router over the whole catalogue.
    ///
    /// # Errors
    /// Only with a catalogue that is not the one tested here.
    pub fn new(naming: Naming) -> Result<Self, regex::Error> {
        let mut routes: Vec<&Route> = catalogue().routes.iter().collect();
        // Stable: among equals, the order of the table.
        routes.sort_by_cached_key(|route| route.widths());
        let patterns: Vec<String> = routes.iter().map(|route| route.pattern(&naming)).collect();
        let patterns = RegexSetBuilder::new(patterns)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(64 << 20)
            .build()?;
        Ok(Self { naming, routes, patterns })
    }

    /// The closest route that takes this method on this path. A path that Quay would redirect
    /// first, such as `/v2`, is no route.
    pub fn find(&self, method: &str, target: &str) -> Option<Found> {
        let path = normalise(target)?;
        let matched = self.patterns.matches(&path);
        let mut routes = matched.iter().filter_map(|index| self.routes.get(index));
        let route = routes
            .find(|route| route.methods.iter().any(|own| own == method) && !route.leaves(&path))?;
        let repository = self.repository(route, &path);
        Some(Found { id: route.id, repository })
    }

    /// The name as the path spells it, completed by the library namespace.
    fn repository(&self, route: &Route, path: &[u8]) -> Option<String> {
        if !route.has_repository() {
            return None;
        }
        let pattern = RegexBuilder::new(&route.capturing_pattern(&self.naming))
            .unicode(false)
            .build()
            .ok()?;
        let name = pattern.captures(path)?.get(1)?;
        std::str::from_utf8(name.as_bytes()).ok().map(|name| self.naming.full(name))
    }

    /// How names are read here.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::new(Naming::default()).unwrap()
    }

    /// A path for a pattern, with nothing special about it.
    fn example(route: &Route) -> String {
        let segments = route.path.split('/').map(|segment| match segment {
            "<digest>" => "sha256:0a".to_owned(),
            "<repopath>" | "<apirepopath>" => "acme/app".to_owned(),
            "<v1createrepopath:repository>" | "<repopathredirect:repository>" => "acme/app".into(),
            "<path:path>" => "x/y".to_owned(),
            placeholder if placeholder.starts_with('<') => "x1".to_owned(),
            literal => literal.to_owned(),
        });
        segments.collect::<Vec<_>>().join("/")
    }

    #[test]
    fn every_route_finds_itself() {
        let router = router();
        for route in &catalogue().routes {
            for method in &route.methods {
                let path = example(route);
                let found = router.find(method, &path);
                assert_eq!(found.map(|found| found.id), Some(route.id), "{method} {path}");
            }
        }
    }

    #[test]
    fn the_closest_route_wins() {
        let router = router();
        let id = |method, path: &str| router.find(method, path).map(|found| found.id);
        let table = [
            ("GET", "/v2/", Some(319)),
            ("GET", "/v2", None),
            ("HEAD", "/v2/auth?scope=x", Some(337)),
            ("POST", "/v2/auth", None),
            ("GET", "/v2/_catalog", Some(336)),
            ("GET", "/v2/busybox/blobs/sha256:00", Some(320)),
            ("HEAD", "/v2/a/b/c/blobs/sha256:00", Some(321)),
            ("DELETE", "/v2/a/b/blobs/sha256:00", Some(329)),
            ("DELETE", "/v2/a/b/blobs/whatever", Some(329)),
            ("DELETE", "/v2/a/b/blobs/uploads/x", Some(331)),
            ("GET", "/v2/a/b/blobs/uploads/sha256:00", Some(332)),
            ("PATCH", "/v2/a/b/blobs/uploads/1-2", Some(333)),
            ("PUT", "/v2/a/b/blobs/uploads/1-2?digest=sha256:00", Some(334)),
            ("POST", "/v2/a/b/blobs/uploads/", Some(330)),
            ("POST", "/v2/a/b/blobs/uploads", None),
            ("GET", "/v2/a/b/manifests/latest", Some(327)),
            ("GET", "/v2/a/b/manifests/sha256:00", Some(323)),
            ("PUT", "/v2/a%2Fb/manifests//latest", Some(328)),
            ("GET", "/v2/a/b/manifests/.x", None),
            ("GET", "/v2/a/b/manifests/latest%0A", None),
            ("GET", "/v2/a/b/nothing", None),
            ("GET", "/v2/a/manifests/x/tags/list", Some(335)),
            ("OPTIONS", "/v2/a/b/tags/list", None),
            ("OPTIONS", "/config", Some(355)),
            ("PUT", "/v1/repositories/a/b/", Some(312)),
            ("PUT", "/v1/repositories/a/b/auth", Some(304)),
            ("PUT", "/v1/repositories/a/tags/", None),
            ("GET", "/api/v1/repository/a/b/tag/", Some(153)),
            ("GET", "/api/v1/repository/a/b/c", Some(106)),
            ("GET", "/api/v1/repository/a", None),
            ("GET", "/health", Some(365)),
            ("GET", "/someone", Some(344)),
            ("GET", "/someone/something", Some(346)),
            ("get", "/v2/", None),
            ("GET", "", None),
        ];
        for (method, path, expected) in table {
            assert_eq!(id(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn repositories_have_their_full_name() {
        let router = router();
        let of = |path: &str| router.find("GET", path).and_then(|found| found.repository);
        assert_eq!(of("/v2/busybox/tags/list"), Some("library/busybox".into()));
        assert_eq!(of("/v2/a/b/c/tags/list"), Some("a/b/c".into()));
        assert_eq!(of("/v2/blobs/uploads/blobs/uploads/x"), Some("blobs/uploads".into()));
        assert_eq!(of("/v2/_catalog"), None);
        let naming = Naming { library_support: false, ..Naming::default() };
        let two = Router::new(naming).unwrap();
        assert_eq!(two.find("GET", "/v2/busybox/tags/list"), None);
    }
}
