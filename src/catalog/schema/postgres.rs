//! The contract rendered as a PostgreSQL database.

use std::fmt::{self, Write as _};

use super::{Column, Contract, Table, Type};

impl Contract {
    /// Statements that make an empty PostgreSQL database one that this contract describes.
    pub fn ddl_postgres(&self) -> String {
        let mut sql = String::new();
        for table in &self.tables {
            postgres_table(&mut sql, table).expect("writing to a string cannot fail");
        }
        sql
    }
}

fn postgres_table(sql: &mut String, table: &Table) -> fmt::Result {
    // `user` is a reserved word, so every name is quoted.
    let name = &table.name;
    writeln!(sql, "CREATE TABLE \"{name}\" (")?;
    for column in table.columns.iter().chain(&table.shape) {
        writeln!(sql, "    {},", postgres_column(column))?;
    }
    writeln!(sql, "    PRIMARY KEY (id)\n);")?;
    let unique = table.unique.iter().map(|columns| ("UNIQUE INDEX", columns));
    for (kind, columns) in unique.chain(table.indexes.iter().map(|columns| ("INDEX", columns))) {
        let quoted: Vec<_> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        writeln!(
            sql,
            "CREATE {kind} \"{name}_{}\" ON \"{name}\" ({});",
            columns.join("_"),
            quoted.join(", ")
        )?;
    }
    for row in &table.rows {
        writeln!(sql, "INSERT INTO \"{name}\" (name) VALUES ('{row}');")?;
    }
    Ok(())
}

fn postgres_column(column: &Column) -> String {
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
