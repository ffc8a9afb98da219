//! What a scope of a token request is about, and what the caller may do there.

use tokio_postgres::types::Type;

use super::connection::Session;
use super::error::CatalogError;
use crate::oci::RepoName;

/// A namespace, a repository in it if there is one, and the caller's rights (contract §2.5).
#[derive(Debug)]
pub struct Authority {
    /// `user.enabled` of the namespace.
    pub namespace_enabled: bool,
    /// Whether the namespace is a cache of another registry.
    pub proxy_cache: bool,
    /// Whether the caller owns the namespace or is in one of its teams with the role `admin`.
    pub namespace_admin: bool,
    /// The repository, where it exists and is not marked for deletion.
    pub repository: Option<ScopedRepository>,
}

/// The repository of a scope.
#[derive(Debug)]
pub struct ScopedRepository {
    /// Whether its visibility is `public`.
    pub public: bool,
    /// `repositorykind.name`
    pub kind: String,
    /// `repository.trust_enabled`
    pub trust_enabled: bool,
    /// Whether the caller, or one of its teams, has any role here: each of them includes read.
    pub readable: bool,
}

/// `$3` is the caller's `user.id`, -1 for nobody.
const SELECT: &str = "\
    SELECT n.enabled, \
        EXISTS (SELECT 1 FROM proxycacheconfig x WHERE x.organization_id = n.id), \
        n.id = $3 OR EXISTS (SELECT 1 FROM team t JOIN teamrole tr ON tr.id = t.role_id \
            JOIN teammember m ON m.team_id = t.id \
            WHERE t.organization_id = n.id AND n.organization AND tr.name = 'admin' \
            AND m.user_id = $3), \
        r.visibility_id, r.kind_id, r.trust_enabled, \
        EXISTS (SELECT 1 FROM repositorypermission p WHERE p.repository_id = r.id \
            AND (p.user_id = $3 OR EXISTS (SELECT 1 FROM teammember m \
                WHERE m.team_id = p.team_id AND m.user_id = $3))) \
    FROM \"user\" n \
    LEFT JOIN repository r ON r.namespace_user_id = n.id AND r.name = $2 AND r.state <> 3 \
    WHERE n.username = $1";

impl Session<'_> {
    /// What `user_id` may do in `name`, or `None` without a namespace.
    pub async fn authority(
        &self,
        name: &RepoName,
        user_id: Option<i32>,
    ) -> Result<Option<Authority>, CatalogError> {
        let user_id = user_id.unwrap_or(-1);
        let rows = self
            .query(
                SELECT,
                &[
                    (&name.namespace, Type::TEXT),
                    (&name.repository, Type::TEXT),
                    (&user_id, Type::INT4),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let repository = match (row.get::<_, Option<i32>>(3), row.get::<_, Option<i32>>(4)) {
            (Some(visibility), Some(kind)) => {
                let enums = self.enums().await?;
                Some(ScopedRepository {
                    public: enums.name("visibility", visibility)? == "public",
                    kind: enums.name("repositorykind", kind)?.to_owned(),
                    trust_enabled: row.get(5),
                    readable: row.get(6),
                })
            }
            _ => None,
        };
        Ok(Some(Authority {
            namespace_enabled: row.get(0),
            proxy_cache: row.get(1),
            namespace_admin: row.get(2),
            repository,
        }))
    }
}
