//! YAML as a tree that knows its lines. Bounded in size and depth before anything recurses.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Error, MergeKeyPolicy, Options, Spanned};

use super::problem::shown;
use super::source::SECTION;

/// Deeper than any switch file; each level is a stack frame of the reader.
const DEPTH: usize = 16;

/// Real `config.yaml` files stay below ten.
const CONFIG_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) line: u64,
    /// Bytes of a scalar; the mere start of a list or a map.
    pub(super) span: Range<usize>,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Node>),
    /// In order, duplicates included.
    Map(Vec<Entry>),
    /// Something that no switch is, by name.
    Other(&'static str),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) at: usize,
    pub(super) node: Node,
}

impl Value {
    /// For messages, which never quote a value of the wrong type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Other(name) => name,
        }
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) line: u64,
    pub(super) reason: String,
}

/// The tree of a switch file.
pub(super) fn read(text: &str) -> Result<Node, Broken> {
    on_a_large_stack(|| {
        let mut options = options(DEPTH);
        options.reject_unsupported_tags = true;
        let read: Result<Spanned<Value>, Error> =
            serde_saphyr::from_str_with_options(text, options);
        read.map(Node::from).map_err(|error| {
            let reason = format!("not valid YAML: {}", shown(&phrase(&error)));
            Broken { line: line(&error), reason }
        })
    })
}

/// What `config.yaml` says about switches: the values of these top-level keys, in order.
///
/// Nothing else of the file is kept, and no message quotes it: it holds secrets.
pub(super) fn section(text: &str) -> Result<Vec<Entry>, Broken> {
    on_a_large_stack(|| {
        let read: Result<Section, Error> =
            serde_saphyr::from_str_with_options(text, options(CONFIG_DEPTH));
        read.map(|section| section.0)
            .map_err(|error| Broken { line: line(&error), reason: "not valid YAML".into() })
    })
}

/// Without optimisation a level takes the reader 110 KiB; the deepest configuration that passes
/// needs half of this. A thread also keeps a panic of the reader from being ours.
const STACK_BYTES: usize = 16 << 20;

fn on_a_large_stack<T: Send>(read: impl FnOnce() -> Result<T, Broken> + Send) -> Result<T, Broken> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("switches".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, read) {
            Ok(thread) => thread.join().unwrap_or_else(|_| {
                Err(Broken { line: 0, reason: "not valid YAML: the reader gave up on it".into() })
            }),
            Err(error) => {
                Err(Broken { line: 0, reason: format!("no thread to read it with: {error}") })
            }
        }
    })
}

fn options(depth: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth,
            flow_nesting_limit: depth,
            max_documents: 1,
        },
        // Reported here, all of them, with their lines.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        with_snippet: false,
    }
}

fn line(error: &Error) -> u64 {
    error.location().map_or(0, |location| location.line())
}

/// The library's own words, without the position, which is reported apart.
fn phrase(error: &Error) -> String {
    let text = error.to_string();
    if text.contains("multiple YAML documents") {
        return "there is more than one document in the file".into();
    }
    if text.contains("budget breached") {
        return "nested too deeply, or too large".into();
    }
    text.rsplit_once(" at line ").map_or(text.clone(), |(phrase, _)| phrase.into())
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let (at, len, line) = position(&spanned);
        Self { value: spanned.value, line, span: at..at + len }
    }
}

/// Byte offset, length in bytes, line. An alias counts where it is used.
fn position<T>(spanned: &Spanned<T>) -> (usize, usize, u64) {
    let span = spanned.referenced.span();
    let bytes = |count: Option<u64>| count.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    (bytes(span.byte_offset()), bytes(span.byte_len()), spanned.referenced.line())
}

fn entry(key: Spanned<String>, value: Spanned<Value>) -> Entry {
    let (at, _, line) = position(&key);
    Entry { key: key.value, line, at, node: value.into() }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Other("a number too large"), Value::Integer))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Other("a number too large"))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Other("a number too large"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other("a fraction"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Other("binary data"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry()? {
            map.push(entry(key, value));
        }
        Ok(Value::Map(map))
    }
}

/// The entries of `config.yaml` that are ours.
struct Section(Vec<Entry>);

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Section;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Section, A::Error> {
                let mut ours = Vec::new();
                while let Some(key) = all.next_key::<Spanned<String>>()? {
                    if [SECTION, super::key::FORCE].contains(&key.value.as_str()) {
                        ours.push(entry(key, all.next_value()?));
                    } else {
                        all.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Section(ours))
            }
        }
        deserializer.deserialize_map(Top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines_and_bytes() {
        let text = "a: 1\nb:\n  c: off\n  c: 'off'\n";
        let Value::Map(top) = read(text).unwrap().value else { panic!("a map") };
        let Value::Map(inner) = &top[1].node.value else { panic!("a map") };
        assert_eq!(inner.iter().map(|entry| entry.line).collect::<Vec<_>>(), [3, 4]);
        assert!(matches!(inner[0].node.value, Value::Bool(false)));
        assert_eq!(&text[inner[1].node.span.clone()], "'off'");
        assert_eq!(&text[inner[1].at..][..1], "c");
    }

    #[test]
    fn hostile_nesting_is_refused_on_a_small_stack() {
        let opens = ["[", "{", "- ", "? ", "- ? ", "{a: ", "[{", ": ", "!!seq [", "&a ["];
        let all: Vec<String> = opens.map(|open| open.repeat(100_000)).into();
        let check = move || {
            for text in &all {
                assert!(read(text).is_err());
                assert!(read(&format!("a: {text}")).is_err());
                assert!(section(&format!("a: {text}")).is_err());
            }
            let stairs: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
            assert!(read(&stairs).is_err());
        };
        let small = std::thread::Builder::new().stack_size(128 << 10).spawn(check).unwrap();
        small.join().unwrap();
    }

    #[test]
    fn aliases_do_not_multiply() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert!(read(&text).is_err());
    }

    #[test]
    fn of_a_configuration_only_the_switches_are_kept() {
        let text = "SECRET: s3cr3t: x\nMIGRATION_SWITCHES: {version: 1}\n";
        assert!(!section(text).unwrap_err().reason.contains("s3cr3t"));
        let text = "SECRET: s3cr3t\nMIGRATION_SWITCHES: {version: 1}\nZ: [1]\n";
        let entries = section(text).unwrap();
        assert_eq!((entries.len(), entries[0].line), (1, 2));
    }
}
