//! The schema contract: the tables and columns of Quay's that we rely on (`conf/schema.yaml`),
//! how a live database differs from it, and a database rendered from it.
//!
//! The model knows no engine: each has a file of its own that renders for it.

mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::Deserialize;

/// All that we rely on.
#[derive(Debug, Deserialize)]
pub struct Contract {
    /// In an order that satisfies their references.
    pub tables: Vec<Table>,
}

/// A table of Quay's.
#[derive(Debug, Deserialize)]
pub struct Table {
    /// Its name.
    #[serde(rename = "table")]
    pub name: String,
    /// What we need it for.
    pub why: String,
    /// Capabilities, and workers, that stay with Python when this table is not as described.
    pub needed_by: Vec<String>,
    /// Columns we read or write.
    pub columns: Vec<Column>,
    /// Columns that only pushes read or write: where they differ, pushes alone stay with Python.
    #[serde(default)]
    pub push: Vec<Column>,
    /// Columns that only the worker that fills mirrors reads or writes.
    #[serde(default)]
    pub mirroring: Vec<Column>,
    /// Columns we never touch; they only give a rendered table its real shape.
    #[serde(default)]
    pub shape: Vec<Column>,
    /// Columns of each unique index.
    #[serde(default)]
    pub unique: Vec<Vec<String>>,
    /// Columns of each other index that our statements lean on.
    #[serde(default)]
    pub indexes: Vec<Vec<String>>,
    /// Values of `name` that a rendered table has, for a table of enumerated names.
    #[serde(default)]
    pub rows: Vec<String>,
}

/// Written in one line: `name type [null] [= default] [-> referenced table]`.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// What the server fills in, as SQL.
    pub default: Option<String>,
    /// The table whose id it holds.
    pub references: Option<String>,
}

/// The types that Quay's columns have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    /// A primary key that fits an `i32`.
    Serial,
    /// A primary key that fits an `i64`.
    BigSerial,
    /// 32 bits.
    Integer,
    /// 64 bits.
    BigInt,
    /// Text up to this length.
    Varchar(u16),
    /// Text of any length.
    Text,
    /// True or false.
    Boolean,
    /// Without time zone.
    Timestamp,
    /// A day.
    Date,
}

/// As far as types must agree: what Rust type a column is read into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    /// `i32`
    Integer,
    /// `i64`
    BigInt,
    /// `String`
    Text,
    /// `bool`
    Boolean,
    /// `NaiveDateTime`
    Timestamp,
    /// `NaiveDate`
    Date,
}

/// A column as the live database describes it (`information_schema.columns`).
#[derive(Clone, Debug)]
pub struct LiveColumn {
    /// `table_name`
    pub table: String,
    /// `column_name`
    pub column: String,
    /// `data_type`
    pub data_type: String,
    /// `is_nullable`
    pub nullable: bool,
    /// Whether its integers have any size, as SQLite's do, whatever its type is called.
    pub any_size: bool,
}

/// One way in which a live database is not what we rely on.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// The table of the contract.
    pub table: String,
    /// None when the table as a whole is missing.
    pub column: Option<String>,
    /// What is wrong.
    pub problem: Problem,
    /// The capabilities that cannot be ours because of it.
    pub capabilities: Vec<String>,
}

/// What can be wrong with a live database.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// There is no such table.
    MissingTable,
    /// The table has no such column.
    MissingColumn,
    /// The live type, which belongs to another family than ours.
    OtherType {
        /// What we read the column into.
        expected: Family,
        /// The live type.
        found: String,
    },
    /// We rely on a value, the live column may have none.
    Nullable,
}

/// The capability of pushes.
const PUSH: &str = "V2_PUSH";

/// The worker that fills mirrors, by Quay's name for it. It pushes what it fetches.
pub const MIRRORING: &str = "repomirrorworker";

/// The contract this binary was built with.
#[expect(clippy::expect_used, reason = "the file is part of the binary; a test loads it")]
pub fn contract() -> &'static Contract {
    static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
        config::Config::builder()
            .add_source(config::File::from_str(
                include_str!("../../conf/schema.yaml"),
                config::FileFormat::Yaml,
            ))
            .build()
            .and_then(config::Config::try_deserialize)
            .expect("conf/schema.yaml is well-formed")
    });
    &CONTRACT
}

/// What keeps us from relying on the live database. Extra tables and columns are fine, and so is
/// a column that is stricter (NOT NULL) than we need.
pub fn compare(contract: &Contract, live: &[LiveColumn]) -> Vec<Drift> {
    let mut tables: BTreeMap<&str, BTreeMap<&str, &LiveColumn>> = BTreeMap::new();
    for column in live {
        tables.entry(&column.table).or_default().insert(&column.column, column);
    }
    let mut drifts = Vec::new();
    for table in contract.tables.iter().filter(|table| !table.columns.is_empty()) {
        let Some(found) = tables.get(table.name.as_str()) else {
            drifts.push(table.drift(None, Problem::MissingTable));
            continue;
        };
        let problem = |column: &Column| column.problem(found.get(column.name.as_str()).copied());
        for column in &table.columns {
            drifts.extend(problem(column).map(|found| table.drift(Some(&column.name), found)));
        }
        for (columns, needed_by) in [(&table.push, PUSH), (&table.mirroring, MIRRORING)] {
            for column in columns {
                let drift = problem(column).map(|found| table.drift(Some(&column.name), found));
                let capabilities = vec![needed_by.to_owned()];
                drifts.extend(drift.map(|drift| Drift { capabilities, ..drift }));
            }
        }
    }
    for Drift { capabilities, .. } in &mut drifts {
        if capabilities.iter().any(|name| name == PUSH) {
            capabilities.push(MIRRORING.to_owned());
        }
    }
    drifts
}

