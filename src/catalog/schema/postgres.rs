//! The contract rendered as a PostgreSQL database.

use super::{Column, Contract, Table, Type};

impl Contract {
    /// Statements that make an empty PostgreSQL database one that this contract describes.
    pub fn ddl_postgres(&self) -> String {
        self.tables.iter().flat_map(statements).map(|sql| sql + ";\n").collect()
    }
}

/// `user` is a reserved word, so every name is quoted.
fn statements(table: &Table) -> Vec<String> {
    let name = &table.name;
    let mut lines: Vec<String> = table.all_columns().map(column).collect();
    lines.push("PRIMARY KEY (id)".to_owned());
    let mut statements =
        vec![format!("CREATE TABLE \"{name}\" (\n    {}\n)", lines.join(",\n    "))];
    statements.extend(table.index_statements());
    statements.extend(table.row_statements());
    statements
}

fn column(column: &Column) -> String {
    let ty = match column.ty {
        Type::Serial => "serial".to_owned(),
        Type::BigSerial => "bigserial".to_owned(),
        Type::Integer => "integer".to_owned(),
        Type::BigInt => "bigint".to_owned(),
        Type::Varchar(length) => format!("varchar({length})"),
        Type::Text => "text".to_owned(),
        Type::Boolean => "boolean".to_owned(),
        Type::Timestamp => "timestamp without time zone".to_owned(),
        Type::Date => "date".to_owned(),
    };
    let mut sql = format!("\"{}\" {ty}", column.name);
    if !column.nullable {
        sql += " NOT NULL";
    }
    if let Some(default) = &column.default {
        sql += &format!(" DEFAULT {default}");
    }
    if let Some(table) = &column.references {
        sql += &format!(" REFERENCES \"{table}\" (id)");
    }
    sql
}
