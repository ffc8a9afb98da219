//! Repositories that are made by pushing to them (contract §4.8).

use chrono::{Days, Local};
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::transaction::Transaction;
use super::value::Sql;
use crate::oci::RepoName;

/// `$1` namespace, `$2` name, `$3` visibility. Nothing where the name is taken.
const INSERT: &str = "\
    INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id, \
        trust_enabled, state) \
    SELECT n.id, $2, v.id, $4, k.id, false, 0 FROM \"user\" n \
    JOIN visibility v ON v.name = $3 JOIN repositorykind k ON k.name = 'image' \
    WHERE n.username = $1 AND n.enabled ON CONFLICT DO NOTHING RETURNING id";

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

impl Session<'_> {
    /// Makes a repository whose admin is `creator`, a `user.id`, with the permissions that its
    /// organization gives by default. Returns whether it did: nothing where there is one by now.
    pub async fn create_repository(
        &self,
        name: &RepoName,
        creator: i32,
        public: bool,
    ) -> Result<bool, CatalogError> {
        self.transaction(async |transaction| transaction.create(name, creator, public).await).await
    }
}

impl Transaction<'_> {
    async fn create(
        &mut self,
        name: &RepoName,
        creator: i32,
        public: bool,
    ) -> Result<bool, CatalogError> {
        let badge = Uuid::new_v4().to_string();
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            if public { "public" } else { "private" }.into(),
            (&badge).into(),
        ];
        let Some(id) = self.id(INSERT, &params).await? else { return Ok(false) };
        let today = Local::now().date_naive();
        let yesterday = today.checked_sub_days(Days::new(1)).unwrap_or(today).to_string();
        self.query(INSERT_COUNT, &[id.into(), (&yesterday).into()]).await?;
        self.query(INSERT_SCORE, &[id.into()]).await?;
        self.query(INSERT_ADMIN, &[id.into(), creator.into()]).await?;
        self.query(INSERT_DEFAULTS, &[id.into(), creator.into()]).await?;
        Ok(true)
    }
}