impl Table {
    /// Every column of a rendered table.
    fn all_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().chain(&self.push).chain(&self.mirroring).chain(&self.shape)
    }

    fn index_statements(&self) -> impl Iterator<Item = String> {
        let name = &self.name;
        let unique = self.unique.iter().map(|columns| ("UNIQUE INDEX", columns));
        let others = self.indexes.iter().map(|columns| ("INDEX", columns));
        unique.chain(others).map(move |(kind, columns)| {
            let index = format!("{name}_{}", columns.join("_"));
            format!("CREATE {kind} \"{index}\" ON \"{name}\" (\"{}\")", columns.join("\", \""))
        })
    }

    fn row_statements(&self) -> impl Iterator<Item = String> {
        let name = &self.name;
        self.rows.iter().map(move |row| format!("INSERT INTO \"{name}\" (name) VALUES ('{row}')"))
    }

    fn drift(&self, column: Option<&str>, problem: Problem) -> Drift {
        Drift {
            table: self.name.clone(),
            column: column.map(str::to_owned),
            problem,
            capabilities: self.needed_by.clone(),
        }
    }
}

impl Column {
    fn problem(&self, live: Option<&LiveColumn>) -> Option<Problem> {
        let Some(live) = live else {
            return Some(Problem::MissingColumn);
        };
        let expected = self.ty.family();
        let found = Family::of_live(&live.data_type);
        let integers = [Some(Family::Integer), Some(Family::BigInt)];
        let fits = live.any_size && integers.contains(&found) && integers.contains(&Some(expected));
        if found != Some(expected) && !fits {
            return Some(Problem::OtherType { expected, found: live.data_type.clone() });
        }
        (live.nullable && !self.nullable).then_some(Problem::Nullable)
    }
}

impl Type {
    /// What values of this type are read into.
    pub fn family(self) -> Family {
        match self {
            Type::Serial | Type::Integer => Family::Integer,
            Type::BigSerial | Type::BigInt => Family::BigInt,
            Type::Varchar(_) | Type::Text => Family::Text,
            Type::Boolean => Family::Boolean,
            Type::Timestamp => Family::Timestamp,
            Type::Date => Family::Date,
        }
    }
}

impl Family {
    /// The family of a type as `information_schema` or a schema dump spells it.
    fn of_live(data_type: &str) -> Option<Family> {
        let name = data_type.split('(').next().unwrap_or_default().trim();
        Some(match name.to_ascii_lowercase().as_str() {
            "integer" => Family::Integer,
            "bigint" => Family::BigInt,
            "character varying" | "varchar" | "text" => Family::Text,
            "boolean" => Family::Boolean,
            "timestamp" | "timestamp without time zone" | "datetime" => Family::Timestamp,
            "date" => Family::Date,
            _ => return None,
        })
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "{}.{column}: ", self.table)?,
            None => write!(f, "{}: ", self.table)?,
        }
        match &self.problem {
            Problem::MissingTable => write!(f, "the table is missing"),
            Problem::MissingColumn => write!(f, "the column is missing"),
            Problem::OtherType { expected, found } => {
                write!(f, "is {found}, we rely on {}", format!("{expected:?}").to_lowercase())
            }
            Problem::Nullable => write!(f, "may be NULL, we rely on a value"),
        }
    }
}

impl TryFrom<String> for Column {
    type Error = String;

    fn try_from(line: String) -> Result<Self, String> {
        let bad = |what: &str| format!("column `{line}`: {what}");
        let mut words = line.split_whitespace();
        let name = words.next().ok_or_else(|| bad("no name"))?.to_owned();
        let ty =
            words.next().ok_or_else(|| bad("no type"))?.parse().map_err(|e: String| bad(&e))?;
        let mut column = Column { name, ty, nullable: false, default: None, references: None };
        while let Some(word) = words.next() {
            match word {
                "null" => column.nullable = true,
                "=" => {
                    column.default =
                        Some(words.next().ok_or_else(|| bad("no default after ="))?.to_owned())
                }
                "->" => {
                    column.references =
                        Some(words.next().ok_or_else(|| bad("no table after ->"))?.to_owned())
                }
                other => return Err(bad(&format!("`{other}` is neither null, = nor ->"))),
            }
        }
        Ok(column)
    }
}

impl FromStr for Type {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let length = |w: &str| w.strip_prefix("varchar(")?.strip_suffix(')')?.parse().ok();
        Ok(match word {
            "serial" => Type::Serial,
            "bigserial" => Type::BigSerial,
            "integer" => Type::Integer,
            "bigint" => Type::BigInt,
            "text" => Type::Text,
            "boolean" => Type::Boolean,
            "timestamp" => Type::Timestamp,
            "date" => Type::Date,
            other => Type::Varchar(length(other).ok_or_else(|| format!("unknown type `{other}`"))?),
        })
    }
}
