//! Parameters and rows in types of our own, so that a statement does not know which engine runs it.

use chrono::{NaiveDate, NaiveDateTime};
use rusqlite::types::Value;
use tokio_postgres::types::{FromSql, ToSql, Type};

use super::error::CatalogError;

/// A statement's text. Most are the same for both engines; what differs says so where it is
/// written. Parameters are `$1`, `$2`, … in both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sql {
    pub(super) postgres: &'static str,
    pub(super) sqlite: &'static str,
}

impl From<&'static str> for Sql {
    fn from(both: &'static str) -> Self {
        Self { postgres: both, sqlite: both }
    }
}

/// A parameter, with the type that PostgreSQL is told, so that preparing needs no round trip.
#[derive(Clone, Copy, Debug)]
pub(super) enum Param<'a> {
    Bool(bool),
    Int(Option<i32>),
    BigInt(Option<i64>),
    Text(Option<&'a str>),
    Time(Option<NaiveDateTime>),
    /// Arrays: on SQLite they are JSON, for `json_each`.
    Ints(&'a [Option<i32>]),
    BigInts(&'a [i64]),
    Texts(&'a [&'a str]),
    Times(&'a [NaiveDateTime]),
}

macro_rules! param {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Param<'_> {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}
param!(bool => Bool, i32 => Int, Option<i32> => Int, i64 => BigInt, Option<i64> => BigInt,
    NaiveDateTime => Time);

impl<'a> From<&'a str> for Param<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<&'a String> for Param<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<Option<&'a str>> for Param<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text)
    }
}

/// Python's `str` of a datetime, which is how Quay's SQLite files hold them: they compare as text.
pub(super) fn python_time(time: &NaiveDateTime) -> String {
    let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    text.strip_suffix(".000000").map_or(text.clone(), str::to_owned)
}

impl Param<'_> {
    pub(super) fn postgres(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Bool(value) => (value, Type::BOOL),
            Self::Int(value) => (value, Type::INT4),
            Self::BigInt(value) => (value, Type::INT8),
            Self::Text(value) => (value, Type::TEXT),
            Self::Time(value) => (value, Type::TIMESTAMP),
            Self::Ints(values) => (values, Type::INT4_ARRAY),
            Self::BigInts(values) => (values, Type::INT8_ARRAY),
            Self::Texts(values) => (values, Type::TEXT_ARRAY),
            Self::Times(values) => (values, Type::TIMESTAMP_ARRAY),
        }
    }

    pub(super) fn sqlite(&self) -> Value {
        let json = |array: serde_json::Value| Value::Text(array.to_string());
        match self {
            Self::Bool(value) => Value::Integer((*value).into()),
            Self::Int(value) => value.map_or(Value::Null, |value| Value::Integer(value.into())),
            Self::BigInt(value) => value.map_or(Value::Null, Value::Integer),
            Self::Text(value) => value.map_or(Value::Null, |text| Value::Text(text.to_owned())),
            Self::Time(value) => value.map_or(Value::Null, |time| Value::Text(python_time(&time))),
            Self::Ints(values) => json((*values).into()),
            Self::BigInts(values) => json((*values).into()),
            Self::Texts(values) => json((*values).into()),
            Self::Times(values) => json(values.iter().map(python_time).collect()),
        }
    }
}

/// A row that a statement gave.
#[derive(Debug)]
pub(super) enum Row {
    Postgres(tokio_postgres::Row),
    Sqlite(Vec<Value>),
}

/// What a column can be read as.
pub(super) trait Column<'a>: FromSql<'a> {
    /// From SQLite, whose columns hold anything; `None` where it is something else.
    fn of(value: &'a Value) -> Option<Self>;
}

impl Row {
    /// The column at `index`, from 0.
    pub(super) fn get<'a, T: Column<'a>>(&'a self, index: usize) -> Result<T, CatalogError> {
        let unexpected = |found: String| CatalogError::Refused {
            route: "row",
            reason: format!(
                "column {index} of a row is not what the schema contract says: {found}"
            ),
        };
        match self {
            Self::Postgres(row) => {
                row.try_get(index).map_err(|error| unexpected(error.to_string()))
            }
            Self::Sqlite(values) => {
                let value = values.get(index).ok_or_else(|| unexpected("there is none".into()))?;
                T::of(value).ok_or_else(|| unexpected(format!("{:?}", value.data_type())))
            }
        }
    }
}

impl Column<'_> for bool {
    fn of(value: &Value) -> Option<Self> {
        i64::of(value).map(|number| number != 0)
    }
}

impl Column<'_> for i32 {
    fn of(value: &Value) -> Option<Self> {
        i64::of(value).and_then(|number| number.try_into().ok())
    }
}

impl Column<'_> for i64 {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl<'a> Column<'a> for &'a str {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Column<'_> for String {
    fn of(value: &Value) -> Option<Self> {
        <&str>::of(value).map(str::to_owned)
    }
}

impl Column<'_> for NaiveDateTime {
    fn of(value: &Value) -> Option<Self> {
        let text = <&str>::of(value)?;
        let time = Self::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
        // What peewee reads too.
        time.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0))
    }
}

impl<'a, T: Column<'a>> Column<'a> for Option<T> {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::of(value).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        for text in ["2026-11-24 16:20:00", "2026-11-24 16:20:00.000120", "0999-01-01 00:00:00"] {
            let value = Value::Text(text.to_owned());
            let time = NaiveDateTime::of(&value).unwrap();
            assert_eq!(Param::from(time).sqlite(), value);
        }
        let day = NaiveDateTime::of(&Value::Text("2026-11-24".to_owned())).unwrap();
        assert_eq!(python_time(&day), "2026-11-24 00:00:00");
        assert!(NaiveDateTime::of(&Value::Text("yesterday".to_owned())).is_none());
    }

    #[test]
    fn columns_are_read_as_what_they_are() {
        let row = Row::Sqlite(vec![Value::Integer(1 << 40), Value::Null, Value::Text("a".into())]);
        assert_eq!(row.get::<i64>(0).unwrap(), 1 << 40);
        assert!(row.get::<bool>(0).unwrap());
        assert_eq!(row.get::<Option<&str>>(1).unwrap(), None);
        assert_eq!(row.get::<String>(2).unwrap(), "a");
        for (index, named) in [(0, "Integer"), (1, "Null"), (2, "Text"), (3, "none")] {
            let error = row.get::<i32>(index).unwrap_err().to_string();
            assert!(error.contains(&format!("column {index}")) && error.contains(named), "{error}");
        }
    }

    #[test]
    fn arrays_are_json_on_sqlite() {
        let text = |param: Param<'_>| param.sqlite();
        assert_eq!(text(Param::Ints(&[Some(1), None])), Value::Text("[1,null]".into()));
        assert_eq!(text(Param::Texts(&["a\"b"])), Value::Text("[\"a\\\"b\"]".into()));
    }
}
