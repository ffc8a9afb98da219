//! Query strings.

/// Every value of `name`, decoded.
pub fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = String> + 'q {
    form_urlencoded::parse(query.as_bytes())
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// The first value of `name`.
pub fn value(query: &str, name: &str) -> Option<String> {
    values(query, name).next()
}

/// A page size between 0 and `max`: `max` without one or for what is no number
/// (contract §1.6.2). Numbers of any length count.
pub fn page_size(query: &str, max: u32) -> u32 {
    size(query, max).unwrap_or(max)
}

/// The same for the catalog: between 1 and `max`, and 1 for what is no number (contract §1.6.1).
pub fn catalog_size(query: &str, max: u32) -> u32 {
    size(query, max).unwrap_or_default().max(1)
}

/// `None` for what is no number.
fn size(query: &str, max: u32) -> Option<u32> {
    let Some(text) = value(query, "n") else { return Some(max) };
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(match negative {
        true => 0,
        false => digits.parse().unwrap_or(max).min(max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn page_sizes() {
        for (query, expected) in [
            ("", 100),
            ("n=", 100),
            ("n=7", 7),
            ("last=x&n=7", 7),
            ("n=0", 0),
            ("n=-1", 0),
            ("n=+3", 3),
            ("n=%2B3", 3),
            ("n=99999999999999999999999", 100),
            ("n=-99999999999999999999999", 0),
            ("n=abc", 100),
            ("n=1e3", 100),
            ("n=5&n=6", 5),
        ] {
            assert_eq!(page_size(query, 100), expected, "{query}");
        }
    }

    #[test]
    fn catalog_sizes() {
        for (query, expected) in [
            ("", 100),
            ("n=7", 7),
            ("n=0", 1),
            ("n=-5", 1),
            ("n=abc", 1),
            ("n=", 1),
            ("n=101", 100),
        ] {
            assert_eq!(catalog_size(query, 100), expected, "{query}");
        }
    }

    #[test]
    fn repeated_values() {
        let scopes: Vec<String> = values("scope=a%3Ab&x=1&scope=c+d&scope", "scope").collect();
        assert_eq!(scopes, ["a:b", "c d", ""]);
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in ".{0,200}") {
            prop_assert!(page_size(&query, 100) <= 100);
            let _ = value(&query, "scope");
        }
    }
}
