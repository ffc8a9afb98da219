//! The contract rendered as an SQLite database.

use super::{Column, Contract, Table, Type};

impl Contract {
    /// Statements that make an empty SQLite database one that this contract describes.
    pub fn ddl_sqlite(&self) -> String {
        self.tables.iter().flat_map(statements).map(|sql| sql + ";\n").collect()
    }
}

fn statements(table: &Table) -> Vec<String> {
    let name = &table.name;
    let columns: Vec<String> = table.all_columns().map(column).collect();
    let mut statements = vec![format!("CREATE TABLE \"{name}\" ({})", columns.join(", "))];
    statements.extend(table.index_statements());
    statements.extend(table.row_statements());
    statements
}

/// Types are named as Quay's own migrations name them on SQLite.
fn column(column: &Column) -> String {
    let ty = match column.ty {
        // Only this spelling makes the row's own number of it, which never is NULL.
        Type::Serial | Type::BigSerial => "INTEGER NOT NULL PRIMARY KEY".to_owned(),
        Type::Integer => "INTEGER".to_owned(),
        Type::BigInt => "BIGINT".to_owned(),
        Type::Varchar(length) => format!("VARCHAR({length})"),
        Type::Text => "TEXT".to_owned(),
        Type::Boolean => "BOOLEAN".to_owned(),
        Type::Timestamp => "DATETIME".to_owned(),
        Type::Date => "DATE".to_owned(),
    };
    let serial = matches!(column.ty, Type::Serial | Type::BigSerial);
    let not_null = if column.nullable || serial { "" } else { " NOT NULL" };
    let mut sql = format!("\"{}\" {ty}{not_null}", column.name);
    if let Some(default) = &column.default {
        sql += &format!(" DEFAULT {default}");
    }
    if let Some(table) = &column.references {
        sql += &format!(" REFERENCES \"{table}\" (id)");
    }
    sql
}
