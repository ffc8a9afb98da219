//! Immutability policies: patterns of tags that may not be moved.

use regex::bytes::RegexBuilder;
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassSet, ClassSetItem, GroupKind, Literal, LiteralKind,
};
use serde::Deserialize;

/// Characters of a pattern; Quay stores no longer one.
const MAX_PATTERN: usize = 256;
/// Groups within groups.
const MAX_NESTING: u32 = 32;
/// What a compiled pattern may take, bytes.
const MAX_COMPILED: usize = 1 << 20;

/// The `policy` of a row of `repositoryimmutabilitypolicy` or `namespaceimmutabilitypolicy`.
#[derive(Clone, Debug, Deserialize)]
pub struct ImmutabilityPolicy {
    tag_pattern: String,
    /// False: the policy is about the tags that the pattern does not match.
    #[serde(default = "matching")]
    tag_pattern_matches: bool,
}

fn matching() -> bool {
    true
}

impl ImmutabilityPolicy {
    /// Reads the column, or returns `None` where Python has to.
    pub fn parse(policy: &str) -> Option<Self> {
        serde_json::from_str(policy).ok()
    }

    /// Whether a new tag of this name is immutable by this policy, or `None` where Python has to
    /// say (contract §4.5 step 5).
    pub fn covers(&self, tag: &str) -> Option<bool> {
        Some(full_match(&self.tag_pattern, tag)? == self.tag_pattern_matches)
    }
}

/// Whether the whole of `tag` matches a pattern of Python's `regex` module. `None` for a pattern
/// that does not mean the same in Rust, or might not, and for a tag that is not plain ASCII.
///
/// Python gives up after a second and takes that for no match. Here the time is linear.
fn full_match(pattern: &str, tag: &str) -> Option<bool> {
    if pattern.chars().count() > MAX_PATTERN || !tag.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let ast = ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(pattern).ok()?;
    if !is_common(&ast) {
        return None;
    }
    // ASCII alone: Unicode's classes would be a hundred times as large.
    let regex = RegexBuilder::new(&format!("^(?:{pattern})$"))
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .ok()?;
    Some(regex.is_match(tag.as_bytes()))
}

/// Whether a pattern has nothing but what both languages write the same way. Lookaround, back
/// references and the like do not even parse; this refuses what parses and means something else in
/// Python: `a++` is possessive there, `[a[b]c]` no set within a set, `(?i)` a flag of the whole
/// pattern.
fn is_common(ast: &Ast) -> bool {
    match ast {
        Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => true,
        Ast::Literal(literal) => is_common_literal(literal),
        Ast::Assertion(at) => matches!(at.kind, AssertionKind::StartLine | AssertionKind::EndLine),
        Ast::ClassBracketed(class) => match &class.kind {
            ClassSet::Item(item) => is_common_item(item),
            ClassSet::BinaryOp(_) => false,
        },
        Ast::Repetition(repeated) => match *repeated.ast {
            Ast::Repetition(_) | Ast::Assertion(_) | Ast::Empty(_) => false,
            ref ast => is_common(ast),
        },
        Ast::Group(group) => {
            let plain = match &group.kind {
                GroupKind::CaptureIndex(_) => true,
                GroupKind::CaptureName { .. } => false,
                GroupKind::NonCapturing(flags) => flags.items.is_empty(),
            };
            plain && is_common(&group.ast)
        }
        Ast::Alternation(alternation) => alternation.asts.iter().all(is_common),
        Ast::Concat(concat) => concat.asts.iter().all(is_common),
        Ast::Flags(_) | Ast::ClassUnicode(_) => false,
    }
}

fn is_common_item(item: &ClassSetItem) -> bool {
    match item {
        ClassSetItem::Empty(_) | ClassSetItem::Perl(_) => true,
        ClassSetItem::Literal(literal) => is_common_literal(literal),
        ClassSetItem::Range(range) => {
            is_common_literal(&range.start) && is_common_literal(&range.end)
        }
        ClassSetItem::Union(union) => union.items.iter().all(is_common_item),
        ClassSetItem::Ascii(_) | ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => false,
    }
}

