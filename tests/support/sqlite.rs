//! A PostgreSQL database, by its URI, carried over into a file, as Quay would have filled it: its tables, types
//! as Quay's migrations name them on SQLite, unique indexes, rows, and the journal mode that its
//! Python sets.

use std::path::Path;

use chrono::NaiveDateTime;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, Connection, Row};
use serde_json::Value as Json;

use super::postgres::psql;

/// A column: its name, type, whether it may be NULL, and a default that is a literal.
struct Column {
    name: String,
    data_type: String,
    nullable: bool,
    default: String,
}

pub fn carry_over(from: &str, to: &Path) {
    let mut file = Connection::open(to).expect("our own folder");
    file.pragma_update(None, "journal_mode", "WAL").expect("a write-ahead log");
    let tables = psql(
        from,
        "SELECT table_name FROM information_schema.tables \
         WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1",
    );
    let carried = file.transaction().expect("a transaction");
    for table in tables.lines() {
        let columns = columns(from, table);
        let declared: Vec<String> = columns.iter().map(Column::declaration).collect();
        carried
            .execute(&format!("CREATE TABLE \"{table}\" ({})", declared.join(", ")), [])
            .unwrap_or_else(|e| panic!("{table}: {e}"));
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let insert = format!("INSERT INTO \"{table}\" VALUES ({})", places.join(", "));
        let mut insert = carried.prepare(&insert).expect("an INSERT");
        for row in psql(from, &format!("SELECT row_to_json(t) FROM \"{table}\" t")).lines() {
            let row: Json = serde_json::from_str(row).expect("PostgreSQL's JSON");
            let values = columns.iter().map(|column| column.value(&row[&column.name]));
            insert
                .execute(rusqlite::params_from_iter(values))
                .unwrap_or_else(|e| panic!("{table}: {e}: {row}"));
        }
    }
    let indexes = psql(
        from,
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' \
         AND indexdef LIKE '%USING btree%' AND indexdef NOT LIKE '%\\_pkey %'",
    );
    for index in indexes.lines() {
        let statement = index.replace(" ON public.", " ON ").replace(" USING btree", "");
        carried.execute(&statement, []).unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
    carried.commit().expect("the file");
}

fn columns(from: &str, table: &str) -> Vec<Column> {
    let described = format!(
        "SELECT column_name, data_type, is_nullable, coalesce(character_maximum_length, 0), \
             coalesce(column_default, '') \
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name = '{table}' \
         ORDER BY ordinal_position"
    );
    let described = psql(from, &described);
    let column = |line: &str| {
        let [name, kind, nullable, length, default] = line.splitn(5, '|').collect::<Vec<_>>()[..]
        else {
            panic!("{line}")
        };
        let data_type = match kind {
            "character varying" => format!("VARCHAR({length})"),
            "timestamp without time zone" => "DATETIME".to_owned(),
            other => other.to_uppercase(),
        };
        let literal = |text: &&str| ["true", "false"].contains(text) || text.parse::<i64>().is_ok();
        let default = Some(default).filter(literal).unwrap_or_default().to_owned();
        Column { name: name.to_owned(), data_type, nullable: nullable == "YES", default }
    };
    described.lines().map(column).collect()
}

impl Column {
    fn declaration(&self) -> String {
        if self.name == "id" {
            return "\"id\" INTEGER NOT NULL PRIMARY KEY".to_owned();
        }
        let mut declaration = format!("\"{}\" {}", self.name, self.data_type);
        if !self.nullable {
            declaration += " NOT NULL";
        }
        if !self.default.is_empty() {
            declaration += &format!(" DEFAULT {}", self.default);
        }
        declaration
    }

    fn value(&self, json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Integer((*value).into()),
            Json::Number(number) => {
                let whole = number.as_i64().map(Value::Integer);
                whole.unwrap_or_else(|| Value::Real(number.as_f64().expect("a number")))
            }
            Json::String(text) if self.data_type == "DATETIME" => Value::Text(python_time(text)),
            Json::String(text) => Value::Text(text.clone()),
            other => Value::Text(other.to_string()),
        }
    }
}

/// Python's `str` of a datetime: all six digits of a fraction, or none.
fn python_time(iso: &str) -> String {
    let time: NaiveDateTime = iso.parse().unwrap_or_else(|e| panic!("{iso}: {e}"));
    let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    text.strip_suffix(".000000").unwrap_or(&text).to_owned()
}

/// Runs statements and gives what they print, as psql does: rows by line, columns by `|`.
pub fn sql(file: &Path, statements: &str) -> String {
    let connection = Connection::open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    connection.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
    let now = chrono::Utc::now().format("'%Y-%m-%d %H:%M:%S%.6f'").to_string();
    let statements = statements.replace("now()", &now);
    let mut lines = Vec::new();
    let mut batch = Batch::new(&connection, &statements);
    while let Some(mut statement) = batch.next().unwrap_or_else(|e| panic!("{statements}: {e}")) {
        let booleans: Vec<bool> = statement
            .columns()
            .map(|column| column.decl_type().is_some_and(|declared| declared == "BOOLEAN"))
            .collect();
        let mut rows = statement.query([]).unwrap_or_else(|e| panic!("{statements}: {e}"));
        while let Some(row) = rows.next().unwrap_or_else(|e| panic!("{statements}: {e}")) {
            lines.push(line(row, &booleans));
        }
    }
    lines.join("\n")
}

fn line(row: &Row<'_>, booleans: &[bool]) -> String {
    let print = |(index, boolean): (usize, &bool)| match row.get_ref(index).expect("a column") {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) if *boolean => if number == 0 { "f" } else { "t" }.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    };
    booleans.iter().enumerate().map(print).collect::<Vec<_>>().join("|")
}
