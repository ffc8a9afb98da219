//! The labels of manifests (contract §4.4 steps 6 and 8).

use uuid::Uuid;

use super::enums::Enums;
use super::error::CatalogError;
use super::transaction::Transaction;
use super::value::Sql;
use crate::oci::manifest::{EXPIRES_AFTER, IMMUTABLE, Label};

macro_rules! insert {
    ($rows:literal, $value:literal, $int:literal) => {
        concat!(
            "INSERT INTO label (uuid, key, value, media_type_id, source_type_id) SELECT ",
            $value,
            " ->> 0, ",
            $value,
            " ->> 1, ",
            $value,
            " ->> 2, (",
            $value,
            " ->> 3)",
            $int,
            ", s.id FROM ",
            $rows,
            " JOIN labelsourcetype s ON s.name = 'manifest'"
        )
    };
}

/// `$1` the rows, in JSON: many labels are one statement.
const INSERT: Sql = Sql {
    postgres: insert!("json_array_elements($1::json) e", "e", "::int4"),
    sqlite: insert!("json_each($1) e", "e.value", ""),
};

macro_rules! link {
    ($among:literal) => {
        concat!(
            "INSERT INTO manifestlabel (repository_id, manifest_id, label_id) \
             SELECT $1, $2, l.id FROM label l WHERE l.uuid ",
            $among,
            " ORDER BY l.id"
        )
    };
}

const LINK: Sql =
    Sql { postgres: link!("= ANY ($3)"), sqlite: link!("IN (SELECT value FROM json_each($3))") };

/// `$2` and `$3` keys.
const OF_MANIFEST: &str = "\
    SELECT l.key, l.value FROM manifestlabel ml JOIN label l ON l.id = ml.label_id \
    WHERE ml.manifest_id = $1 AND l.key IN ($2, $3) ORDER BY l.id";

/// What all children of a list have in common.
const OF_CHILDREN: &str = "\
    SELECT l.key, l.value FROM manifestchild c \
    JOIN manifestlabel ml ON ml.manifest_id = c.child_manifest_id \
    JOIN label l ON l.id = ml.label_id \
    WHERE c.manifest_id = $1 AND l.key IN ($2, $3) GROUP BY l.key, l.value \
    HAVING count(DISTINCT c.child_manifest_id) = \
        (SELECT count(*) FROM manifestchild x WHERE x.manifest_id = $1)";

/// The labels that a new tag of the manifest obeys.
#[derive(Debug, Default)]
pub(super) struct Obeyed {
    pub(super) expires_after: Option<String>,
    pub(super) immutable: Option<String>,
}

impl Obeyed {
    fn note(&mut self, key: &str, value: &str) {
        match key {
            EXPIRES_AFTER => self.expires_after = Some(value.to_owned()),
            IMMUTABLE => self.immutable = Some(value.to_owned()),
            _ => {}
        }
    }
}

impl Transaction<'_> {
    /// Stores the labels of a new manifest.
    pub(super) async fn label(
        &mut self,
        repository_id: i32,
        manifest_id: i32,
        labels: &[Label],
        enums: &Enums,
    ) -> Result<(), CatalogError> {
        if labels.is_empty() {
            return Ok(());
        }
        let uuids: Vec<String> = labels.iter().map(|_| Uuid::new_v4().to_string()).collect();
        let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
        let mut rows = Vec::new();
        for (label, uuid) in labels.iter().zip(&uuids) {
            let media_type = enums.id("mediatype", label.media_type.as_str())?;
            rows.push((uuid, &label.key, &label.value, media_type));
        }
        let rows = serde_json::json!(rows).to_string();
        self.query(INSERT, &[(&rows).into()]).await?;
        let params = [repository_id.into(), manifest_id.into(), super::value::Param::Texts(&uuids)];
        self.query(LINK, &params).await.map(drop)
    }

    /// What the tags of a manifest obey: of a list, what its children agree on.
    pub(super) async fn obeyed(
        &mut self,
        manifest_id: i32,
        list: bool,
    ) -> Result<Obeyed, CatalogError> {
        let sql = if list { OF_CHILDREN } else { OF_MANIFEST };
        let params = [manifest_id.into(), EXPIRES_AFTER.into(), IMMUTABLE.into()];
        let mut obeyed = Obeyed::default();
        for row in self.query(sql, &params).await? {
            obeyed.note(row.get(0)?, row.get(1)?);
        }
        Ok(obeyed)
    }
}
