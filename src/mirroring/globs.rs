//! Which tags a rule means, or which repositories a filter, as Python's `fnmatch` reads it (contract
//! §7.3, §7.5).

/// The patterns of a mirror's rule, or of an organization's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globs(Vec<String>);

impl From<Vec<String>> for Globs {
    fn from(globs: Vec<String>) -> Self {
        Self(globs)
    }
}

impl Globs {
    /// Reads `repomirrorrule.rule_value`, a JSON list.
    pub fn parse(rule_value: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(rule_value).map(Self)
    }

    /// Those of `names` that any pattern means, sorted, each once.
    pub fn matching(&self, names: Vec<String>) -> Vec<String> {
        let wanted = |name: &String| self.0.iter().any(|pattern| matches(pattern, name));
        let mut matching: Vec<String> = names.into_iter().filter(wanted).collect();
        matching.sort_unstable();
        matching.dedup();
        matching
    }

    /// As the log shows them.
    pub fn text(&self) -> String {
        self.0.join(",")
    }
}

/// Whether `pattern` means the whole of `name`: `*`, `?`, `[seq]` and `[!seq]`, case counts. Tries
/// at most `pattern.len() * name.len()` steps.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = tokens(pattern);
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(Token::Star) => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(Token::One(one)) if one.is(name[n]) => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((after, at)) => {
                    (p, n) = (after, at + 1);
                    star = Some((after, at + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| matches!(token, Token::Star))
}

enum Token {
    Star,
    One(One),
}

/// One character.
enum One {
    Any,
    Char(char),
    In { ranges: Vec<(char, char)>, not: bool },
}

impl One {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Any => true,
            Self::Char(this) => *this == c,
            Self::In { ranges, not } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *not
            }
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(c) = chars.get(at) {
        at += 1;
        tokens.push(match c {
            '*' => Token::Star,
            '?' => Token::One(One::Any),
            '[' => match set(&chars[at..]) {
                Some((one, length)) => {
                    at += length;
                    Token::One(one)
                }
                // Without its end it is a bracket.
                None => Token::One(One::Char('[')),
            },
            c => Token::One(One::Char(*c)),
        });
    }
    tokens
}

/// What follows a bracket, and how long it is. A `]` at its beginning belongs to it, as does a `-` at
/// either end; a range that runs backwards is empty.
fn set(chars: &[char]) -> Option<(One, usize)> {
    let not = chars.first() == Some(&'!');
    let from = usize::from(not);
    let length = chars.get(from + 1..)?.iter().position(|c| *c == ']')? + from + 1;
    let inside = &chars[from..length];
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(first) = inside.get(at) {
        match (inside.get(at + 1), inside.get(at + 2)) {
            (Some('-'), Some(last)) => {
                ranges.push((*first, *last));
                at += 3;
            }
            _ => {
                ranges.push((*first, *first));
                at += 1;
            }
        }
    }
    Some((One::In { ranges, not }, length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Python 3.12's `fnmatch.fnmatchcase` says of the same.
    #[test]
    fn as_python_has_it() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "latest", true),
            ("v?", "v1", true),
            ("v?", "v", false),
            ("v?", "v10", false),
            ("v*.[0-9]", "v1.2", true),
            ("v*.[0-9]", "v1.x", false),
            ("[!v]*", "latest", true),
            ("[!v]*", "v1", false),
            ("[]x]", "]", true),
            ("[]x]", "x", true),
            ("[!]x]", "]", false),
            ("[!]x]", "a", true),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[z-a]", "m", false),
            ("[", "[", true),
            ("[]", "[]", true),
            ("[!]", "[!]", true),
            ("[abc", "[abc", true),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("V1", "v1", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("1.0", "1x0", false),
            ("größ?", "größe", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn each_tag_once_and_sorted() {
        let globs = Globs::parse(r#"["v1*", "*.0", "latest"]"#).unwrap();
        let tags = ["v1.0", "b.0", "v2", "latest", "latest", "v10"].map(str::to_owned);
        assert_eq!(globs.matching(tags.to_vec()), ["b.0", "latest", "v1.0", "v10"]);
        assert_eq!(globs.text(), "v1*,*.0,latest");
        assert!(Globs::parse("{}").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in ".{0,20}", name in ".{0,20}") {
            let _ = matches(&pattern, &name);
            prop_assert!(matches("*", &name));
        }

        #[test]
        fn plain_names_match_themselves(name in "[a-zA-Z0-9_.-]{1,40}", other in "[a-z]{1,5}") {
            prop_assert!(matches(&name, &name));
            let longer = format!("{name}{other}");
            prop_assert!(!matches(&name, &longer));
        }
    }
}
