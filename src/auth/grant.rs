//! What a scope gets (contract §2.3 steps 5 to 9).

use std::sync::Arc;

use super::{Declined, Identity, ScopeRequest};
use crate::catalog::{Authority, CatalogError, Session};
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
}

impl Authorizer {
    /// `proxy_cache` is `FEATURE_PROXY_CACHE`.
    pub fn new(config: Arc<config::Auth>, proxy_cache: bool) -> Self {
        Self { config, proxy_cache }
    }

    /// Decides one scope. Pushing is not built, so it is declined for those who may; nobody who
    /// has not logged in may push.
    pub async fn grant(
        &self,
        db: Session<'_>,
        scope: &ScopeRequest,
        identity: Option<&Identity>,
    ) -> Result<Grant, GrantError> {
        if identity.is_some() && (scope.push || scope.admin) {
            return Err(GrantError::Declined(Declined("push_token")));
        }
        let authority = db.authority(&scope.repository, identity.map(Identity::id)).await?;
        let Some(authority) = authority else {
            return Ok(Grant::of(scope, Vec::new()));
        };
        if !authority.namespace_enabled {
            return Err(GrantError::NamespaceDisabled(scope.repository.namespace.clone()));
        }
        let pull = scope.pull && self.may_pull(&authority, identity)?;
        Ok(Grant::of(scope, if pull { vec!["pull"] } else { Vec::new() }))
    }

    fn may_pull(
        &self,
        authority: &Authority,
        identity: Option<&Identity>,
    ) -> Result<bool, GrantError> {
        let repository = authority.repository.as_ref();
        if self.proxy_cache && authority.proxy_cache {
            return Err(GrantError::Declined(Declined("proxy_cache")));
        }
        if self.config.signing && repository.is_some_and(|repository| repository.trust_enabled) {
            return Err(GrantError::Declined(Declined("signing")));
        }
        let readable = authority.namespace_admin
            || repository.is_some_and(|repository| repository.readable || repository.public)
            || identity.is_some_and(|identity| self.reads_everything(identity));
        match repository {
            Some(repository) if readable && repository.kind != "image" => {
                Err(GrantError::NotImages(repository.kind.clone()))
            }
            _ => Ok(readable),
        }
    }

    /// Superusers with full access and those who may read everything (contract §2.7).
    fn reads_everything(&self, identity: &Identity) -> bool {
        let Identity::User { username, .. } = identity else { return false };
        self.config.global_readonly_super_users.contains(username)
            || (self.config.superusers_full_access && self.config.super_users.contains(username))
    }
}
