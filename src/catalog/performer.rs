//! Who a token was made for. Each kind of entity is a join of its own, so that a pull and its
//! performer are one statement.

use super::error::CatalogError;
use super::value::Row;

/// The entity named in a token's context (contract §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entity {
    /// Nobody, or somebody that the token does not name.
    Anonymous,
    /// `user.uuid`
    User(String),
    /// `user.username` of a robot.
    Robot(String),
    /// `appspecificauthtoken.uuid`
    AppToken(String),
    /// `oauthaccesstoken.uuid`
    OAuthToken(String),
    /// `accesstoken.token_name`: of what the client sent, the part that is no secret.
    AccessToken(String),
}

impl Entity {
    /// The value of the statements' last parameter.
    pub(super) fn reference(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(reference)
            | Self::Robot(reference)
            | Self::AppToken(reference)
            | Self::OAuthToken(reference)
            | Self::AccessToken(reference) => Some(reference),
        }
    }
}

/// Who is behind an entity, as the action log names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performer {
    /// `user.id`, absent where the account is disabled: Quay then logs no performer.
    pub id: Option<i32>,
    /// `user.username`; an access token is nobody's.
    pub username: Option<String>,
    /// What the log says beside the name.
    pub detail: PerformerDetail,
}

/// What the action log says of each kind of entity (contract §4.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerformerDetail {
    /// A user's password.
    User,
    /// A robot's token.
    Robot,
    /// An application token, by uuid and title.
    AppToken {
        /// `appspecificauthtoken.uuid`
        uuid: String,
        /// `appspecificauthtoken.title`
        title: String,
    },
    /// An OAuth token, by id and application.
    OAuthToken {
        /// `oauthaccesstoken.id`
        id: i32,
        /// `oauthapplication.client_id`
        client_id: String,
        /// `oauthapplication.name`
        application: String,
    },
    /// An access token, by `accesstoken.friendly_name`.
    AccessToken(Option<String>),
}

/// A statement about a repository with a performer, for each kind of [`Entity`]: `$5` is its
/// reference, of an application's token `$6` is now in local time.
macro_rules! per_entity {
    ($entity:expr, $columns:literal, $from:literal) => {
        match $entity {
            Entity::Anonymous => {
                concat!("SELECT ", repository_columns!(), $columns, $from, repository_named!())
            }
            Entity::User(_) => concat!(
                "SELECT ",
                repository_columns!(),
                $columns,
                ", p.id, p.username, p.enabled",
                $from,
                " LEFT JOIN \"user\" p ON p.uuid = $5 AND NOT p.organization",
                repository_named!()
            ),
            Entity::Robot(_) => concat!(
                "SELECT ",
                repository_columns!(),
                $columns,
                ", p.id, p.username, p.enabled",
                $from,
                " LEFT JOIN \"user\" p ON p.username = $5 AND p.robot",
                repository_named!()
            ),
            Entity::AppToken(_) => concat!(
                "SELECT ",
                repository_columns!(),
                $columns,
                ", p.id, p.username, p.enabled, a.uuid, a.title",
                $from,
                " LEFT JOIN appspecificauthtoken a ON a.uuid = $5",
                " AND (a.expiration IS NULL OR a.expiration > $6)",
                " LEFT JOIN \"user\" p ON p.id = a.user_id",
                repository_named!()
            ),
            Entity::OAuthToken(_) => concat!(
                "SELECT ",
                repository_columns!(),
                $columns,
                ", p.id, p.username, p.enabled, o.id, c.client_id, c.name",
                $from,
                " LEFT JOIN oauthaccesstoken o ON o.uuid = $5",
                " LEFT JOIN oauthapplication c ON c.id = o.application_id",
                " LEFT JOIN \"user\" p ON p.id = o.authorized_user_id",
                repository_named!()
            ),
            Entity::AccessToken(_) => concat!(
                "SELECT ",
                repository_columns!(),
                $columns,
                ", a.id, a.friendly_name",
                $from,
                " LEFT JOIN accesstoken a ON a.token_name = $5",
                repository_named!()
            ),
        }
    };
}
pub(super) use per_entity;

impl Performer {
    /// Reads the columns that `per_entity!` put after the first `at`.
    pub(super) fn from_row(
        entity: &Entity,
        row: &Row,
        at: usize,
    ) -> Result<Option<Self>, CatalogError> {
        if *entity == Entity::Anonymous {
            return Ok(None);
        }
        let Some(id) = row.get::<Option<i32>>(at)? else { return Ok(None) };
        if let Entity::AccessToken(_) = entity {
            let detail = PerformerDetail::AccessToken(row.get(at + 1)?);
            return Ok(Some(Self { id: None, username: None, detail }));
        }
        let enabled: bool = row.get(at + 2)?;
        let detail = match entity {
            Entity::Anonymous | Entity::AccessToken(_) => return Ok(None),
            Entity::User(_) => PerformerDetail::User,
            Entity::Robot(_) => PerformerDetail::Robot,
            Entity::AppToken(_) => {
                PerformerDetail::AppToken { uuid: row.get(at + 3)?, title: row.get(at + 4)? }
            }
            Entity::OAuthToken(_) => PerformerDetail::OAuthToken {
                id: row.get(at + 3)?,
                client_id: row.get(at + 4)?,
                application: row.get(at + 5)?,
            },
        };
        Ok(Some(Self { id: enabled.then_some(id), username: row.get(at + 1)?, detail }))
    }
}
