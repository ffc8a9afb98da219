//! The repositories that a caller sees in the catalog (contract §3.9).

use chrono::Local;

use super::connection::Session;
use super::error::CatalogError;
use super::performer::Entity;

/// The account behind a token.
#[derive(Debug)]
pub struct Caller {
    /// `user.id`
    pub id: i32,
    /// `user.username`
    pub username: String,
    /// `user.enabled`
    pub enabled: bool,
}

/// What a caller sees beside what it, or one of its teams, was given a role on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// Public repositories: `FEATURE_PUBLIC_CATALOG`.
    Public,
    /// Every repository.
    Everything,
}

/// A repository of a page.
#[derive(Debug)]
pub struct Listed {
    /// `repository.id`: pages are in this order.
    pub id: i32,
    /// `namespace/name`
    pub name: String,
}

const USER: &str =
    "SELECT id, username, enabled FROM \"user\" WHERE uuid = $1 AND NOT organization";
const ROBOT: &str = "SELECT id, username, enabled FROM \"user\" WHERE username = $1 AND robot";
const APP_TOKEN: &str = "\
    SELECT u.id, u.username, u.enabled FROM appspecificauthtoken t \
    JOIN \"user\" u ON u.id = t.user_id WHERE t.uuid = $1 \
    AND (t.expiration IS NULL OR t.expiration > $2)";
const OAUTH_TOKEN: &str = "\
    SELECT u.id, u.username, u.enabled FROM oauthaccesstoken t \
    JOIN \"user\" u ON u.id = t.authorized_user_id WHERE t.uuid = $1";

/// A page from `$2` on of at most `$3`, of kind `$4`. Each arm that may be long ends where the page
/// does; what somebody has a role on is found from that role.
macro_rules! page {
    ($arm:literal) => {
        concat!(
            "SELECT r.id, n.username, r.name FROM ( \
                 SELECT p.repository_id AS id FROM repositorypermission p WHERE p.user_id = $1 \
                 UNION SELECT p.repository_id FROM repositorypermission p \
                     JOIN teammember m ON m.team_id = p.team_id WHERE m.user_id = $1 \
                 UNION SELECT x.id FROM repository x \
                     JOIN team t ON t.organization_id = x.namespace_user_id \
                     JOIN teamrole tr ON tr.id = t.role_id JOIN teammember m ON m.team_id = t.id \
                     WHERE tr.name = 'admin' AND m.user_id = $1",
            $arm,
            ") seen JOIN repository r ON r.id = seen.id \
             JOIN \"user\" n ON n.id = r.namespace_user_id \
             WHERE r.id >= $2 AND r.state <> 3 AND r.kind_id = $4 ORDER BY r.id LIMIT $3"
        )
    };
}

const OWN: &str = page!("");
const PUBLIC: &str = page!(
    " UNION SELECT id FROM (SELECT x.id FROM repository x \
         JOIN visibility v ON v.id = x.visibility_id AND v.name = 'public' \
         WHERE x.id >= $2 AND x.state <> 3 AND x.kind_id = $4 ORDER BY x.id LIMIT $3) public"
);
const EVERYTHING: &str = page!(
    " UNION SELECT id FROM (SELECT x.id FROM repository x \
         WHERE x.id >= $2 AND x.state <> 3 AND x.kind_id = $4 ORDER BY x.id LIMIT $3) every"
);

impl Session<'_> {
    /// Who a token was made for; `None` for nobody, or somebody who is gone.
    pub async fn caller(&self, entity: &Entity) -> Result<Option<Caller>, CatalogError> {
        let local_now = Local::now().naive_local();
        let (sql, reference) = match entity {
            Entity::Anonymous | Entity::AccessToken(_) => return Ok(None),
            Entity::User(uuid) => (USER, uuid),
            Entity::Robot(username) => (ROBOT, username),
            Entity::AppToken(uuid) => (APP_TOKEN, uuid),
            Entity::OAuthToken(uuid) => (OAUTH_TOKEN, uuid),
        };
        let params = [reference.into(), local_now.into()];
        // Only applications' tokens end.
        let params = if let Entity::AppToken(_) = entity { &params[..] } else { &params[..1] };
        let rows = self.query(sql, params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Caller { id: row.get(0)?, username: row.get(1)?, enabled: row.get(2)? }))
    }

    /// Up to `limit` repositories with an id of at least `start`.
    pub async fn visible_repositories(
        &self,
        caller: Option<&Caller>,
        beside: Beside,
        start: i32,
        limit: u32,
    ) -> Result<Vec<Listed>, CatalogError> {
        let sql = match beside {
            Beside::Nothing => OWN,
            Beside::Public => PUBLIC,
            Beside::Everything => EVERYTHING,
        };
        let user_id = caller.map_or(-1, |caller| caller.id);
        let kind = self.enums().await?.id("repositorykind", "image")?;
        let limit = i64::from(limit);
        let params = [user_id.into(), start.into(), limit.into(), kind.into()];
        let rows = self.query(sql, &params).await?;
        let listed = rows.iter().map(|row| {
            let (namespace, name): (&str, &str) = (row.get(1)?, row.get(2)?);
            Ok(Listed { id: row.get(0)?, name: format!("{namespace}/{name}") })
        });
        listed.collect()
    }
}
