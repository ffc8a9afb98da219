//! The raw values: `config.yaml`, then `QUAY_OVERRIDE_CONFIG` over it (contract section 6).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use config::{FileFormat, Format, Map, Value, ValueKind};

use super::environment::Environment;
use super::report::{Problem, Severity};

/// The largest `config.yaml` we read; real ones have a few KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The deepest indentation, compact `- - -` included, that we hand to the YAML parser.
///
/// The parser recurses once a level; each block level needs a column of its own (or shares one with
/// the map around it), so this bounds the stack it needs. Flow levels it bounds itself, at 255.
const MAX_INDENT: usize = 256;

/// Stack for the deepest file that passes; a quarter of it was enough without optimisation.
const PARSER_STACK_BYTES: usize = 16 << 20;

const OVERRIDE: &str = "QUAY_OVERRIDE_CONFIG";

/// Top-level values by key, each with the place that set it.
pub(super) struct Source {
    /// Path of the `config.yaml` that was read, for messages.
    pub(super) file: String,
    values: Map<String, Value>,
    places: HashMap<String, String>,
}

impl Source {
    /// Reads both sources. A broken override is reported in `problems` and left out.
    ///
    /// # Errors
    /// A `config.yaml` that cannot be used at all: nothing else is worth reporting then.
    pub(super) fn read(
        dir: &Path,
        env: &dyn Environment,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Problem> {
        let path = dir.join("config.yaml");
        let file = path.display().to_string();
        let text =
            read_text(&path).map_err(|(reason, remedy)| file_problem(&file, reason, remedy))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut source = Self::parse(file, text)?;
        if let Some(json) = env.var(OVERRIDE).filter(|json| !json.trim().is_empty()) {
            match serde_json::from_str::<HashMap<String, Value>>(&json) {
                Ok(values) => source.overlay(values),
                Err(error) => problems.push(override_problem(&error)),
            }
        }
        Ok(source)
    }

    fn parse(file: String, text: &str) -> Result<Self, Problem> {
        let lines = Lines::new(text);
        let fail = |reason: String| {
            let remedy = "correct the file; Python Quay reads the same one";
            Err(file_problem(&file, reason, remedy.into()))
        };
        if let Some(line) = deepest_line(text) {
            return fail(format!("line {line} is nested too deeply (over {MAX_INDENT} columns)"));
        }
        let mut values = match parse_yaml(text) {
            Ok(values) => values,
            Err(reason) => return fail(reason),
        };
        if values.contains_key("<<") {
            return fail("a merge key (<<) at the top level is not supported".into());
        }
        let mut places = HashMap::new();
        for (key, value) in &mut values {
            let line = lines.0.get(key.as_str());
            if let Some((_, scalar)) = line {
                value.kind = as_python_reads(std::mem::take(&mut value.kind), scalar);
            }
            let place = line.map_or_else(|| file.clone(), |(number, _)| format!("{file}:{number}"));
            places.insert(key.clone(), place);
        }
        Ok(Self { file, values, places })
    }

    /// Replaces whole top-level keys; nothing is merged, as in Python.
    fn overlay(&mut self, values: HashMap<String, Value>) {
        for (key, value) in values {
            self.places.insert(key.clone(), format!("environment {OVERRIDE}"));
            self.values.insert(key, value);
        }
    }

    /// The value of `key`; a key set to null is `Some(Nil)`, which is not the same as a missing one.
    pub(super) fn get(&self, key: &str) -> Option<&ValueKind> {
        self.values.get(key).map(|value| &value.kind)
    }

    /// Where `key` was set, or `default`.
    pub(super) fn place(&self, key: &str) -> String {
        self.places.get(key).cloned().unwrap_or_else(|| "default".into())
    }

    /// Every top-level value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &ValueKind)> {
        self.values.iter().map(|(key, value)| (key.as_str(), &value.kind))
    }
}

fn file_problem(file: &str, reason: String, remedy: String) -> Problem {
    Problem {
        severity: Severity::Error,
        key: "config.yaml".into(),
        place: file.into(),
        reason,
        remedy,
    }
}

