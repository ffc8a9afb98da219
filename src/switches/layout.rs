//! Where things stand in the text of a switch file, so that it can be changed in place.

use std::ops::Range;

use super::source::SECTION;
use super::yaml::{Entry, Node, Value};

/// Changes to a text, each to a part of its own; the rest stays byte for byte.
#[derive(Default)]
pub(super) struct Patches(Vec<(Range<usize>, String)>);

impl Patches {
    pub(super) fn replace(&mut self, part: Range<usize>, with: impl Into<String>) {
        self.0.push((part, with.into()));
    }

    pub(super) fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.replace(at..at, text);
    }

    /// The text with every change; `None` when a part is none of the text's.
    pub(super) fn apply(mut self, text: &str) -> Option<String> {
        // Stable: what is inserted at one place stays in order.
        self.0.sort_by_key(|(part, _)| (part.start, part.end));
        let mut result = String::with_capacity(text.len() + 256);
        let mut done = 0;
        for (part, with) in self.0 {
            result.push_str(text.get(done..part.start)?);
            text.get(part.clone())?;
            result.push_str(&with);
            done = part.end;
        }
        result.push_str(text.get(done..)?);
        Some(result)
    }
}

/// The fields of the file: the root of the tree, or the section below its one key.
pub(super) fn fields(root: &Node) -> Option<&[Entry]> {
    match &root.value {
        Value::Map(entries) if entries.len() == 1 && entries[0].key == SECTION => {
            fields(&entries[0].node)
        }
        Value::Map(entries) => Some(entries),
        _ => None,
    }
}

/// The start of the line that holds `at`.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// The blanks before an entry; `None` when something else shares its line.
pub(super) fn indent<'a>(text: &'a str, entry: &Entry) -> Option<&'a str> {
    let blanks = text.get(line_start(text, entry.at)..entry.at)?;
    // A quoted key starts at its quote.
    let blanks = blanks.trim_end_matches(['"', '\'']);
    blanks.bytes().all(|b| b == b' ').then_some(blanks)
}

/// The lines of an entry in block style, without the comments and blank lines after it.
pub(super) fn lines(text: &str, entry: &Entry) -> Option<Range<usize>> {
    let depth = indent(text, entry)?.len();
    let start = line_start(text, entry.at);
    let mut end = start;
    let mut at = start;
    for (index, line) in text.get(start..)?.split_inclusive('\n').enumerate() {
        let content = line.trim_start_matches(' ');
        let blanks = line.len() - content.len();
        let bare = content.trim().is_empty() || content.starts_with('#');
        let item = blanks == depth && content.starts_with("- ");
        if index > 0 && !bare && blanks <= depth && !item {
            break;
        }
        at += line.len();
        if !bare {
            end = at;
        }
    }
    Some(start..end)
}

/// Whether the value can be replaced by its bytes alone.
pub(super) fn is_scalar(node: &Node) -> bool {
    !matches!(node.value, Value::List(_) | Value::Map(_) | Value::Null) && !node.span.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::yaml;

    #[test]
    fn an_entry_has_its_lines() {
        let text =
            "a: 1\n# about b\nb:\n  - x\n\n  # inside\n  - y\n# about c\nc:\n- z\nd: [p,\n  q]\n";
        let root = yaml::read(text).unwrap();
        let of = |index: usize| &text[lines(text, &fields(&root).unwrap()[index]).unwrap()];
        assert_eq!(of(0), "a: 1\n");
        assert_eq!(of(1), "b:\n  - x\n\n  # inside\n  - y\n");
        assert_eq!(of(2), "c:\n- z\n");
        assert_eq!(of(3), "d: [p,\n  q]\n");
    }

    #[test]
    fn patches_keep_what_they_do_not_name() {
        let mut patches = Patches::default();
        patches.insert(4, "3");
        patches.replace(0..1, "A");
        patches.insert(4, "4");
        assert_eq!(patches.apply("a b ").unwrap(), "A b 34");
    }
}
