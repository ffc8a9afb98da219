//! Quay's lookup tables (contract §3.1). Their ids differ between installations.

use std::collections::HashMap;

use super::connection::Session;
use super::error::CatalogError;

const SELECT: &str = "\
    SELECT 'visibility' AS kind, id, name FROM visibility \
    UNION ALL SELECT 'repositorykind', id, name FROM repositorykind \
    UNION ALL SELECT 'mediatype', id, name FROM mediatype \
    UNION ALL SELECT 'logentrykind', id, name FROM logentrykind \
    UNION ALL SELECT 'imagestoragelocation', id, name FROM imagestoragelocation";

/// The rows of the lookup tables. Migrations add rows, nothing else does, and a migration
/// restarts the container; so they are read once.
#[derive(Default)]
pub(super) struct Enums(HashMap<String, Table>);

#[derive(Default)]
struct Table {
    names: HashMap<i32, String>,
    ids: HashMap<String, i32>,
}

impl Enums {
    pub(super) async fn load(session: &Session<'_>) -> Result<Self, CatalogError> {
        let mut enums = Self::default();
        for row in session.counted_as("enums").query(SELECT, &[]).await? {
            let (kind, id, name): (String, i32, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let table = enums.0.entry(kind).or_default();
            table.names.insert(id, name.clone());
            table.ids.insert(name, id);
        }
        Ok(enums)
    }

    /// The name of row `id` of `table`.
    pub(super) fn name(&self, table: &str, id: i32) -> Result<&str, CatalogError> {
        let name = self.0.get(table).and_then(|table| table.names.get(&id));
        name.map(String::as_str).ok_or_else(|| missing(table, &id.to_string()))
    }

    /// The id of the row called `name` in `table`.
    pub(super) fn id(&self, table: &str, name: &str) -> Result<i32, CatalogError> {
        let id = self.0.get(table).and_then(|table| table.ids.get(name));
        id.copied().ok_or_else(|| missing(table, name))
    }
}

fn missing(table: &str, row: &str) -> CatalogError {
    CatalogError::Refused { route: "enums", reason: format!("table {table} has no row {row}") }
}
