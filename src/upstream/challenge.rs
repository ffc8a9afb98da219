//! `WWW-Authenticate` (RFC 9110 §11.6.1): what a registry wants to see before it answers.

/// Challenges, and parameters of each, that are looked at.
const MOST: usize = 32;

/// One way to show who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of the service at `realm`.
    Bearer { realm: String, service: Option<String> },
    /// Name and password.
    Basic,
    /// One that is not spoken here, by its name.
    Other(String),
}

impl Challenge {
    /// The name of one that is not spoken here.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Other(name) => Some(name),
            _ => None,
        }
    }
}

/// All challenges of an answer, in their order: several may share a header line.
pub(super) fn parse<'h>(headers: impl Iterator<Item = &'h str>) -> Vec<Challenge> {
    headers.flat_map(|line| Parser { rest: line }.challenges()).take(MOST).collect()
}

struct Raw {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Raw {
    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn read(self) -> Challenge {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Challenge::Basic;
        }
        let service = self.parameter("service");
        match self.parameter("realm") {
            Some(realm) if self.scheme.eq_ignore_ascii_case("bearer") => {
                Challenge::Bearer { realm, service }
            }
            _ => Challenge::Other(self.scheme),
        }
    }
}

struct Parser<'h> {
    rest: &'h str,
}

impl Parser<'_> {
    fn challenges(mut self) -> Vec<Challenge> {
        let mut found: Vec<Raw> = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
            let word = self.take_while(is_token);
            if word.is_empty() {
                // The end, or what nobody can make sense of.
                break;
            }
            self.skip_space();
            match (self.rest.strip_prefix('='), found.last_mut()) {
                (Some(rest), Some(challenge)) => {
                    self.rest = rest;
                    let value = self.value();
                    if challenge.parameters.len() < MOST {
                        challenge.parameters.push((word, value));
                    }
                }
                _ => {
                    self.skip_token68();
                    found.push(Raw { scheme: word, parameters: Vec::new() });
                }
            }
            if found.len() > MOST {
                break;
            }
        }
        found.into_iter().map(Raw::read).collect()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> String {
        let end = self.rest.bytes().position(|b| !belongs(b)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// What some schemes have in place of parameters: `Negotiate YII=`.
    fn skip_token68(&mut self) {
        let before = self.rest;
        let word = self.take_while(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
        self.rest = self.rest.trim_start_matches('=');
        self.skip_space();
        if word.is_empty() || !(self.rest.is_empty() || self.rest.starts_with(',')) {
            self.rest = before;
        }
    }

    /// The value of a parameter, quoted or not.
    fn value(&mut self) -> String {
        self.skip_space();
        let Some(quoted) = self.rest.strip_prefix('"') else {
            // Not in the grammar, but in the wild: a URL without quotes.
            return self.take_while(|b| !b" \t,\"".contains(&b));
        };
        let (mut value, mut characters) = (String::new(), quoted.char_indices());
        let mut end = quoted.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.rest = &quoted[end..];
        value
    }
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges() {
        let hub = "https://auth.docker.io/token";
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#,
                vec![bearer(hub, Some("registry.docker.io"))],
            ),
            (
                r#"bearer service = "a b" , REALM="https://auth.docker.io/token", error="x, y""#,
                vec![bearer(hub, Some("a b"))],
            ),
            (r#"Basic realm="a \"quoted\" name""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="r", Bearer realm="https://auth.docker.io/token""#,
                vec![Challenge::Other("Negotiate".to_owned()), Challenge::Basic, bearer(hub, None)],
            ),
            (
                r#"Negotiate YIIabc==, Bearer realm=https://auth.docker.io/token"#,
                vec![Challenge::Other("Negotiate".to_owned()), bearer(hub, None)],
            ),
            // No realm, no token.
            (r#"Bearer service="s""#, vec![Challenge::Other("Bearer".to_owned())]),
            (r#"Bearer realm="#, vec![Challenge::Other("Bearer".to_owned())]),
            (r#"Bearer realm="https://r"#, vec![bearer("https://r", None)]),
            ("", vec![]),
            ("\"", vec![]),
            ("= , =", vec![]),
        ] {
            assert_eq!(parse([header].into_iter()), expected, "{header}");
        }
        let lines = ["Basic realm=x", r#"Bearer realm="https://r""#];
        assert_eq!(parse(lines.into_iter()), [Challenge::Basic, bearer("https://r", None)]);
    }

    proptest! {
        #[test]
        fn anything_is_read_to_its_end(header in r#"[A-Za-z=," \\\t\PC]{0,200}"#) {
            prop_assert!(parse([header.as_str()].into_iter()).len() <= MOST);
        }
    }
}