/// Names the position only: serde's own message would quote the value it stumbled over.
fn override_problem(error: &serde_json::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        key: OVERRIDE.into(),
        place: format!("environment {OVERRIDE}"),
        reason: match error.classify() {
            serde_json::error::Category::Data => "not a JSON object of settings".into(),
            _ => format!("not valid JSON at line {} column {}", error.line(), error.column()),
        },
        remedy:
            "set it to a JSON object such as {\"SERVER_HOSTNAME\": \"quay.example\"}, or unset it"
                .into(),
    }
}

/// The text of the file, or a reason and a remedy.
fn read_text(path: &Path) -> Result<String, (String, String)> {
    let unreadable = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "point us at the folder that holds Quay's config.yaml",
            io::ErrorKind::PermissionDenied => "let the user we run as read the file",
            _ => "make it a readable file",
        };
        (format!("cannot be read: {error}"), remedy.to_string())
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let reason = format!("larger than {} MiB", MAX_FILE_BYTES >> 20);
        return Err((reason, "check that this is Quay's config.yaml".into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        (format!("not UTF-8 at byte {at}"), "save the file as UTF-8".into())
    })
}

/// Parses on a thread of its own, for its stack, and because the library asserts rather than errs in
/// states that it holds to be unreachable.
fn parse_yaml(text: &str) -> Result<Map<String, Value>, String> {
    let parse = || FileFormat::Yaml.parse(None, text).map_err(|error| yaml_reason(error.as_ref()));
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("config".into())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, parse)
            .map_err(|error| format!("no thread to read it with: {error}"))?
            .join()
            .unwrap_or_else(|_| Err("not valid YAML: the parser gave up on it".into()))
    })
}

/// What is wrong with the YAML, without quoting the file: keys and values may be secrets.
fn yaml_reason(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let text = error.to_string();
    let position = text.rfind(" at byte ").map(|at| &text[at..]);
    match position {
        Some(position) if text.contains("duplicated key") => {
            format!("a key appears twice in the same map, near{}", position.replace(" at", ""))
        }
        // What stands before the position is a fixed phrase of the scanner.
        Some(_) => format!("not valid YAML: {text}"),
        None if text.contains("documents") => "holds more than one YAML document".into(),
        None if text.contains("unsupported hash key") => {
            "a map key is not plain text (is a {{ template }} left unrendered?)".into()
        }
        None if text.contains("floating point") => {
            "holds a number that cannot be read (.inf or .nan)".into()
        }
        None => "not a map of settings".into(),
    }
}

/// The first line indented further than [`MAX_INDENT`], counting compact sequence and key marks.
fn deepest_line(text: &str) -> Option<usize> {
    let indent = |line: &str| line.chars().take_while(|c| " \t-?:".contains(*c)).count();
    let mut lines = text.split(['\n', '\r']);
    lines.position(|line| indent(line) > MAX_INDENT).map(|index| index + 1)
}

/// For each top-level key: its line number and the text after the colon.
struct Lines<'a>(HashMap<&'a str, (usize, &'a str)>);

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let mut lines = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with([' ', '\t', '#', '-']) {
                continue;
            }
            if let Some((key, rest)) = line.split_once(':') {
                let key = key.trim_end().trim_matches(['"', '\'']);
                let scalar = rest.split(" #").next().unwrap_or(rest).trim();
                lines.entry(key).or_insert((index + 1, scalar));
            }
        }
        Self(lines)
    }
}

