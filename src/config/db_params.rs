//! The parameters around a `DB_URI`: `DB_CONNECTION_ARGS`, the URI's query, libpq's variables.

use std::collections::HashMap;

use config::ValueKind;

use super::db_uri::DbUri;
use super::reader::{Reader, Show, Wrong};
use super::report::Severity;

/// Every parameter we understand, with the variable that libpq consults for it.
const PARAMETERS: [(&str, Option<&str>); 18] = [
    ("host", Some("PGHOST")),
    ("port", Some("PGPORT")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("application_name", Some("PGAPPNAME")),
    ("options", Some("PGOPTIONS")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
    ("fallback_application_name", None),
];

/// Arguments that mean something to peewee or to Quay's own pool, and nothing to a connection.
const NOT_FOR_US: [&str; 6] = [
    "threadlocals",
    "autorollback",
    "stale_timeout",
    "max_connections",
    "timeout",
    "_driver_autocommit",
];

pub(super) const ARGS: &str = "DB_CONNECTION_ARGS";

/// The parameters around the URI: `DB_CONNECTION_ARGS` over the URI's query over libpq's variables.
pub(super) struct Params(HashMap<&'static str, (String, String)>);

impl Params {
    pub(super) fn collect(r: &mut Reader<'_>, uri: &DbUri) -> Self {
        let mut found = HashMap::new();
        for (name, variable) in PARAMETERS {
            let value = variable.and_then(|variable| Some((variable, r.env.var(variable)?)));
            if let Some((variable, value)) = value.filter(|(_, value)| !value.is_empty()) {
                found.insert(name, (value, format!("environment {variable}")));
            }
        }
        if !uri.query.is_empty() {
            let reason =
                "Python Quay ignores the parameters after the ?; this program follows them";
            r.warn("DB_URI", reason, format!("move them to {ARGS}, which both follow"));
        }
        let place = r.source.place("DB_URI");
        for (name, value) in &uri.query {
            match known(name) {
                Some(name) => drop(found.insert(name, (value.clone(), place.clone()))),
                None => r.warn(
                    "DB_URI",
                    format!("the parameter {} is not understood, and ignored", name.show()),
                    "remove it",
                ),
            }
        }
        match r.source.get(ARGS) {
            None | Some(ValueKind::Nil) => {}
            Some(ValueKind::Table(args)) => {
                for (name, value) in args {
                    Self::argument(r, &mut found, name, &value.kind);
                }
            }
            Some(other) => r.error(ARGS, Wrong::kind("a map", other)),
        }
        Self(found)
    }

    fn argument(
        r: &mut Reader<'_>,
        found: &mut HashMap<&'static str, (String, String)>,
        name: &str,
        value: &ValueKind,
    ) {
        let key = format!("{ARGS}.{name}");
        let place = r.source.place(ARGS);
        if NOT_FOR_US.contains(&name) {
            return;
        }
        let Some(name) = known(name) else {
            let wrong = Wrong::new(
                "not understood, and ignored",
                "remove it if this program has to do without it",
            );
            r.problem(Severity::Warning, &key.show(), place, wrong);
            return;
        };
        let text = match value {
            ValueKind::Nil => return,
            ValueKind::String(text) => text.clone(),
            ValueKind::I64(number) => number.to_string(),
            ValueKind::Boolean(on) => u8::from(*on).to_string(),
            other => {
                return r.problem(
                    Severity::Error,
                    &key,
                    place,
                    Wrong::kind("text or a number", other),
                );
            }
        };
        found.insert(name, (text, place));
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|(value, _)| value).filter(|value| !value.is_empty())
    }

    /// Takes a parameter that may be shown in the report, and shows it.
    pub(super) fn take_shown(&mut self, r: &mut Reader<'_>, name: &str) -> Option<String> {
        let (value, place) = self.0.remove(name).filter(|(value, _)| !value.is_empty())?;
        r.show(&format!("{ARGS}.{name}"), value.show(), place);
        Some(value)
    }

    /// A number; its value is not quoted when it is none, as it may be a misplaced secret.
    pub(super) fn number(&mut self, r: &mut Reader<'_>, name: &str) -> Option<u32> {
        let (value, place) = self.0.remove(name)?;
        let key = format!("{ARGS}.{name}");
        match value.trim().parse::<u32>() {
            Ok(number) => {
                r.show(&key, number.show(), place);
                Some(number)
            }
            Err(_) => {
                let wrong =
                    Wrong::new("not a whole number", "set it to a whole number, or remove it");
                r.problem(Severity::Error, &key, place, wrong);
                None
            }
        }
    }

    /// One of the words in `table`.
    pub(super) fn word<T: Copy + Default>(
        &mut self,
        r: &mut Reader<'_>,
        name: &str,
        table: &[(&str, T)],
    ) -> T {
        let Some((value, place)) = self.0.remove(name) else {
            return T::default();
        };
        let key = format!("{ARGS}.{name}");
        if let Some((word, meaning)) = table.iter().find(|(word, _)| *word == value) {
            r.show(&key, (*word).into(), place);
            return *meaning;
        }
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let wrong = Wrong::new(
            "not a word that is known here",
            format!("set it to {}", words.join(" or ")),
        );
        r.problem(Severity::Error, &key, place, wrong);
        T::default()
    }

    pub(super) fn is(&self, name: &str, text: &str) -> bool {
        self.0.get(name).is_some_and(|(value, _)| value == text)
    }

    pub(super) fn place(&self, name: &str) -> String {
        self.0.get(name).map_or_else(|| "default".into(), |(_, place)| place.clone())
    }
}

fn known(name: &str) -> Option<&'static str> {
    PARAMETERS.iter().map(|(known, _)| *known).find(|known| *known == name)
}
