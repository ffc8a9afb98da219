//! Reads one setting at a time: value or default, checked, reported with its place.

use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::environment::Environment;
use super::report::{Problem, Report, Setting, Severity};
use super::secret::Secret;
use super::source::Source;

/// Why a value was refused, and what to write instead. Must not quote a secret.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }

    /// The value has the wrong type; only the type is named, never the value.
    pub(super) fn kind(expected: &str, found: &ValueKind) -> Self {
        let found = kind_name(found);
        Self::new(format!("expected {expected}, found {found}"), format!("set it to {expected}"))
    }
}

/// What a parser makes of a value.
pub(super) type Parsed<T> = Result<T, Wrong>;

/// Hands out settings and collects the report.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) env: &'a dyn Environment,
    pub(super) report: Report,
}

impl Reader<'_> {
    /// The setting `key`, or `default` when it is missing. A bad value is reported, and the default
    /// stands in for it so that the remaining settings are checked as well.
    pub(super) fn setting<T: Show>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&ValueKind) -> Parsed<T>,
    ) -> T {
        let place = self.source.place(key);
        let value = match self.source.get(key).map(parse) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(wrong)) => {
                self.error(key, wrong);
                default
            }
        };
        self.show(key, value.show(), place);
        value
    }

    /// A setting that has to be there: Quay's own default is a value for its test suite.
    pub(super) fn required<T: Show + Default>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&ValueKind) -> Parsed<T>,
    ) -> T {
        if self.source.get(key).is_some() {
            return self.setting(key, T::default(), parse);
        }
        let place = self.source.file.clone();
        let wrong =
            Wrong::new("missing; the default that Quay has for it is meant for tests", "set it");
        self.problem(Severity::Error, key, place, wrong);
        T::default()
    }

    /// Adds a row to the report.
    pub(super) fn show(&mut self, key: &str, value: String, place: String) {
        self.report.settings.push(Setting { key: key.into(), value, place });
    }

    pub(super) fn error(&mut self, key: &str, wrong: Wrong) {
        self.problem(Severity::Error, key, self.source.place(key), wrong);
    }

    pub(super) fn warn(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.problem(Severity::Warning, key, self.source.place(key), Wrong::new(reason, remedy));
    }

    pub(super) fn problem(&mut self, severity: Severity, key: &str, place: String, wrong: Wrong) {
        let Wrong { reason, remedy } = wrong;
        self.report.problems.push(Problem { severity, key: key.into(), place, reason, remedy });
    }
}

/// Text for the report.
pub(super) trait Show {
    fn show(&self) -> String;
}

impl Show for bool {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for u32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for u64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for i32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for usize {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for String {
    /// Control characters are escaped: a report line stays one line.
    fn show(&self) -> String {
        self.escape_debug().to_string()
    }
}

impl Show for Secret {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for PathBuf {
    fn show(&self) -> String {
        self.display().to_string().show()
    }
}

impl Show for Duration {
    fn show(&self) -> String {
        match self.subsec_millis() {
            0 => format!("{} s", self.as_secs()),
            _ => format!("{} ms", self.as_millis()),
        }
    }
}

impl Show for Vec<String> {
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(Show::show).collect();
        format!("[{}]", items.join(", "))
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "(none)".into(), Show::show)
    }
}

fn kind_name(value: &ValueKind) -> &'static str {
    match value {
        ValueKind::Nil => "null",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            "a number"
        }
        ValueKind::Float(_) => "a fraction or a number too large",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a map",
        ValueKind::Array(_) => "a list",
    }
}

/// A `FEATURE_*` flag: text is true only when it spells `true`, all else by Python's truthiness.
pub(super) fn feature(value: &ValueKind) -> Parsed<bool> {
    match value {
        ValueKind::Boolean(on) => Ok(*on),
        ValueKind::String(text) => Ok(text.eq_ignore_ascii_case("true")),
        ValueKind::I64(number) => Ok(*number != 0),
        ValueKind::Nil => Ok(false),
        other => Err(Wrong::kind("true or false", other)),
    }
}

/// A plain flag; null is Python's None, which is false.
pub(super) fn flag(value: &ValueKind) -> Parsed<bool> {
    match value {
        ValueKind::Boolean(on) => Ok(*on),
        ValueKind::Nil => Ok(false),
        other => Err(Wrong::kind("true or false", other)),
    }
}

pub(super) fn text(value: &ValueKind) -> Parsed<String> {
    match value {
        ValueKind::String(text) => Ok(text.clone()),
        other => Err(Wrong::kind("text", other)),
    }
}

pub(super) fn path(value: &ValueKind) -> Parsed<PathBuf> {
    match value {
        ValueKind::String(text) if !text.is_empty() => Ok(text.into()),
        other => Err(Wrong::kind("a path", other)),
    }
}

/// Names; null is an empty list.
pub(super) fn names(value: &ValueKind) -> Parsed<Vec<String>> {
    match value {
        ValueKind::Nil => Ok(Vec::new()),
        ValueKind::Array(items) => items
            .iter()
            .map(|item| match &item.kind {
                ValueKind::String(name) => Ok(name.clone()),
                other => Err(Wrong::kind("a list of text", other)),
            })
            .collect(),
        other => Err(Wrong::kind("a list of text", other)),
    }
}

/// A secret; unquoted digits count, as Python's `str()` of them is used the same way.
pub(super) fn secret(value: &ValueKind) -> Parsed<Secret> {
    match value {
        ValueKind::String(text) if !text.is_empty() => Ok(Secret::new(text)),
        ValueKind::String(_) => Err(Wrong::new("empty", "set it")),
        ValueKind::I64(number) => Ok(Secret::new(number.to_string())),
        other => Err(Wrong::kind("text", other)),
    }
}

/// A whole number within `range`.
pub(super) fn number(range: std::ops::RangeInclusive<i64>) -> impl Fn(&ValueKind) -> Parsed<i64> {
    move |value| match value {
        ValueKind::I64(number) if range.contains(number) => Ok(*number),
        ValueKind::I64(number) => {
            let (low, high) = (range.start(), range.end());
            let allowed = format!("a whole number from {low} to {high}");
            Err(Wrong::new(format!("{number} is out of range"), format!("set it to {allowed}")))
        }
        other => Err(Wrong::kind("a whole number", other)),
    }
}

/// A number of seconds, at least one.
pub(super) fn seconds(value: &ValueKind) -> Parsed<Duration> {
    Ok(Duration::from_secs(number(1..=i64::from(u32::MAX))(value)?.unsigned_abs()))
}

/// One of a few words.
pub(super) fn one_of<'a>(words: &'a [&'a str]) -> impl Fn(&ValueKind) -> Parsed<String> + 'a {
    move |value| match text(value)? {
        word if words.contains(&word.as_str()) => Ok(word),
        word => {
            let remedy = format!("set it to {}", words.join(" or "));
            Err(Wrong::new(format!("{} is not known", word.show()), remedy))
        }
    }
}
