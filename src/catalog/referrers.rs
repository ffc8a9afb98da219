//! Manifests that refer to another one by its digest (contract §1.6.3).

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::{Repository, repository_columns, repository_named};
use super::value::{Param, Sql};
use crate::oci::RepoName;

/// What was found for a referrers request.
#[derive(Debug)]
pub struct Referrers {
    /// The repository of the request.
    pub repository: Repository,
    /// In the order of their ids; none where they are too large together.
    pub manifests: Result<Vec<Referrer>, TooLarge>,
    /// The manifest of the fallback tag, for clients from before the referrers API.
    pub fallback: Option<Referrer>,
}

/// A manifest as it is stored.
#[derive(Debug)]
pub struct Referrer {
    /// Its digest.
    pub digest: String,
    /// `mediatype.name`
    pub media_type: String,
    /// The bytes that were pushed.
    pub bytes: String,
}

/// Manifests that would be more bytes than the caller takes, together.
#[derive(Debug)]
pub struct TooLarge;

/// `$3` subject, `$4` artifact type or NULL, `$5` fallback tag, `$6` now in milliseconds, `$7`
/// limit of rows, `$8` of bytes: beyond it none of them is sent. Whether the referrers themselves
/// are alive is not looked at, as in Quay. An image without an artifact type has that of its config,
/// as the OCI spec has it.
const REFERRERS: &str = concat!(
    "WITH repo (id, namespace_id, visibility_id, kind_id, free, cached) AS (SELECT ",
    repository_columns!(),
    " FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id",
    repository_named!(),
    "), found (id, fallback) AS ( \
         SELECT m.id, 0 FROM repo JOIN manifest m ON m.repository_id = repo.id \
             WHERE m.subject = $3 AND ($4 IS NULL \
                 OR COALESCE(m.artifact_type, m.config_media_type) = $4) \
         UNION ALL SELECT t.manifest_id, 1 FROM repo JOIN tag t ON t.repository_id = repo.id \
             WHERE t.name = $5 AND NOT t.hidden \
             AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $6)) \
     SELECT repo.id, repo.namespace_id, repo.visibility_id, repo.kind_id, repo.free, repo.cached, \
         found.fallback, m.digest, m.media_type_id, \
         CASE WHEN sum(octet_length(m.manifest_bytes)) OVER () <= $8 THEN m.manifest_bytes END \
     FROM repo LEFT JOIN found ON true LEFT JOIN manifest m ON m.id = found.id \
     ORDER BY found.fallback DESC, m.id LIMIT $7"
);

/// `$1` `repository.id`, `$2` digests, `$3` limit of bytes.
macro_rules! by_digests {
    ($among:literal) => {
        concat!(
            "SELECT digest, media_type_id, \
                CASE WHEN sum(octet_length(manifest_bytes)) OVER () <= $3 THEN manifest_bytes END \
            FROM manifest WHERE repository_id = $1 AND digest ",
            $among
        )
    };
}

const BY_DIGESTS: Sql = Sql {
    postgres: by_digests!("= ANY ($2)"),
    sqlite: by_digests!("IN (SELECT value FROM json_each($2))"),
};

impl Session<'_> {
    /// Up to `most` manifests whose subject is `subject`, of one artifact type or of any; `None`
    /// without a repository. Together they have `most_bytes` at most.
    pub async fn referrers(
        &self,
        name: &RepoName,
        subject: &str,
        artifact_type: Option<&str>,
        now_ms: i64,
        (most, most_bytes): (i64, i64),
    ) -> Result<Option<Referrers>, CatalogError> {
        let fallback = subject.replacen(':', "-", 1);
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            subject.into(),
            artifact_type.into(),
            fallback.as_str().into(),
            now_ms.into(),
            most.into(),
            most_bytes.into(),
        ];
        let rows = self.query(REFERRERS, &params).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let enums = self.enums().await?;
        let repository = Repository::from_row(first, enums)?;
        let (mut manifests, mut fallback) = (Vec::new(), None);
        for row in &rows {
            // Without any there is one row, and no digest in it.
            let Some(digest) = row.get(7)? else { continue };
            let Some(bytes) = row.get(9)? else {
                return Ok(Some(Referrers {
                    repository,
                    manifests: Err(TooLarge),
                    fallback: None,
                }));
            };
            let media_type = enums.name("mediatype", row.get(8)?)?.to_owned();
            let referrer = Referrer { digest, media_type, bytes };
            match row.get::<i32>(6)? {
                0 => manifests.push(referrer),
                _ => fallback = Some(referrer),
            }
        }
        Ok(Some(Referrers { repository, manifests: Ok(manifests), fallback }))
    }

    /// Those of `digests` that a repository has, in any order.
    pub async fn manifests_by_digest(
        &self,
        repository_id: i32,
        digests: &[&str],
        most_bytes: i64,
    ) -> Result<Result<Vec<Referrer>, TooLarge>, CatalogError> {
        let params = [repository_id.into(), Param::Texts(digests), most_bytes.into()];
        let enums = self.enums().await?;
        let rows = self.query(BY_DIGESTS, &params).await?;
        let mut found = Vec::new();
        for row in &rows {
            let Some(bytes) = row.get(2)? else { return Ok(Err(TooLarge)) };
            let media_type = enums.name("mediatype", row.get(1)?)?.to_owned();
            found.push(Referrer { digest: row.get(0)?, media_type, bytes });
        }
        Ok(Ok(found))
    }
}
