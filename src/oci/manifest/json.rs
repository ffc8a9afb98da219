//! JSON read member by member: what nobody asks for is checked and skipped, never kept, so that a
//! hostile document costs little more than its own bytes.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use super::error::{Document, ManifestError};

/// Levels of lists and objects in a document. Python gives up at about a thousand.
const MAX_DEPTH: usize = 100;
/// Members of an object and items of a list that we read.
const MAX_LENGTH: usize = 10_000;
/// Characters of a text that an error repeats.
const MAX_QUOTE: usize = 100;
/// From here on, floating point skips whole numbers.
const EXACT_IN_F64: f64 = 9_007_199_254_740_992.0;

/// A value, and the place it is at.
pub(super) struct Value<'a> {
    document: Document,
    /// `layers[3].size`; empty for the document itself.
    path: String,
    raw: &'a RawValue,
}

impl<'a> Value<'a> {
    /// The value that a whole document is, once all of it is known to be JSON.
    pub(super) fn document(document: Document, bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let malformed = |problem: String| ManifestError::Malformed { document, problem };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| malformed(format!("not UTF-8 after byte {}", error.valid_up_to())))?;
        if is_too_deep(text) {
            return Err(malformed(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let raw = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { document, path: String::new(), raw })
    }

    /// What kind of value it is: a document that parses shows that in its first byte.
    pub(super) fn kind(&self) -> &'static str {
        match self.raw.get().as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    /// Whether it is null.
    pub(super) fn is_null(&self) -> bool {
        self.kind() == "null"
    }

    /// A string.
    pub(super) fn text(&self) -> Result<String, ManifestError> {
        if self.kind() != "a string" {
            return Err(self.is_not("a string"));
        }
        // Half a surrogate pair is JSON, but no text.
        serde_json::from_str(self.raw.get()).map_err(|_| self.is_not("text that Unicode knows"))
    }

    /// A number of any kind.
    pub(super) fn number(&self) -> Result<Number, ManifestError> {
        if self.kind() != "a number" {
            return Err(self.is_not("a number"));
        }
        serde_json::from_str(self.raw.get()).map_err(|_| self.is_not("a number that can be held"))
    }

    /// A whole number, also one that is written with a fraction of zero, as JSON schema has it.
    /// Quay takes any number and then cuts it off, or fails where it stores it.
    pub(super) fn integer(&self) -> Result<i64, ManifestError> {
        let number = self.number()?;
        if let Some(integer) = number.as_i64() {
            return Ok(integer);
        }
        match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() <= EXACT_IN_F64 => Ok(float as i64),
            _ => Err(self.wrong("is not a whole number of 64 bits")),
        }
    }

