//! The columns that the database has, to be held against the schema contract.

use super::connection::Session;
use super::error::CatalogError;
use super::schema::LiveColumn;
use super::value::{Row, Sql};

const SELECT: Sql = Sql {
    postgres: "\
        SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'YES' \
        FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false))",
    // A primary key is never NULL, though nothing says so.
    sqlite: "\
        SELECT t.name, c.name, c.type, NOT (c.\"notnull\" OR c.pk) \
        FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'",
};

impl Session<'_> {
    /// Every column of every table on the search path.
    pub async fn live_columns(&self) -> Result<Vec<LiveColumn>, CatalogError> {
        let rows = self.query(SELECT, &[]).await?;
        let any_size = self.sqlite().is_some();
        let column = |row: &Row| {
            Ok(LiveColumn {
                any_size,
                table: row.get(0)?,
                column: row.get(1)?,
                data_type: row.get(2)?,
                nullable: row.get(3)?,
            })
        };
        rows.iter().map(column).collect()
    }
}
