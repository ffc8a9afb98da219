//! Repositories that follow another registry: `repomirrorconfig` and its rule (contract §7.1, §7.2).

use std::collections::HashSet;

use chrono::{NaiveDateTime, Utc};

use super::claims::{ClaimTable, Claimable, Schedule, SyncStatus};
use super::connection::Session;
use super::error::CatalogError;
use super::value::{Param, Row, Sql};
use crate::oci::RepoName;

/// A mirror, as it was read.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// `repomirrorconfig.id`
    pub id: i32,
    /// `repository.id`
    pub repository_id: i32,
    /// `user.id` of the namespace.
    pub namespace_id: i32,
    /// What it is called here.
    pub name: RepoName,
    /// `user.id` of the robot in whose name it is filled.
    pub robot_id: i32,
    /// Its user name.
    pub robot: String,
    /// `is_enabled`
    pub enabled: bool,
    /// `host[:port]/path`, without a scheme or a tag.
    pub external_reference: String,
    /// Encrypted.
    pub username: Option<String>,
    /// Encrypted.
    pub password: Option<String>,
    /// JSON: `verify_tls`, `unsigned_images`, `proxy`.
    pub external_registry_config: String,
    /// JSON: names of architectures; none of them is all of them.
    pub architecture_filter: Option<String>,
    /// JSON: globs of tags.
    pub rule_value: String,
    /// Its state.
    pub status: SyncStatus,
    /// When the next sync is due, UTC.
    pub start: Option<NaiveDateTime>,
    /// When the claim of a worker ends, UTC.
    pub expiration: Option<NaiveDateTime>,
    /// Syncs that may fail before the next one waits for its interval.
    pub retries: i32,
    /// Seconds between two syncs.
    pub interval_s: i32,
    /// Seconds that one operation may take.
    pub timeout_s: i64,
    /// Whoever wrote it owns the mirror.
    pub transaction_id: Option<String>,
}

/// A repository that is filled, whose it is, and whose robot fills it.
#[derive(Clone, Debug)]
pub struct Destination {
    /// `repository.id`
    pub repository_id: i32,
    /// `user.id` of the namespace.
    pub namespace_id: i32,
    /// What it is called.
    pub name: RepoName,
    /// `user.id` of the robot.
    pub robot_id: i32,
    /// Its user name.
    pub robot: String,
    /// Whether it is filled with the rest of its organization.
    pub of_organization: bool,
}

/// An alive tag that users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveTag {
    /// Its name.
    pub name: String,
    /// `manifest.digest` of what it points to.
    pub digest: String,
    /// `mediatype.name` of that.
    pub media_type: String,
    /// When it will end, milliseconds.
    pub lifetime_end_ms: Option<i64>,
}

macro_rules! mirrors {
    ($which:literal) => {
        concat!(
            "SELECT c.id, r.id, n.id, n.username, r.name, c.internal_robot_id, b.username, \
                 c.is_enabled, c.external_reference, c.external_registry_username, \
                 c.external_registry_password, c.external_registry_config, \
                 c.architecture_filter, u.rule_value, c.sync_status, c.sync_start_date, \
                 c.sync_expiration_date, c.sync_retries_remaining, c.sync_interval, \
                 c.skopeo_timeout, c.sync_transaction_id \
             FROM repomirrorconfig c JOIN repository r ON r.id = c.repository_id \
             JOIN \"user\" n ON n.id = r.namespace_user_id \
             JOIN \"user\" b ON b.id = c.internal_robot_id \
             JOIN repomirrorrule u ON u.id = c.root_rule_id WHERE ",
            $which
        )
    };
}

/// `$1` now, `$2` how many. Quay's three kinds; the third, whose worker is gone, whenever its claim
/// has ended: Quay selects it and never claims it.
const DUE: &str = mirrors!(
    "r.state = 2 AND ((c.sync_status = 3 AND c.sync_expiration_date IS NULL) \
     OR (c.is_enabled AND c.sync_start_date <= $1 AND c.sync_retries_remaining > 0 \
         AND c.sync_status NOT IN (2, 3, -2) AND c.sync_expiration_date IS NULL) \
     OR (c.sync_status = 2 AND c.sync_expiration_date <= $1)) \
     ORDER BY CASE WHEN c.sync_status = 3 THEN 0 ELSE 1 END, c.sync_start_date, c.id LIMIT $2"
);

const NAMED: &str = mirrors!("n.username = $1 AND r.name = $2 AND r.state <> 3");

const ALL: &str = mirrors!("r.state = 2 ORDER BY n.username, r.name LIMIT $1");

