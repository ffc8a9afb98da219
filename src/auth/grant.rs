//! What a scope gets (contract §2.3 steps 5 to 9).

use std::sync::Arc;

use super::{Declined, Identity, Limits, ScopeRequest};
use crate::catalog::{
    Authority, CatalogError, NamespaceRole, NewOrganization, NewRepository, RepositoryState, Role,
    ScopedRepository, Session,
};
use crate::config;
use crate::oci::RepoName;

/// A scope and the actions that it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name as it was asked for.
    pub name: String,
    /// The repository that it means.
    pub repository: RepoName,
    /// In Quay's order: push, pull, `*`.
    pub actions: Vec<&'static str>,
}

impl Grant {
    fn of(scope: &ScopeRequest, actions: Vec<&'static str>) -> Self {
        Self { name: scope.name.clone(), repository: scope.repository.clone(), actions }
    }
}

/// A scope that fails the whole token request.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The namespace is switched off.
    #[error("Namespace {0} has been disabled. Please contact a system administrator.")]
    NamespaceDisabled(String),
    /// The repository holds no images.
    #[error("This repository is for managing {0} and not container images.")]
    NotImages(String),
    /// A repository was to be made, and the registry takes no writes.
    #[error("the registry is read-only")]
    ReadOnly,
    /// An organization was to be made, and cannot be.
    #[error("Cannot create organization")]
    NoOrganization,
    /// Python has to decide.
    #[error("scope of a kind that is not built: {}", .0.0)]
    Declined(Declined),
    /// It could not be decided.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Decides scopes for one installation.
#[derive(Clone, Debug)]
pub struct Authorizer {
    config: Arc<config::Auth>,
    proxy_cache: bool,
    read_only: bool,
}

/// What the caller may do with the repository of a scope, and beside it.
struct Rights {
    role: Role,
    creates: bool,
    /// Reads every repository that exists.
    reads_all: bool,
}

impl Authorizer {
    /// `proxy_cache` is `FEATURE_PROXY_CACHE`, `read_only` is `REGISTRY_STATE: readonly`.
    pub fn new(config: Arc<config::Auth>, proxy_cache: bool, read_only: bool) -> Self {
        Self { config, proxy_cache, read_only }
    }

    /// Decides one scope. Who may make a repository and wants to push to it gets it made, here and
    /// now, as in Quay, and the organization around it where that is allowed.
    pub async fn grant(
        &self,
        db: Session<'_>,
        scope: &ScopeRequest,
        identity: Option<&Identity>,
    ) -> Result<Grant, GrantError> {
        let mut authority = self.authority(db, scope, identity).await?;
        // Once more where somebody else has just made the organization, without this repository.
        for _ in 0..2 {
            if !scope.push || !self.create(db, scope, authority.as_ref(), identity).await? {
                break;
            }
            authority = self.authority(db, scope, identity).await?;
        }
        let Some(authority) = authority else { return Ok(Grant::of(scope, Vec::new())) };
        let rights = self.rights(&authority, identity);
        let mut actions = Vec::new();
        if let Some((repository, identity)) = authority.repository.as_ref().zip(identity) {
            let writes = scope.push && rights.role >= Role::Write;
            if writes && self.takes_pushes(db, repository, identity).await? {
                actions.push("push");
            }
        }
        if scope.pull && may_pull(&authority, &rights)? {
            actions.push("pull");
        }
        if scope.admin && rights.role == Role::Admin && may_rule(authority.repository.as_ref())? {
            actions.push("*");
        }
        Ok(Grant::of(scope, actions))
    }

    /// Whether somebody may push to a repository that is there: what a token request would give
    /// them. Makes nothing.
    pub async fn may_push(
        &self,
        db: Session<'_>,
        name: &RepoName,
        identity: &Identity,
    ) -> Result<bool, GrantError> {
        let scope = ScopeRequest {
            name: name.to_string(),
            repository: name.clone(),
            push: true,
            pull: false,
            admin: false,
        };
        let Some(authority) = self.authority(db, &scope, Some(identity)).await? else {
            return Ok(false);
        };
        let rights = self.rights(&authority, Some(identity));
        match authority.repository.as_ref().filter(|_| rights.role >= Role::Write) {
            Some(repository) => self.takes_pushes(db, repository, identity).await,
            None => Ok(false),
        }
    }

    /// What is known of a scope's namespace, which takes requests here; `None` without one.
    async fn authority(
        &self,
        db: Session<'_>,
        scope: &ScopeRequest,
        identity: Option<&Identity>,
    ) -> Result<Option<Authority>, GrantError> {
        let authority = db.authority(&scope.repository, identity.and_then(Identity::id)).await?;
        let Some(authority) = authority else { return Ok(None) };
        if !authority.namespace_enabled {
            return Err(GrantError::NamespaceDisabled(scope.repository.namespace.clone()));
        }
        self.check_built(&authority)?;
        Ok(Some(authority))
    }

    fn check_built(&self, authority: &Authority) -> Result<(), GrantError> {
        let declined = |reason| Err(GrantError::Declined(Declined(reason)));
        let trusted = |repository: &ScopedRepository| repository.trust_enabled;
        if self.proxy_cache && authority.proxy_cache {
            return declined("proxy_cache");
        }
        if self.config.signing && authority.repository.as_ref().is_some_and(trusted) {
            return declined("signing");
        }
        Ok(())
    }

