//! Who logged in, and how much of what they may do came with the login.

use crate::catalog::{NamespaceRole, Role};

/// A login that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user, by password.
    User {
        /// `user.id`
        id: i32,
        /// `user.uuid`
        uuid: String,
        /// `user.username`
        username: String,
    },
    /// A robot, by its token or by one that Quay signed for it.
    Robot {
        /// `user.id`
        id: i32,
        /// `user.username`
        username: String,
        /// `user.id` of the owner.
        owner_id: i32,
        /// `user.username` of the owner.
        owner: String,
    },
    /// A user, by an application token.
    AppToken {
        /// `appspecificauthtoken.uuid`
        uuid: String,
        /// `appspecificauthtoken.title`
        title: String,
        /// `user.id` of the owner.
        id: i32,
        /// `user.username` of the owner.
        username: String,
    },
    /// A user, by an OAuth token, as far as its scopes go.
    OAuthToken {
        /// `oauthaccesstoken.uuid`
        uuid: String,
        /// `user.id` of who granted it.
        id: i32,
        /// `user.username` of who granted it.
        username: String,
        /// What it is limited to.
        limits: Limits,
    },
    /// Nobody, by an access token of one repository.
    AccessToken {
        /// Name and code, as the client sent them: that is how Quay refers to it.
        code: String,
        /// `repository.id`
        repository_id: i32,
        /// What it permits there.
        role: Role,
    },
}

/// The most that a login may do, whatever its user may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On a repository.
    pub repository: Role,
    /// In a namespace.
    pub namespace: NamespaceRole,
    /// Whether the rights of a superuser count.
    pub superuser: bool,
}

impl Limits {
    /// None: somebody who logged in directly.
    pub const DIRECT: Self =
        Self { repository: Role::Admin, namespace: NamespaceRole::Admin, superuser: true };

    /// By the scopes of an OAuth token, separated by spaces or commas. One unknown name spoils all
    /// of them (contract §2.2.4).
    pub fn of_scopes(scopes: &str) -> Self {
        let none =
            Self { repository: Role::None, namespace: NamespaceRole::None, superuser: false };
        let mut limits = none;
        for scope in scopes.split([' ', ',']) {
            let (repository, namespace) = match scope {
                "repo:read" => (Role::Read, NamespaceRole::None),
                "repo:write" => (Role::Write, NamespaceRole::None),
                "repo:admin" => (Role::Admin, NamespaceRole::None),
                "repo:create" => (Role::None, NamespaceRole::Creator),
                "org:admin" => (Role::None, NamespaceRole::Admin),
                "user:read" | "user:admin" => (Role::None, NamespaceRole::None),
                "super:user" => {
                    limits.superuser = true;
                    continue;
                }
                _ => return none,
            };
            limits.repository = limits.repository.max(repository);
            limits.namespace = limits.namespace.max(namespace);
        }
        limits
    }
}

impl Identity {
    /// `user.id` of whom it acts for; an access token acts for nobody.
    pub fn id(&self) -> Option<i32> {
        match self {
            Self::User { id, .. }
            | Self::Robot { id, .. }
            | Self::AppToken { id, .. }
            | Self::OAuthToken { id, .. } => Some(*id),
            Self::AccessToken { .. } => None,
        }
    }

    /// `user.username` of whom it acts for.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::User { username, .. }
            | Self::Robot { username, .. }
            | Self::AppToken { username, .. }
            | Self::OAuthToken { username, .. } => Some(username),
            Self::AccessToken { .. } => None,
        }
    }

    /// The most that it may do.
    pub fn limits(&self) -> Limits {
        match self {
            Self::OAuthToken { limits, .. } => *limits,
            _ => Limits::DIRECT,
        }
    }

    /// `entity_kind` and `entity_reference` of a token's context (contract §2.1).
    pub fn entity(&self) -> (&'static str, &str) {
        match self {
            Self::User { uuid, .. } => ("user", uuid),
            Self::Robot { username, .. } => ("robot", username),
            Self::AppToken { uuid, .. } => ("appspecifictoken", uuid),
            Self::OAuthToken { uuid, .. } => ("oauthtoken", uuid),
            Self::AccessToken { code, .. } => ("token", code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_limit() {
        let of = |scopes| {
            let Limits { repository, namespace, superuser } = Limits::of_scopes(scopes);
            (repository, namespace, superuser)
        };
        assert_eq!(of("repo:read repo:write"), (Role::Write, NamespaceRole::None, false));
        assert_eq!(of("repo:admin,repo:create"), (Role::Admin, NamespaceRole::Creator, false));
        assert_eq!(of("org:admin super:user"), (Role::None, NamespaceRole::Admin, true));
        for spoilt in ["", "repo:admin unknown", "repo:admin  org:admin", "direct_user_login"] {
            assert_eq!(of(spoilt), (Role::None, NamespaceRole::None, false), "{spoilt}");
        }
    }
}