    /// The values of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, ManifestError> {
        if self.kind() != "a list" {
            return Err(self.is_not("a list"));
        }
        let items: Bounded<&RawValue> = self.collect("items")?;
        let item = |(index, raw)| Self { path: format!("{}[{index}]", self.path), raw, ..*self };
        Ok(items.0.into_iter().enumerate().map(item).collect())
    }

    /// An object in which the last of several members of a name counts, as for Python and Go.
    pub(super) fn object(&self) -> Result<Object<'a>, ManifestError> {
        if self.kind() != "an object" {
            return Err(self.is_not("an object"));
        }
        let members: Bounded<(String, &'a RawValue)> = self.collect("members")?;
        let place = Self { path: self.path.clone(), ..*self };
        Ok(Object { place, members: members.0 })
    }

    /// An object in which no name appears twice.
    pub(super) fn unambiguous(&self) -> Result<Object<'a>, ManifestError> {
        let object = self.object()?;
        let mut seen = HashSet::with_capacity(object.members.len());
        match object.members.iter().find(|(name, _)| !seen.insert(name)) {
            Some((name, _)) => Err(object.at(name).wrong("is there twice")),
            None => Ok(object),
        }
    }

    /// Such an object, and no name is one of the `known` ones to Go but not to Python: Go, and so
    /// nearly every client, finds `Layers` where it looks for `layers`.
    pub(super) fn object_of(&self, known: &[&str]) -> Result<Object<'a>, ManifestError> {
        let object = self.unambiguous()?;
        for (name, _) in &object.members {
            if let Some(meant) = known.iter().find(|known| **known != name && go_finds(name, known))
            {
                let problem = format!("is read as `{meant}` by some clients and not by others");
                return Err(object.at(name).wrong(&problem));
            }
        }
        Ok(object)
    }

    /// What is wrong with this value.
    pub(super) fn wrong(&self, problem: &str) -> ManifestError {
        let problem = match self.path.as_str() {
            "" => format!("the document {problem}"),
            path => format!("`{}` {problem}", shorten(path)),
        };
        ManifestError::Schema { document: self.document, problem }
    }

    /// Another kind of value is needed here.
    pub(super) fn is_not(&self, needed: &str) -> ManifestError {
        self.wrong(&format!("is {} and has to be {needed}", self.kind()))
    }

    /// Where the value is, for the errors that Quay has words of its own for.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn collect<T>(&self, what: &str) -> Result<Bounded<T>, ManifestError>
    where
        Bounded<T>: Deserialize<'a>,
    {
        serde_json::from_str(self.raw.get())
            .map_err(|_| self.wrong(&format!("has too many {what}, or a name that is no text")))
    }
}

/// The members of an object, in their order.
pub(super) struct Object<'a> {
    place: Value<'a>,
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// The member of this name, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let (_, raw) = self.members.iter().rev().find(|(found, _)| found == name)?;
        Some(Value { raw, ..self.at(name) })
    }

    /// The member of this name.
    pub(super) fn need(&self, name: &str) -> Result<Value<'a>, ManifestError> {
        self.get(name).ok_or_else(|| self.at(name).wrong("is missing"))
    }

    /// The string of this name, if there is one.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ManifestError> {
        self.get(name).map(|value| value.text()).transpose()
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All members in their order, all of which have to be strings.
    pub(super) fn texts(&self) -> Result<Vec<(String, String)>, ManifestError> {
        let text = |(name, raw): &(String, &'a RawValue)| {
            Ok((name.clone(), Value { raw, ..self.at(name) }.text()?))
        };
        self.members.iter().map(text).collect()
    }

    /// The place where a member of this name is, or would be.
    fn at(&self, name: &str) -> Value<'a> {
        let path = match self.place.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        Value { path, ..self.place }
    }
}

/// A text for an error, cut to a length that can be shown.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether Go's `encoding/json` takes a member of this name for the field called `field`, which is
/// ASCII: upper and lower case are one to it, by Unicode's simple folding.
fn go_finds(name: &str, field: &str) -> bool {
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(field.chars().map(fold))
}

/// Counts brackets outside of strings. Of what is not JSON it may say anything.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// Up to [`MAX_LENGTH`] members or items; more are an error before they take room.
struct Bounded<T>(Vec<T>);

