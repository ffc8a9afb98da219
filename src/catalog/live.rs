//! The columns that the database has, to be held against the schema contract.

use super::connection::Session;
use super::error::CatalogError;
use super::schema::LiveColumn;

const SELECT: &str = "\
    SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'YES' \
    FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false))";

impl Session<'_> {
    /// Every column of every table on the search path.
    pub async fn live_columns(&self) -> Result<Vec<LiveColumn>, CatalogError> {
        let rows = self.query(SELECT, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| LiveColumn {
                table: row.get(0),
                column: row.get(1),
                data_type: row.get(2),
                nullable: row.get(3),
            })
            .collect())
    }
}
