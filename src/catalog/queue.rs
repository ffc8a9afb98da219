//! What Quay's workers are to do: rows of `queueitem` (contract §4.10, §4.11).

use chrono::Utc;
use uuid::Uuid;

use super::error::CatalogError;
use super::transaction::Transaction;
use super::value::Sql;

macro_rules! insert {
    ($rows:literal, $value:literal) => {
        concat!(
            "INSERT INTO queueitem (queue_name, body, available_after, available, \
                 retries_remaining, state_id) \
             SELECT ",
            $value,
            " ->> 0, ",
            $value,
            " ->> 1, $2, true, 5, ",
            $value,
            " ->> 2 FROM ",
            $rows
        )
    };
}

/// `$1` the rows, in JSON.
const INSERT: Sql = Sql {
    postgres: insert!("json_array_elements($1::json) e", "e"),
    sqlite: insert!("json_each($1) e", "e.value"),
};

const NOTIFICATIONS: &str = "\
    SELECT n.uuid FROM repositorynotification n \
    JOIN externalnotificationevent e ON e.id = n.event_id \
    WHERE n.repository_id = $1 AND e.name = 'repo_push' ORDER BY n.id";

const BLOBS: &str = "\
    SELECT s.uuid FROM manifestblob b JOIN imagestorage s ON s.id = b.blob_id \
    WHERE b.manifest_id = $1 ORDER BY s.id";

impl Transaction<'_> {
    /// Tells everybody who wants to know of a push. `event` is the body of such an item, after the
    /// notification's uuid.
    pub(super) async fn notify(
        &mut self,
        repository_id: i32,
        queue: &str,
        event: &str,
    ) -> Result<(), CatalogError> {
        let rows = self.query(NOTIFICATIONS, &[repository_id.into()]).await?;
        let uuids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
        self.announce(&uuids, queue, event).await
    }

    /// The same to the notifications of these uuids.
    pub(super) async fn announce(
        &mut self,
        uuids: &[&str],
        queue: &str,
        event: &str,
    ) -> Result<(), CatalogError> {
        let item = |uuid: &&str| {
            (queue.to_owned(), format!("{{\"notification_uuid\": \"{uuid}\", {event}"))
        };
        let items: Vec<(String, String)> = uuids.iter().map(item).collect();
        self.enqueue(&items).await
    }

    /// Has every blob of a manifest copied to where its namespace wants it.
    pub(super) async fn replicate(
        &mut self,
        manifest_id: i32,
        namespace_id: i32,
        queue: &str,
    ) -> Result<(), CatalogError> {
        let rows = self.query(BLOBS, &[manifest_id.into()]).await?;
        let mut items = Vec::new();
        for row in &rows {
            let uuid: &str = row.get(0)?;
            let body =
                format!("{{\"namespace_user_id\": {namespace_id}, \"storage_id\": \"{uuid}\"}}");
            items.push((format!("{queue}/{uuid}/"), body));
        }
        self.enqueue(&items).await
    }

    /// Queues' names and bodies.
    pub(super) async fn enqueue(&mut self, items: &[(String, String)]) -> Result<(), CatalogError> {
        if items.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> =
            items.iter().map(|(queue, body)| (queue, body, Uuid::new_v4().to_string())).collect();
        let rows = serde_json::json!(rows).to_string();
        let params = [(&rows).into(), Utc::now().naive_utc().into()];
        self.query(INSERT, &params).await.map(drop)
    }
}