impl<T> Bounded<T> {
    fn push<E: serde::de::Error>(&mut self, item: T) -> Result<(), E> {
        if self.0.len() == MAX_LENGTH {
            return Err(E::custom("too many"));
        }
        self.0.push(item);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Bounded<&'de RawValue> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Bounded<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Bounded(Vec::new());
                while let Some(item) = list.next_element()? {
                    items.push(item)?;
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

impl<'de> Deserialize<'de> for Bounded<(String, &'de RawValue)> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Bounded<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Bounded(Vec::new());
                while let Some(member) = map.next_entry()? {
                    members.push(member)?;
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Whether `text` is JSON of any kind.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value<'_>, ManifestError> {
        Value::document(Document::Manifest, text.as_bytes())
    }

    fn problem<T>(result: Result<T, ManifestError>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in ["", "{not json", "{\"a\":1", "{} x", "\u{feff}{}", "[NaN]", "{\"a\":\"\n\"}"] {
            assert!(problem(read(text)).starts_with("malformed manifest data: "), "{text}");
        }
        let not_utf8 = Value::document(Document::Config, b"{\"a\":\"\xff\"}");
        assert_eq!(problem(not_utf8), "malformed config data: not UTF-8 after byte 6");
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        assert!(problem(read(&nested(MAX_DEPTH + 1))).contains("nested more than 100"));
        assert!(problem(read(&"{\"a\":".repeat(1_000_000))).contains("nested more than 100"));
        assert!(read(&format!("\"\\\"{}\"", "[".repeat(500))).is_ok());
    }

    #[test]
    fn length_is_bounded() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n - 1));
        assert_eq!(read(&list(MAX_LENGTH)).unwrap().list().unwrap().len(), MAX_LENGTH);
        assert!(problem(read(&list(MAX_LENGTH + 1)).unwrap().list()).contains("too many items"));
        let members: Vec<String> = (0..=MAX_LENGTH).map(|n| format!("\"{n}\":0")).collect();
        let object = format!("{{{}}}", members.join(","));
        assert!(problem(read(&object).unwrap().object()).contains("too many members"));
    }

    #[test]
    fn whole_numbers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("402", Some(402)),
            ("402.0", Some(402)),
            ("4.02e2", Some(402)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1e300", None),
            ("1e999", None),
            ("0.5", None),
            ("\"1\"", None),
            ("true", None),
            ("null", None),
        ] {
            assert_eq!(read(text).unwrap().integer().ok(), expected, "{text}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        let read = read("{\"a\":[{\"b\":1}]}").unwrap();
        let inner = read.object().unwrap().need("a").unwrap().list().unwrap().remove(0);
        let inner = inner.object().unwrap();
        let schema = "manifest data does not match schema: ";
        let expected = format!("{schema}`a[0].b` is a number and has to be a string");
        assert_eq!(problem(inner.text("b")), expected);
        assert_eq!(problem(inner.need("c")), format!("{schema}`a[0].c` is missing"));
        let expected = format!("{schema}the document is an object and has to be a list");
        assert_eq!(problem(read.list()), expected);
    }

    #[test]
    fn what_two_readers_read_differently() {
        let known = ["layers", "k"];
        for (text, ambiguous) in [
            ("{\"layers\":1,\"other\":2}", false),
            ("{\"layers\":1,\"layers\":1}", true),
            ("{\"x\":1,\"\\u0078\":1}", true),
            ("{\"layers\":1,\"Layers\":2}", true),
            ("{\"LAYERS\":2}", true),
            ("{\"layer\u{17f}\":2}", true),
            ("{\"\u{212a}\":2}", true),
            ("{\"layers \":2}", false),
        ] {
            assert_eq!(read(text).unwrap().object_of(&known).is_err(), ambiguous, "{text}");
        }
        let twice = read("{\"a\":1,\"a\":\"2\"}").unwrap().object().unwrap();
        assert_eq!(twice.text("a").unwrap().as_deref(), Some("2"));
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        let lone = read("{\"a\":\"\\ud800\",\"b\":\"\\ud83d\\ude00\"}").unwrap().object().unwrap();
        assert!(problem(lone.text("a")).contains("Unicode"));
        assert_eq!(lone.text("b").unwrap().as_deref(), Some("😀"));
    }

    proptest! {
        #[test]
        fn errors_are_short(name in ".{0,300}", value in "[\\[{]{0,20}.{0,50}") {
            let name = serde_json::to_string(&name).unwrap();
            for text in [value.clone(), format!("{{{name}:{value}}}"), format!("{{{name}:[]}}")] {
                let read = Value::document(Document::Manifest, text.as_bytes());
                let object = read.and_then(|read| read.object_of(&["a"])?.texts());
                prop_assert!(problem(object).chars().count() < 300);
            }
        }
    }
}
