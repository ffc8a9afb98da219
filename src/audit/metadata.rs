//! `metadata_json` in the spelling of Python's `json.dumps`: a space after colon and comma, and
//! nothing outside ASCII.

use std::fmt::Write;

/// A JSON object whose keys keep their order.
#[derive(Default)]
pub(super) struct Metadata(String);

impl Metadata {
    /// Adds a string.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        push_string(&mut self.0, value);
    }

    /// Adds a number.
    pub(super) fn number(&mut self, key: &str, value: i32) {
        self.literal(key, &value.to_string());
    }

    /// Adds a value that is JSON already.
    pub(super) fn literal(&mut self, key: &str, json: &str) {
        self.key(key);
        self.0.push_str(json);
    }

    /// The object.
    pub(super) fn into_json(self) -> String {
        format!("{{{}}}", self.0)
    }

    fn key(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        push_string(&mut self.0, key);
        self.0.push_str(": ");
    }
}

/// Appends `value` as Python's `json.dumps` writes a string.
pub fn push_string(json: &mut String, value: &str) {
    json.push('"');
    for c in value.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            ' '..='~' => json.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn python_escapes() {
        let mut metadata = Metadata::default();
        metadata.text("a", "\"\\\n\u{1}\u{7f}ü😀");
        metadata.number("b", -1);
        metadata.literal("c", "true");
        let expected =
            "{\"a\": \"\\\"\\\\\\n\\u0001\\u007f\\u00fc\\ud83d\\ude00\", \"b\": -1, \"c\": true}";
        assert_eq!(metadata.into_json(), expected);
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "\\PC*|.*") {
            let mut metadata = Metadata::default();
            metadata.text("key", &text);
            let json = metadata.into_json();
            prop_assert!(json.is_ascii());
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(value["key"].as_str(), Some(text.as_str()));
        }
    }
}