/// `$2` now in milliseconds.
const ALIVE: &str = "\
    SELECT t.name, m.digest, m.media_type_id, t.lifetime_end_ms FROM tag t \
    JOIN manifest m ON m.id = t.manifest_id \
    WHERE t.repository_id = $1 AND NOT t.hidden \
    AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $2) ORDER BY t.id";

const BYTES: &str = "SELECT manifest_bytes FROM manifest WHERE repository_id = $1 AND digest = $2";

/// What a list keeps, dead or alive itself.
const LINKED: &str = "\
    SELECT c.digest FROM manifest p JOIN manifestchild l ON l.manifest_id = p.id \
    JOIN manifest c ON c.id = l.child_manifest_id WHERE p.repository_id = $1 AND p.digest = $2";

macro_rules! link {
    () => {
        "INSERT INTO manifestchild (repository_id, manifest_id, child_manifest_id) \
         SELECT p.repository_id, p.id, c.id FROM manifest p \
         JOIN manifest c ON c.repository_id = p.repository_id \
         WHERE p.repository_id = $1 AND p.digest = $2 AND "
    };
}

/// `$3` digests of manifests that the list `$2` is to keep.
const LINK: Sql = Sql {
    postgres: concat!(
        link!(),
        "c.digest = ANY ($3) AND NOT EXISTS (SELECT 1 FROM manifestchild l \
             WHERE l.manifest_id = p.id AND l.child_manifest_id = c.id) ON CONFLICT DO NOTHING"
    ),
    sqlite: concat!(
        link!(),
        "c.digest IN (SELECT value FROM json_each($3)) AND NOT EXISTS (SELECT 1 FROM manifestchild l \
             WHERE l.manifest_id = p.id AND l.child_manifest_id = c.id) ON CONFLICT DO NOTHING"
    ),
};

/// Digests among `$4` whose blobs are in repositories that `$of` says.
macro_rules! fetched {
    ($of:literal) => {
        Sql {
            postgres: concat!(fetched!(), $of, " AND s.content_checksum = ANY ($4)"),
            sqlite: concat!(
                fetched!(),
                $of,
                " AND s.content_checksum IN (SELECT value FROM json_each($4))"
            ),
        }
    };
    () => {
        "SELECT DISTINCT s.content_checksum FROM imagestorage s \
         JOIN manifestblob mb ON mb.blob_id = s.id \
         JOIN repository r ON r.id = mb.repository_id "
    };
}

/// `$1` `user.id` of the namespace, `$2` of the robot, `$3` the source's host and a slash, `$4`
/// digests.
const FETCHED: Sql = fetched!(
    "JOIN repomirrorconfig c ON c.repository_id = r.id \
     WHERE r.state = 2 AND r.namespace_user_id = $1 AND c.internal_robot_id = $2 \
     AND substr(c.external_reference, 1, length($3)) = $3"
);

/// The same, `$3` at the beginning of a URL.
const FETCHED_BY_ORGANIZATION: Sql = fetched!(
    "JOIN orgmirrorrepository m ON m.repository_id = r.id \
     JOIN orgmirrorconfig c ON c.id = m.org_mirror_config_id \
     WHERE r.state = 4 AND c.organization_id = $1 AND c.internal_robot_id = $2 \
     AND $3 IN (substr(c.external_registry_url || '/', 8, length($3)), \
         substr(c.external_registry_url || '/', 9, length($3)))"
);

const EVENT: &str = "\
    SELECT n.uuid FROM repositorynotification n \
    JOIN externalnotificationevent e ON e.id = n.event_id \
    WHERE n.repository_id = $1 AND e.name = $2 ORDER BY n.id";