/// Corrects the plain scalars that YAML 1.1, as Python reads it, understands differently.
///
/// `text` is the scalar as written; quoted text never looks like one of these.
fn as_python_reads(kind: ValueKind, text: &str) -> ValueKind {
    let digits = text.replace('_', "");
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match (&kind, text) {
        (ValueKind::String(s), _) if s != text => kind,
        (ValueKind::String(_), "yes" | "Yes" | "YES" | "on" | "On" | "ON") => true.into(),
        (ValueKind::String(_), "no" | "No" | "NO" | "off" | "Off" | "OFF") => false.into(),
        // A leading zero means octal, and text when that fails.
        (ValueKind::I64(_), _) if number && digits.len() > 1 && digits.starts_with('0') => {
            i64::from_str_radix(&digits, 8).map_or_else(|_| text.into(), ValueKind::I64)
        }
        (ValueKind::String(_), _) if number && !text.starts_with(['_', '0']) => {
            digits.parse().map_or_else(|_| digits.as_str().into(), ValueKind::I64)
        }
        // Python integers have no upper bound, and a float needs its dot: `12e4` is text.
        (ValueKind::Float(_), _) if !text.is_empty() && !text.contains('.') => {
            digits.as_str().into()
        }
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, Problem> {
        Source::parse("/conf/config.yaml".into(), text)
    }

    fn reason(text: &str) -> String {
        parse(text).err().map(|problem| problem.reason).unwrap_or_default()
    }

    #[test]
    fn scalars_are_read_as_python_reads_them() {
        let table: &[(&str, ValueKind)] = &[
            ("yes", true.into()),
            ("Off", false.into()),
            ("\"yes\"", "yes".into()),
            ("'no'", "no".into()),
            ("TRUE", true.into()),
            ("on # comment", true.into()),
            ("y", "y".into()),
            ("~", ValueKind::Nil),
            ("010", 8.into()),
            ("089", "089".into()),
            ("1_000", 1000.into()),
            ("12e45", "12e45".into()),
            ("1.5", 1.5.into()),
            ("524328711234567890123456789", "524328711234567890123456789".into()),
            ("\"1_000\"", "1_000".into()),
        ];
        for (text, expected) in table {
            let source = parse(&format!("FIRST: 1\nKEY: {text}\n")).unwrap();
            assert_eq!(source.get("KEY"), Some(expected), "{text}");
            assert_eq!(source.place("KEY"), "/conf/config.yaml:2");
        }
    }

    #[test]
    fn broken_files_are_told_apart_without_being_quoted() {
        let table = [
            ("a: [", "not valid YAML"),
            ("- a\n- b", "not a map"),
            ("s3cr3t", "not a map"),
            ("a: 1\na: 2", "appears twice"),
            ("DB_URI: {{ s3cr3t }}", "not plain text"),
            ("a: 1\n---\nb: 2", "more than one YAML document"),
            ("a: .inf", "cannot be read"),
            ("<<: {a: 1}", "merge key"),
        ];
        for (text, expected) in table {
            let found = reason(text);
            assert!(found.contains(expected) && !found.contains("s3cr3t"), "{text}: {found}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_it_can_exhaust_the_stack() {
        let opens =
            ["[", "{", "- ", "? ", "- ? ", "{a: ", "[{", "-\t", "? - ", ": ", "!!seq [", "&a ["];
        for open in opens {
            assert!(
                !reason(&format!("a: {}", open.repeat(100_000))).is_empty(),
                "{open:?} in a value"
            );
            assert!(!reason(&open.repeat(100_000)).is_empty(), "{open:?} at the root");
        }
        let stairs: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(reason(&stairs).contains("nested too deeply"));
        let mut stairs: String =
            (0..MAX_INDENT - 1).map(|i| format!("{0}a:\n{0}-\n", " ".repeat(i))).collect();
        stairs.push_str(&format!(
            "{}{}{}",
            " ".repeat(MAX_INDENT - 1),
            "[".repeat(250),
            "]".repeat(250)
        ));
        assert_eq!(
            reason(&stairs),
            "",
            "the deepest that passes is read, and dropped on this small stack"
        );
    }

    #[test]
    fn an_override_replaces_whole_keys() {
        let mut source = parse("A: {x: 1, y: 2}\nB: 1\n").unwrap();
        source.overlay(
            serde_json::from_str(r#"{"A": {"x": null}, "C": 18446744073709551615e0}"#).unwrap(),
        );
        assert_eq!(source.place("A"), "environment QUAY_OVERRIDE_CONFIG");
        let Some(ValueKind::Table(a)) = source.get("A") else { panic!("A is a map") };
        assert_eq!((a.len(), &a["x"].kind), (1, &ValueKind::Nil));
        assert_eq!((source.get("B"), source.place("D")), (Some(&1.into()), "default".into()));
    }
}
