//! The grammar of the `scope` parameter (contract §2.3 steps 3 and 4).

use regex::Regex;

use crate::oci::{NameRules, RepoName};

/// A scope that Quay refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not `repository:<name>:<actions>`.
    #[error("Unable to decode repository and actions: {0}")]
    Undecodable(String),
    /// A name that no repository can have.
    #[error("{0}")]
    InvalidName(String),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRequest {
    /// The name as it was asked for: with a host name, without a library namespace.
    pub name: String,
    /// The repository that it means.
    pub repository: RepoName,
    /// Whether `push` is among the actions.
    pub push: bool,
    /// Whether `pull` is.
    pub pull: bool,
    /// Whether `*` is.
    pub admin: bool,
}

/// Reads scopes for one installation.
#[derive(Clone, Debug)]
pub struct ScopeParser {
    pattern: Regex,
    rules: NameRules,
}

impl ScopeParser {
    /// `hostname` is `SERVER_HOSTNAME`, which may prefix a name.
    pub fn new(hostname: &str, rules: NameRules) -> Result<Self, regex::Error> {
        let hostname = regex::escape(hostname);
        let pattern = Regex::new(&format!(
            r"^repository:((?:{hostname}/)?((?:[.a-zA-Z0-9_-]+/)*[.a-zA-Z0-9_-]+)):((?:push|pull|\*)(?:,(?:push|pull|\*))*)$"
        ))?;
        Ok(Self { pattern, rules })
    }

    /// Parses one `scope` parameter.
    pub fn parse(&self, scope: &str) -> Result<ScopeRequest, ScopeError> {
        let undecodable = || ScopeError::Undecodable(scope.to_owned());
        let parts = self.pattern.captures(scope).ok_or_else(undecodable)?;
        let (name, path, actions) = (&parts[1], &parts[2], &parts[3]);
        let repository = RepoName::parse(path, &self.rules).ok_or_else(undecodable)?;
        if !repository.is_valid(&self.rules) {
            let nested = !self.rules.extended && path.contains('/');
            return Err(ScopeError::InvalidName(if nested {
                format!("Nested repositories are not supported. Found: {path}")
            } else {
                format!("Invalid repository name: {path}")
            }));
        }
        let asks = |action| actions.split(',').any(|asked| asked == action);
        Ok(ScopeRequest {
            name: name.to_owned(),
            repository,
            push: asks("push"),
            pull: asks("pull"),
            admin: asks("*"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parser(extended: bool) -> ScopeParser {
        let rules = NameRules { library_namespace: "library".into(), extended };
        ScopeParser::new("quay.example:8443", rules).unwrap()
    }

    #[test]
    fn scopes() {
        let parse = |scope| {
            let scope = parser(true).parse(scope).unwrap();
            (scope.name, scope.repository.to_string(), scope.push, scope.pull, scope.admin)
        };
        let expect = |name: &str, repository: &str, push, pull, admin| {
            (name.to_owned(), repository.to_owned(), push, pull, admin)
        };
        assert_eq!(parse("repository:a/b:pull"), expect("a/b", "a/b", false, true, false));
        assert_eq!(
            parse("repository:a/b/c:pull,push,*"),
            expect("a/b/c", "a/b/c", true, true, true)
        );
        assert_eq!(
            parse("repository:quay.example:8443/a/b:pull"),
            expect("quay.example:8443/a/b", "a/b", false, true, false)
        );
        assert_eq!(
            parse("repository:busybox:pull"),
            expect("busybox", "library/busybox", false, true, false)
        );
    }

    #[test]
    fn refused_scopes() {
        for bad in [
            "foo",
            "registry:catalog:*",
            "repository:a/b:delete",
            "repository:a/b:",
            "repository::pull",
            "repository:a//b:pull",
            "repository:a/b:pull repository:c/d:pull",
            "repository:a/b:pull\n",
            "repository:other.example/a/b:pull:pull",
            "repository:a+b/c:pull",
        ] {
            assert_eq!(parser(true).parse(bad), Err(ScopeError::Undecodable(bad.into())), "{bad}");
        }
        let message = |extended, scope| parser(extended).parse(scope).unwrap_err().to_string();
        assert_eq!(message(true, "repository:a/UP:pull"), "Invalid repository name: a/UP");
        assert_eq!(
            message(false, "repository:a/b/c:pull"),
            "Nested repositories are not supported. Found: a/b/c"
        );
    }

    proptest! {
        #[test]
        fn no_scope_panics(scope in "(repository:)?.{0,200}(:pull)?") {
            let _ = parser(true).parse(&scope);
        }
    }
}