impl Session<'_> {
    /// Up to `most` mirrors that are due: those that somebody asked for first.
    pub async fn due_mirrors(&self, most: usize) -> Result<Vec<Mirror>, CatalogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.query(DUE, &[Utc::now().naive_utc().into(), most.into()]).await?;
        rows.iter().map(Mirror::from_row).collect()
    }

    /// The mirror of this name.
    pub async fn mirror(&self, name: &RepoName) -> Result<Option<Mirror>, CatalogError> {
        let params = [name.namespace.as_str().into(), name.repository.as_str().into()];
        let rows = self.query(NAMED, &params).await?;
        rows.first().map(Mirror::from_row).transpose()
    }

    /// Up to `most` mirrors, by name.
    pub async fn mirrors(&self, most: usize) -> Result<Vec<Mirror>, CatalogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.query(ALL, &[most.into()]).await?;
        rows.iter().map(Mirror::from_row).collect()
    }

    /// The alive tags of a repository that users see.
    pub async fn alive_tags(&self, repository_id: i32) -> Result<Vec<AliveTag>, CatalogError> {
        let now_ms = Utc::now().timestamp_millis();
        let rows = self.query(ALIVE, &[repository_id.into(), now_ms.into()]).await?;
        let enums = self.enums().await?;
        let tags = rows.iter().map(|row| {
            Ok(AliveTag {
                name: row.get(0)?,
                digest: row.get(1)?,
                media_type: enums.name("mediatype", row.get(2)?)?.to_owned(),
                lifetime_end_ms: row.get(3)?,
            })
        });
        tags.collect()
    }

    /// The bytes of a stored manifest, dead or alive.
    pub async fn manifest_bytes(
        &self,
        repository_id: i32,
        digest: &str,
    ) -> Result<Option<String>, CatalogError> {
        let rows = self.query(BYTES, &[repository_id.into(), digest.into()]).await?;
        rows.first().map(|row| row.get(0)).transpose()
    }

    /// Digests of the manifests that a stored list keeps.
    pub async fn linked_children(
        &self,
        repository_id: i32,
        list: &str,
    ) -> Result<HashSet<String>, CatalogError> {
        let rows = self.query(LINKED, &[repository_id.into(), list.into()]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Has a stored list keep those of `children` that are stored. A list that came without them
    /// keeps none of those that come later: neither runtime pushes what is there already once more.
    pub async fn link_children(
        &self,
        repository_id: i32,
        list: &str,
        children: &[&str],
    ) -> Result<(), CatalogError> {
        let params = [repository_id.into(), list.into(), Param::Texts(children)];
        self.write(LINK, &params).await.map(drop)
    }

    /// Those of `digests` that the same robot has fetched from `host` for another repository of the
    /// same namespace: the source has given us their bytes before.
    pub async fn fetched_beside(
        &self,
        into: &Destination,
        host: &str,
        digests: &[&str],
    ) -> Result<Vec<String>, CatalogError> {
        let host = format!("{host}/");
        let params =
            [into.namespace_id.into(), into.robot_id.into(), (&host).into(), Param::Texts(digests)];
        let fetched = if into.of_organization { FETCHED_BY_ORGANIZATION } else { FETCHED };
        let rows = self.query(fetched, &params).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Tells everybody who wants to know what became of a sync. `event` is the body of such an item,
    /// after the notification's uuid.
    pub async fn notify_mirror(
        &self,
        repository_id: i32,
        kind: &str,
        queue: &str,
        event: &str,
    ) -> Result<(), CatalogError> {
        let rows = self.query(EVENT, &[repository_id.into(), kind.into()]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut items = Vec::new();
        for row in &rows {
            let uuid: &str = row.get(0)?;
            items.push((queue.to_owned(), format!("{{\"notification_uuid\": \"{uuid}\", {event}")));
        }
        self.transaction(async |transaction| transaction.enqueue(&items).await).await
    }
}

impl Mirror {
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.get(0)?,
            repository_id: row.get(1)?,
            namespace_id: row.get(2)?,
            name: RepoName { namespace: row.get(3)?, repository: row.get(4)? },
            robot_id: row.get(5)?,
            robot: row.get(6)?,
            enabled: row.get(7)?,
            external_reference: row.get(8)?,
            username: row.get(9)?,
            password: row.get(10)?,
            external_registry_config: row.get(11)?,
            architecture_filter: row.get(12)?,
            rule_value: row.get(13)?,
            status: SyncStatus::numbered(row.get(14)?),
            start: row.get(15)?,
            expiration: row.get(16)?,
            retries: row.get(17)?,
            interval_s: row.get(18)?,
            timeout_s: row.get(19)?,
            transaction_id: row.get(20)?,
        })
    }

    /// What a worker has to know to take it.
    pub fn claimable(&self) -> Claimable {
        Claimable {
            table: ClaimTable::Mirrors,
            id: self.id,
            robot_id: self.robot_id,
            status: self.status,
            expiration: self.expiration,
            transaction_id: self.transaction_id.clone(),
            by_hand: false,
        }
    }

    /// What is filled.
    pub fn destination(&self) -> Destination {
        Destination {
            repository_id: self.repository_id,
            namespace_id: self.namespace_id,
            name: self.name.clone(),
            robot_id: self.robot_id,
            robot: self.robot.clone(),
            of_organization: false,
        }
    }

    /// When it is due.
    pub fn schedule(&self) -> Schedule {
        Schedule { start: self.start, retries: self.retries, interval_s: self.interval_s }
    }
}