/// A character of ASCII that stands for itself, escaped or not.
fn is_common_literal(literal: &Literal) -> bool {
    let itself = matches!(
        literal.kind,
        LiteralKind::Verbatim | LiteralKind::Meta | LiteralKind::Superfluous
    );
    itself && literal.c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_whole_tag_matches() {
        for (pattern, tag, expected) in [
            ("v.*", "v1.2", true),
            ("v", "v1", false),
            ("1", "v1", false),
            ("^v[0-9]+$", "v12", true),
            ("a|ab", "ab", true),
            (r"v\d+\.\d+(?:-rc\d+)?", "v1.20-rc3", true),
            (r"v\d+\.\d+(-rc\d+)?", "v1x20", false),
            ("[^a-z._-]{2,3}", "V1", true),
            (r"[\w.-]{1,128}", "release_1.0-x", true),
            (".+?", "x", true),
            ("V.*", "v1", false),
            ("", "v1", false),
        ] {
            assert_eq!(full_match(pattern, tag), Some(expected), "{pattern} {tag}");
        }
    }

    #[test]
    fn what_python_reads_otherwise_is_pythons() {
        for pattern in [
            "(?!latest).*",
            "(?<=v)1",
            r"(a)\1",
            "(?>a+)b",
            "a++",
            "a?+",
            "a{2}+",
            "a+*",
            "(?i)v.*",
            "v(?i:x)",
            "(?P<n>v)",
            "[[:alpha:]]+",
            "[a[b]c]",
            r"[\w--a]",
            "[a-z&&b]",
            r"\bv\b",
            r"\p{L}+",
            r"\x76",
            r"\Av1\Z",
            r"\n",
            "(?:cat){e<=1}",
            "v{",
            "größe",
            "(",
            "*",
        ] {
            assert_eq!(full_match(pattern, "v1"), None, "{pattern}");
        }
        assert_eq!(full_match(".*", "größe"), None);
        assert_eq!(full_match(".*", "a\n"), None);
    }

    #[test]
    fn patterns_are_bounded() {
        assert_eq!(full_match(&"a".repeat(256), "a"), Some(false));
        assert_eq!(full_match(&"a".repeat(257), "a"), None);
        assert_eq!(full_match("(((a{1000}){1000}){1000}){1000}", "a"), None);
        assert_eq!(full_match(&format!("{}a{}", "(".repeat(99), ")".repeat(99)), "a"), None);
        let tag = format!("{}!", "a".repeat(127));
        assert_eq!(full_match("(a+)+b|(a|aa)+b", &tag), Some(false));
    }

    #[test]
    fn policies_as_they_are_stored() {
        let covers = |policy: &str, tag| ImmutabilityPolicy::parse(policy)?.covers(tag);
        assert_eq!(covers(r#"{"tag_pattern": "v.*"}"#, "v1"), Some(true));
        let inverted = r#"{"tag_pattern": "dev-.*", "tag_pattern_matches": false}"#;
        assert_eq!(covers(inverted, "v1"), Some(true));
        assert_eq!(covers(inverted, "dev-1"), Some(false));
        assert_eq!(
            covers(r#"{"tag_pattern": "(?!x).*", "tag_pattern_matches": false}"#, "v"),
            None
        );
        for unread in ["", "null", "{}", r#"{"tag_pattern": null}"#] {
            assert_eq!(covers(unread, "v1"), None, "{unread}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,40}|[ab.*+?(){}\\[\\]|^$\\\\1,-]{0,20}", tag in ".{0,20}") {
            let _ = full_match(&pattern, &tag);
        }

        #[test]
        fn a_tag_matches_itself(tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}") {
            prop_assert_eq!(full_match(&regex::escape(&tag), &tag), Some(true));
        }
    }
}
