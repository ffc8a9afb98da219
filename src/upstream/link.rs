//! `Link` headers (RFC 8288), by which registries say that a list goes on.

/// The target of the first link whose relation is `next`.
pub(super) fn next<'h>(headers: impl Iterator<Item = &'h str>) -> Option<&'h str> {
    headers.into_iter().find_map(next_of_line)
}

fn next_of_line(mut rest: &str) -> Option<&str> {
    loop {
        let (_, from_target) = rest.split_once('<')?;
        let (target, parameters) = from_target.split_once('>')?;
        let end = end_of_link(parameters);
        if is_next(&parameters[..end]) {
            return Some(target.trim());
        }
        rest = &parameters[end..];
    }
}

/// Where the parameters of a link end.
fn end_of_link(parameters: &str) -> usize {
    unquoted(parameters, b',').unwrap_or(parameters.len())
}

/// Where the first `wanted` is that is not in quotes.
fn unquoted(text: &str, wanted: u8) -> Option<usize> {
    let mut quoted = false;
    text.bytes().position(|b| {
        quoted ^= b == b'"';
        b == wanted && !quoted
    })
}

fn is_next(mut parameters: &str) -> bool {
    while !parameters.is_empty() {
        let end = unquoted(parameters, b';').unwrap_or(parameters.len());
        if is_rel_next(&parameters[..end]) {
            return true;
        }
        parameters = parameters.get(end + 1..).unwrap_or_default();
    }
    false
}

fn is_rel_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let mut relations = value.trim().trim_matches('"').split_whitespace();
    name.trim().eq_ignore_ascii_case("rel")
        && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn links() {
        for (header, target) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("/v2/a/tags/list?n=2&last=b")),
            ("<https://r/v2/a>; rel=next", Some("https://r/v2/a")),
            (r#"</a>;rel="prev", </b,c>; title="x, y"; REL="last next""#, Some("/b,c")),
            (r#"</a>; title="; rel=next""#, None),
            (r#"</a>; rel="nextish""#, None),
            ("</a>", None),
            ("/a; rel=next", None),
            ("<", None),
            ("", None),
        ] {
            assert_eq!(super::next([header].into_iter()), target, "{header}");
        }
        assert_eq!(super::next(["</a>; rel=prev", "</b>; rel=next"].into_iter()), Some("/b"));
    }
}
