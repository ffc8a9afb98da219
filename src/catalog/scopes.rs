//! What a scope of a token request is about, and what the caller may do there.

use super::connection::Session;
use super::error::CatalogError;
use super::roles::{NamespaceRole, Role, role_rank, team_role_rank};
use crate::oci::RepoName;

/// A namespace, a repository in it if there is one, and the caller's rights (contract §2.5).
#[derive(Debug)]
pub struct Authority {
    /// `user.enabled` of the namespace.
    pub namespace_enabled: bool,
    /// Whether the namespace is a cache of another registry.
    pub proxy_cache: bool,
    /// Admin where the caller is the namespace itself; else by the caller's teams.
    pub namespace_role: NamespaceRole,
    /// The repository, where it exists and is not marked for deletion.
    pub repository: Option<ScopedRepository>,
}

/// The repository of a scope.
#[derive(Debug)]
pub struct ScopedRepository {
    /// `repository.id`
    pub id: i32,
    /// Whether its visibility is `public`.
    pub public: bool,
    /// `repositorykind.name`
    pub kind: String,
    /// `repository.trust_enabled`
    pub trust_enabled: bool,
    /// Who may push to it.
    pub state: RepositoryState,
    /// The highest role of the caller and its teams here.
    pub role: Role,
}

/// `repository.state` (contract §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryState {
    /// Whoever may write.
    Normal,
    /// Nobody.
    ReadOnly,
    /// The robot of its mirror.
    Mirror,
    /// The robot of its organization's mirror.
    OrgMirror,
    /// One that we do not know.
    Unknown,
}

impl RepositoryState {
    fn numbered(state: i32) -> Self {
        match state {
            0 => Self::Normal,
            1 => Self::ReadOnly,
            2 => Self::Mirror,
            4 => Self::OrgMirror,
            _ => Self::Unknown,
        }
    }

    /// As a new repository has it; an unknown one is normal.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Normal | Self::Unknown => 0,
            Self::ReadOnly => 1,
            Self::Mirror => 2,
            Self::OrgMirror => 4,
        }
    }
}

/// `$3` is the caller's `user.id`, -1 for nobody.
const SELECT: &str = concat!(
    "SELECT n.enabled, \
        EXISTS (SELECT 1 FROM proxycacheconfig x WHERE x.organization_id = n.id), \
        CASE WHEN n.id = $3 THEN 2 WHEN n.organization THEN COALESCE(( \
            SELECT max(",
    team_role_rank!("tr.name"),
    ") FROM team t JOIN teamrole tr ON tr.id = t.role_id \
            JOIN teammember m ON m.team_id = t.id \
            WHERE t.organization_id = n.id AND m.user_id = $3), 0) ELSE 0 END, \
        r.id, r.visibility_id, r.kind_id, r.trust_enabled, r.state, \
        COALESCE((SELECT max(",
    role_rank!("ro.name"),
    ") FROM repositorypermission p JOIN role ro ON ro.id = p.role_id \
            WHERE p.repository_id = r.id \
            AND (p.user_id = $3 OR EXISTS (SELECT 1 FROM teammember m \
                WHERE m.team_id = p.team_id AND m.user_id = $3))), 0) \
    FROM \"user\" n \
    LEFT JOIN repository r ON r.namespace_user_id = n.id AND r.name = $2 AND r.state <> 3 \
    WHERE n.username = $1"
);

const MIRROR_ROBOT: &str =
    "SELECT internal_robot_id FROM repomirrorconfig WHERE repository_id = $1";

const ORG_MIRROR_ROBOT: &str = "\
    SELECT c.internal_robot_id FROM orgmirrorrepository m \
    JOIN orgmirrorconfig c ON c.id = m.org_mirror_config_id WHERE m.repository_id = $1 LIMIT 1";

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
                &[name.namespace.as_str().into(), name.repository.as_str().into(), user_id.into()],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let repository = match row.get::<Option<i32>>(3)? {
            None => None,
            Some(id) => {
                let enums = self.enums().await?;
                Some(ScopedRepository {
                    id,
                    public: enums.name("visibility", row.get(4)?)? == "public",
                    kind: enums.name("repositorykind", row.get(5)?)?.to_owned(),
                    trust_enabled: row.get(6)?,
                    state: RepositoryState::numbered(row.get(7)?),
                    role: Role::ranked(row.get(8)?),
                })
            }
        };
        Ok(Some(Authority {
            namespace_enabled: row.get(0)?,
            proxy_cache: row.get(1)?,
            namespace_role: NamespaceRole::ranked(row.get(2)?),
            repository,
        }))
    }

    /// `user.id` of the robot that fills a mirror.
    pub async fn mirror_robot(&self, repository_id: i32) -> Result<Option<i32>, CatalogError> {
        self.filler(MIRROR_ROBOT, repository_id).await
    }

    /// `user.id` of the robot that fills it with the rest of its organization.
    pub async fn org_mirror_robot(&self, repository_id: i32) -> Result<Option<i32>, CatalogError> {
        self.filler(ORG_MIRROR_ROBOT, repository_id).await
    }

    async fn filler(
        &self,
        sql: &'static str,
        repository_id: i32,
    ) -> Result<Option<i32>, CatalogError> {
        let rows = self.query(sql, &[repository_id.into()]).await?;
        rows.first().map(|row| row.get(0)).transpose()
    }
}