    /// Makes what a push needs and is not there: the repository, and its organization if there is no
    /// such namespace. Returns whether it may be there now. Restricted users make nothing of their
    /// own; an access token makes nothing at all.
    async fn create(
        &self,
        db: Session<'_>,
        scope: &ScopeRequest,
        authority: Option<&Authority>,
        identity: Option<&Identity>,
    ) -> Result<bool, GrantError> {
        let Some(identity) = identity else { return Ok(false) };
        let Some((creator, username)) = identity.id().zip(identity.username()) else {
            return Ok(false);
        };
        let config = &self.config;
        let new = NewRepository {
            name: &scope.repository,
            creator,
            public: !config.create_private_repo_on_push,
            org_mirror: config.org_mirror,
            state: RepositoryState::Normal,
        };
        let restricted = self.is_restricted(username);
        match authority {
            Some(authority) => {
                let creates = self.rights(authority, Some(identity)).creates;
                let own = username == scope.repository.namespace;
                if authority.repository.is_some() || !creates || (own && restricted) {
                    return Ok(false);
                }
                if self.read_only {
                    return Err(GrantError::ReadOnly);
                }
                // Where somebody else has just made it, what they gave us is read again.
                db.create_repository(&new).await?;
                Ok(true)
            }
            None if !config.new_namespaces.on_push || restricted => Ok(false),
            // It would own the organization, and still be given nothing of it.
            None if identity.limits().namespace < NamespaceRole::Creator => Ok(false),
            None if self.read_only => Err(GrantError::NoOrganization),
            None => match db.create_organization(&new, &config.new_namespaces).await? {
                NewOrganization::Made | NewOrganization::Taken => Ok(true),
                NewOrganization::Refused => Err(GrantError::NoOrganization),
            },
        }
    }

    /// Whether a user, or the owner of a robot, may not push to a namespace of their own.
    pub fn is_restricted(&self, username: &str) -> bool {
        let owner = username.split('+').next().unwrap_or(username);
        let restricted = self.config.restricted.as_ref();
        restricted.is_some_and(|restricted| !restricted.except.iter().any(|name| name == owner))
    }

    fn rights(&self, authority: &Authority, identity: Option<&Identity>) -> Rights {
        let repository = authority.repository.as_ref();
        let none = Rights { role: Role::None, creates: false, reads_all: false };
        let Some(identity) = identity else { return none };
        if let Identity::AccessToken { repository_id, role, .. } = identity {
            let its = repository.is_some_and(|repository| repository.id == *repository_id);
            return Rights { role: if its { *role } else { Role::None }, ..none };
        }
        let limits = identity.limits();
        let reads_all = self.reads_all(identity);
        if !reads_all && self.may_everything(identity, limits) {
            return Rights { role: Role::Admin, creates: true, reads_all };
        }
        let whole = match authority.namespace_role {
            NamespaceRole::Admin => Role::Admin,
            _ => Role::None,
        };
        let own = repository.map_or(Role::None, |repository| repository.role);
        let namespace = authority.namespace_role.min(limits.namespace);
        Rights {
            role: whole.max(own).min(limits.repository),
            creates: namespace >= NamespaceRole::Creator,
            reads_all,
        }
    }

    /// Who is in both lists may only read (contract §2.7).
    fn reads_all(&self, identity: &Identity) -> bool {
        let names = &self.config.global_readonly_super_users;
        identity.username().is_some_and(|username| names.iter().any(|name| name == username))
    }

    fn may_everything(&self, identity: &Identity, limits: Limits) -> bool {
        let names = &self.config.super_users;
        let listed = |username: &str| names.iter().any(|name| name == username);
        self.config.superusers_full_access
            && limits.superuser
            && identity.username().is_some_and(listed)
    }

    /// By the state of a repository that the caller may write to.
    async fn takes_pushes(
        &self,
        db: Session<'_>,
        repository: &ScopedRepository,
        identity: &Identity,
    ) -> Result<bool, GrantError> {
        check_images(repository)?;
        let robot = matches!(identity, Identity::Robot { .. });
        match repository.state {
            RepositoryState::Normal => Ok(true),
            RepositoryState::Mirror if robot => {
                let filler = db.mirror_robot(repository.id).await?;
                Ok(filler.is_some() && filler == identity.id())
            }
            RepositoryState::OrgMirror if robot => {
                let filler = db.org_mirror_robot(repository.id).await?;
                Ok(filler.is_some() && filler == identity.id())
            }
            _ => Ok(false),
        }
    }
}

/// An admin of the namespace may pull what is not there yet, as in Quay.
fn may_pull(authority: &Authority, rights: &Rights) -> Result<bool, GrantError> {
    let repository = authority.repository.as_ref();
    let public = repository.is_some_and(|repository| repository.public);
    let exists = repository.is_some();
    let readable = rights.role >= Role::Read || public || (rights.reads_all && exists);
    if let Some(repository) = repository.filter(|_| readable) {
        check_images(repository)?;
    }
    Ok(readable)
}

/// Quay answers 500 for `*` on a repository that is not there; nothing is granted here.
fn may_rule(repository: Option<&ScopedRepository>) -> Result<bool, GrantError> {
    let Some(repository) = repository else { return Ok(false) };
    check_images(repository)?;
    Ok(repository.state == RepositoryState::Normal)
}

fn check_images(repository: &ScopedRepository) -> Result<(), GrantError> {
    match repository.kind.as_str() {
        "image" => Ok(()),
        kind => Err(GrantError::NotImages(kind.to_owned())),
    }
}
