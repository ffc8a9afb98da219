//! What can be told from the text of a file without understanding it.

/// Whether the last line is the end mark of YAML, `...`: nothing was cut off.
pub(super) fn is_complete(text: &str) -> bool {
    let last = text.trim_end().lines().next_back();
    last.is_some_and(|line| line.trim_end() == "...") && text.trim_end().contains('\n')
}

/// The values of `key` where a line begins with it, in block style, with their lines from 1.
pub(super) fn values_of<'a>(key: &str, text: &'a str) -> impl Iterator<Item = (u64, &'a str)> {
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let line = line.trim_start_matches([' ', '\t', '{', ',', '\u{feff}']);
        let line = line.trim_start_matches(['"', '\'']).strip_prefix(key)?;
        let value = line.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix(':')?;
        let value = value.split(" #").next().unwrap_or_default();
        Some((number, value.trim_matches([' ', '\t', '"', '\'', '}', ','])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        for complete in ["a: 1\n...", "a: 1\n...\n", "a: 1\n... \r\n\n"] {
            assert!(is_complete(complete), "{complete:?}");
        }
        for not in ["", "...", "a: 1\n", "a: 1\n..", "a: 1\n ...", "a: ...", "a: 1\n...\n# x"] {
            assert!(!is_complete(not), "{not:?}");
        }
    }

    #[test]
    fn a_key_is_found_in_broken_text() {
        let of = |text: &str| {
            let found: Vec<(u64, String)> =
                values_of("KILL", text).map(|(line, value)| (line, value.to_owned())).collect();
            found
        };
        assert_eq!(of("a: [\n  KILL: true # now\n"), [(2, "true".into())]);
        assert_eq!(of("\"KILL\": \"yes\""), [(1, "yes".into())]);
        assert_eq!(of("# KILL: true\nKILLER: 1\nKILL\nKILL : 1"), [(4, "1".into())]);
        assert_eq!(of("{KILL: true}"), [(1, "true".into())]);
    }
}
