//! Repositories that are made by pushing to them (contract §4.8).

use chrono::{Days, Local};
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::scopes::RepositoryState;
use super::transaction::Transaction;
use super::value::Sql;
use crate::oci::RepoName;

/// `$1` namespace, `$2` name, `$3` visibility, `$5` state. Nothing where the name is taken.
const INSERT: &str = "\
    INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id, \
        trust_enabled, state) \
    SELECT n.id, $2, v.id, $4, k.id, false, $5 FROM \"user\" n \
    JOIN visibility v ON v.name = $3 JOIN repositorykind k ON k.name = 'image' \
    WHERE n.username = $1 AND n.enabled ON CONFLICT DO NOTHING RETURNING id";

/// Against somebody who is making a mirror of the organization.
pub(super) const LOCK_NAMESPACE: Sql = Sql {
    postgres: "SELECT id FROM \"user\" WHERE username = $1 FOR UPDATE",
    sqlite: "SELECT id FROM \"user\" WHERE username = $1",
};

/// Whether an organization is filled by a mirror, which alone makes repositories there.
const MIRRORED: &str = "\
    SELECT EXISTS (SELECT 1 FROM orgmirrorconfig c JOIN \"user\" n ON n.id = c.organization_id \
        WHERE n.username = $1 AND n.organization)";

/// For Quay's worker, which counts from a day on; `$2` yesterday.
const INSERT_COUNT: Sql = Sql {
    postgres: "\
        INSERT INTO repositoryactioncount (repository_id, count, date) VALUES ($1, 0, $2::date)",
    sqlite: "INSERT INTO repositoryactioncount (repository_id, count, date) VALUES ($1, 0, $2)",
};

const INSERT_SCORE: &str =
    "INSERT INTO repositorysearchscore (repository_id, score) VALUES ($1, 0)";

const INSERT_ADMIN: &str = "\
    INSERT INTO repositorypermission (user_id, repository_id, role_id) \
    SELECT $2, $1, r.id FROM role r WHERE r.name = 'admin'";

/// What an organization gives to teams and users on every new repository: what is said of its
/// creator `$2` goes before what is said of anybody. Teams first.
const INSERT_DEFAULTS: &str = "\
    INSERT INTO repositorypermission (team_id, user_id, repository_id, role_id) \
    SELECT p.delegate_team_id, p.delegate_user_id, r.id, p.role_id FROM repository r \
    JOIN permissionprototype p ON p.org_id = r.namespace_user_id \
    WHERE r.id = $1 AND r.namespace_user_id <> $2 \
    AND (p.activating_user_id = $2 OR p.activating_user_id IS NULL) \
    AND (p.delegate_user_id IS NULL OR p.delegate_user_id <> $2) \
    AND NOT (p.activating_user_id IS NULL AND EXISTS ( \
        SELECT 1 FROM permissionprototype s \
        WHERE s.org_id = r.namespace_user_id AND s.activating_user_id = $2 \
        AND (s.delegate_team_id = p.delegate_team_id \
            OR s.delegate_user_id = p.delegate_user_id))) \
    ORDER BY p.delegate_team_id IS NULL, p.id ON CONFLICT DO NOTHING";

/// A repository that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewRepository<'a> {
    /// What it is called.
    pub name: &'a RepoName,
    /// `user.id` of its admin.
    pub creator: i32,
    /// Whether everybody may pull from it.
    pub public: bool,
    /// `FEATURE_ORG_MIRROR`: its organization may be filled by a mirror, which alone makes any there.
    pub org_mirror: bool,
    /// Who may push to it.
    pub state: RepositoryState,
}

impl Session<'_> {
    /// Makes a repository, with the permissions that its organization gives by default. Nothing where
    /// there is one by now, or where a mirror alone makes any.
    pub async fn create_repository(&self, new: &NewRepository<'_>) -> Result<(), CatalogError> {
        self.transaction(async |transaction| transaction.repository(new).await.map(drop)).await
    }
}

impl Transaction<'_> {
    /// Returns the `repository.id` of what was made.
    pub(super) async fn repository(
        &mut self,
        new: &NewRepository<'_>,
    ) -> Result<Option<i32>, CatalogError> {
        let NewRepository { name, creator, public, .. } = *new;
        if new.org_mirror && self.is_mirrored(&name.namespace).await? {
            return Ok(None);
        }
        let badge = Uuid::new_v4().to_string();
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            if public { "public" } else { "private" }.into(),
            (&badge).into(),
            new.state.number().into(),
        ];
        let Some(id) = self.id(INSERT, &params).await? else { return Ok(None) };
        let today = Local::now().date_naive();
        let yesterday = today.checked_sub_days(Days::new(1)).unwrap_or(today).to_string();
        self.query(INSERT_COUNT, &[id.into(), (&yesterday).into()]).await?;
        self.query(INSERT_SCORE, &[id.into()]).await?;
        self.query(INSERT_ADMIN, &[id.into(), creator.into()]).await?;
        self.query(INSERT_DEFAULTS, &[id.into(), creator.into()]).await?;
        Ok(Some(id))
    }

    async fn is_mirrored(&mut self, namespace: &str) -> Result<bool, CatalogError> {
        self.query(LOCK_NAMESPACE, &[namespace.into()]).await?;
        let rows = self.query(MIRRORED, &[namespace.into()]).await?;
        rows.first().map_or(Ok(false), |row| row.get(0))
    }
}
