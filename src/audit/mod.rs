//! The action log: who pulled what, from where. Strict as in Quay: what cannot be logged does not
//! happen, unless the configuration says otherwise (contract §4.9).

mod batch;
mod metadata;
mod mirrored;

use std::sync::Arc;

use chrono::Local;

pub use batch::{AuditError, Batcher};
use metadata::Metadata;
pub use metadata::push_string as push_python_string;
pub use mirrored::{Mirrored, OrgEvent, Place};

use crate::catalog::{LogRow, Performer, PerformerDetail, Repository};
use crate::config;
use crate::oci::RepoName;

/// Where a request came from, as the log names it.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address, by Quay's rule for proxies; empty where nobody asked.
    pub ip: String,
    /// The `User-Agent` header, empty without one.
    pub user_agent: String,
}

/// How a manifest was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// By a tag's name.
    Tag(&'a str),
    /// By its digest.
    Digest(&'a str),
}

impl Reference<'_> {
    fn describe(self, metadata: &mut Metadata) {
        match self {
            Self::Tag(tag) => metadata.text("tag", tag),
            Self::Digest(digest) => metadata.text("manifest_digest", digest),
        }
    }
}

/// A manifest that is about to be sent.
#[derive(Debug)]
pub struct Pull<'a> {
    /// The repository as it was addressed.
    pub name: &'a RepoName,
    /// Its row.
    pub repository: &'a Repository,
    /// Who asked, where known.
    pub performer: Option<&'a Performer>,
    /// What was asked for.
    pub reference: Reference<'a>,
    /// The media type that is sent; empty where nothing is.
    pub media_type: &'a str,
}

/// Something that was changed in a repository.
#[derive(Debug)]
pub struct Changed<'a> {
    /// The repository as it was addressed.
    pub name: &'a RepoName,
    /// Its row.
    pub repository: &'a Repository,
    /// Who did it, where known.
    pub performer: Option<&'a Performer>,
    /// What was done.
    pub change: TagChange<'a>,
}

/// What was done to a tag.
#[derive(Clone, Copy, Debug)]
pub enum TagChange<'a> {
    /// It points to a manifest of this media type.
    Pushed {
        /// Its name.
        tag: &'a str,
        /// The type of what was pushed.
        media_type: &'a str,
    },
    /// It is gone.
    Deleted {
        /// Its name.
        tag: &'a str,
        /// By what it was deleted, a digest or its name: Quay calls either a digest.
        by: &'a str,
    },
    /// It may not be moved from now on, as a policy has it.
    MadeImmutable {
        /// Its name.
        tag: &'a str,
    },
}

/// Writes the action log.
#[derive(Clone)]
pub struct Audit {
    rules: Arc<config::Audit>,
    read_only: bool,
    batcher: Batcher,
}

/// What the log says of a login that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedLogin<'a> {
    /// `user`, `robot`, `app_specific_token` or `oauth`.
    pub kind: &'static str,
    /// A robot's user name.
    pub robot: Option<&'a str>,
    /// The title of an application token.
    pub title: Option<&'a str>,
    /// The name that was tried; of a robot or a token, its owner's.
    pub username: Option<&'a str>,
    /// Why it failed.
    pub message: &'a str,
}

/// What a login was made with.
#[derive(Clone, Copy, Debug)]
pub enum LoggedInBy<'a> {
    /// A user's password.
    Password,
    /// A robot, by its user name.
    Robot(&'a str),
    /// An application token, by its title.
    AppToken(&'a str),
    /// An OAuth token; Quay's row does not say so.
    OAuthToken,
}

impl Audit {
    /// `read_only` is `REGISTRY_STATE: readonly`, in which Quay logs nothing.
    pub fn new(rules: config::Audit, read_only: bool, batcher: Batcher) -> Self {
        Self { rules: Arc::new(rules), read_only, batcher }
    }

    /// Logs a pull; returns when the row is durable.
    pub async fn pull(&self, pull: &Pull<'_>, client: &Client) -> Result<(), AuditError> {
        let namespace = &pull.name.namespace;
        let skipped = self.rules.disabled_pull_namespaces.contains(namespace)
            || self.rules.disabled_namespaces.contains(namespace)
            || (self.rules.skip_free_namespaces && pull.repository.free_namespace);
        if skipped {
            return Ok(());
        }
        let row = LogRow {
            kind: "pull_repo",
            account_id: pull.repository.namespace_id,
            performer_id: pull.performer.and_then(|performer| performer.id),
            repository_id: Some(pull.repository.id),
            datetime: Local::now().naive_local(),
            ip: client.ip.clone(),
            metadata_json: pull_metadata(pull, client),
        };
        self.write(row).await
    }

    /// Logs a change; returns when the row is durable.
    pub async fn changed(&self, changed: &Changed<'_>, client: &Client) -> Result<(), AuditError> {
        if self.rules.disabled_namespaces.contains(&changed.name.namespace) {
            return Ok(());
        }
        let (kind, metadata_json) = changed_metadata(changed, client);
        let row = LogRow {
            kind,
            account_id: changed.repository.namespace_id,
            performer_id: changed.performer.and_then(|performer| performer.id),
            repository_id: Some(changed.repository.id),
            datetime: Local::now().naive_local(),
            ip: client.ip.clone(),
            metadata_json,
        };
        self.write(row).await
    }

    /// Logs a pull that was refused with `message`, where the repository is there.
    pub async fn pull_failed(
        &self,
        pull: &Pull<'_>,
        message: &str,
        client: &Client,
    ) -> Result<(), AuditError> {
        let namespace = &pull.name.namespace;
        if self.rules.disabled_namespaces.contains(namespace) {
            return Ok(());
        }
        let mut metadata = Metadata::default();
        metadata.text("namespace", namespace);
        metadata.text("repo", &pull.name.repository);
        pull.reference.describe(&mut metadata);
        metadata.text("message", message);
        let row = LogRow {
            kind: "pull_repo_failed",
            account_id: pull.repository.namespace_id,
            performer_id: pull.performer.and_then(|performer| performer.id),
            repository_id: Some(pull.repository.id),
            datetime: Local::now().naive_local(),
            ip: client.ip.clone(),
            metadata_json: metadata.into_json(),
        };
        self.write(row).await
    }

    /// Logs that a user or a robot got a token without asking for a repository. The log is the
    /// account's: of a robot, its owner's (contract §2.2.7).
    pub async fn login(
        &self,
        account: (i32, &str),
        performer_id: i32,
        by: LoggedInBy<'_>,
        client: &Client,
    ) -> Result<(), AuditError> {
        let (account_id, namespace) = account;
        let disabled = self.rules.disabled_namespaces.iter().any(|name| name == namespace);
        if !self.rules.log_logins || disabled {
            return Ok(());
        }
        let mut metadata = Metadata::default();
        match by {
            LoggedInBy::Password => metadata.text("kind", "user"),
            LoggedInBy::Robot(username) => {
                metadata.text("kind", "robot");
                metadata.text("robot", username);
            }
            LoggedInBy::AppToken(title) => {
                metadata.text("kind", "app_specific_token");
                metadata.text("app_specific_token_title", title);
            }
            LoggedInBy::OAuthToken => {}
        }
        metadata.text("type", "v2auth");
        metadata.text("useragent", &client.user_agent);
        let row = LogRow {
            kind: "login_success",
            account_id,
            performer_id: Some(performer_id),
            repository_id: None,
            datetime: Local::now().naive_local(),
            ip: client.ip.clone(),
            metadata_json: metadata.into_json(),
        };
        self.write(row).await
    }

    /// Whether failed logins are logged.
    pub fn logs_login_failures(&self) -> bool {
        self.rules.log_login_failures && !self.read_only
    }

    /// Logs a login that failed (contract §2.2.7).
    pub async fn login_failed(
        &self,
        account_id: i32,
        performer_id: Option<i32>,
        failed: &FailedLogin<'_>,
        client: &Client,
    ) -> Result<(), AuditError> {
        let mut metadata = Metadata::default();
        let oauth = failed.kind == "oauth";
        metadata.text("type", if oauth { "quayauth" } else { "v2auth" });
        metadata.text("kind", failed.kind);
        for (key, value) in [
            ("robot", failed.robot),
            ("app_specific_token_title", failed.title),
            ("username", failed.username),
        ] {
            value.into_iter().for_each(|value| metadata.text(key, value));
        }
        metadata.text("useragent", &client.user_agent);
        metadata.text("message", failed.message);
        let row = LogRow {
            kind: "login_failure",
            account_id,
            performer_id,
            repository_id: None,
            datetime: Local::now().naive_local(),
            ip: client.ip.clone(),
            metadata_json: metadata.into_json(),
        };
        self.write(row).await
    }

    /// A row may be lost where the operator chose so: one of a change, less often than others.
    async fn write(&self, row: LogRow) -> Result<(), AuditError> {
        if self.read_only {
            return Ok(());
        }
        let kind = row.kind;
        match self.batcher.write(row).await {
            Err(error) if self.tolerant(kind) => {
                tracing::error!(%error, kind, "action log row lost, as the configuration permits");
                Ok(())
            }
            result => result,
        }
    }

    fn tolerant(&self, kind: &str) -> bool {
        let change = ["push_repo", "delete_tag"].contains(&kind);
        self.rules.allow_without_strict_logging
            || (self.rules.allow_pulls_without_strict_logging && !change)
            // Quay goes on without this one, always.
            || kind == MADE_IMMUTABLE
    }
}

const MADE_IMMUTABLE: &str = "tag_made_immutable_by_policy";

/// Quay's keys in Quay's order. `resolved_ip` needs data files of Quay's that we do not read.
fn pull_metadata(pull: &Pull<'_>, client: &Client) -> String {
    described(pull.name, pull.performer, client, |metadata| {
        pull.reference.describe(metadata);
        metadata.text("mediaType", pull.media_type);
    })
}

/// The kind of a row, and what it says.
fn changed_metadata(changed: &Changed<'_>, client: &Client) -> (&'static str, String) {
    let Changed { name, performer, .. } = *changed;
    match changed.change {
        TagChange::Pushed { tag, media_type } => {
            let metadata = described(name, performer, client, |metadata| {
                metadata.text("tag", tag);
                metadata.text("mediaType", media_type);
            });
            ("push_repo", metadata)
        }
        TagChange::Deleted { tag, by } => {
            let metadata = described(name, performer, client, |metadata| {
                metadata.text("tag", tag);
                metadata.text("digest", by);
            });
            ("delete_tag", metadata)
        }
        TagChange::MadeImmutable { tag } => {
            let mut metadata = Metadata::default();
            metadata.text("tag", tag);
            metadata.text("repo", &name.repository);
            metadata.text("namespace", &name.namespace);
            metadata.literal("immutable", "true");
            (MADE_IMMUTABLE, metadata.into_json())
        }
    }
}

/// What all rows about a repository say, around what is said of one kind.
fn described(
    name: &RepoName,
    performer: Option<&Performer>,
    client: &Client,
    describe: impl FnOnce(&mut Metadata),
) -> String {
    let mut metadata = Metadata::default();
    metadata.text("repo", &name.repository);
    metadata.text("namespace", &name.namespace);
    metadata.text("user-agent", &client.user_agent);
    describe(&mut metadata);
    let Some(performer) = performer else { return metadata.into_json() };
    match &performer.detail {
        PerformerDetail::User | PerformerDetail::Robot => {}
        PerformerDetail::AccessToken(Some(name)) => metadata.text("token", name),
        PerformerDetail::AccessToken(None) => metadata.literal("token", "null"),
        PerformerDetail::AppToken { uuid, title } => {
            metadata.text("app_specific_token", uuid);
            metadata.text("app_specific_token_title", title);
        }
        PerformerDetail::OAuthToken { id, client_id, application } => {
            metadata.number("oauth_token_id", *id);
            metadata.text("oauth_token_application_id", client_id);
            metadata.text("oauth_token_application", application);
        }
    }
    if let Some(username) = &performer.username {
        metadata.text("username", username);
    }
    if performer.detail == PerformerDetail::Robot {
        metadata.literal("is_robot", "true");
    }
    metadata.into_json()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(performer: Option<Performer>, reference: Reference<'_>) -> String {
        let name = RepoName { namespace: "acme".into(), repository: "app".into() };
        let repository = Repository {
            id: 1,
            namespace_id: 4,
            public: false,
            kind: "image".into(),
            free_namespace: true,
            proxy_cache: false,
        };
        let client = Client { ip: "127.0.0.1".into(), user_agent: "containers/5.29".into() };
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let pull = Pull {
            name: &name,
            repository: &repository,
            performer: performer.as_ref(),
            reference,
            media_type,
        };
        pull_metadata(&pull, &client)
    }

    fn performer(detail: PerformerDetail) -> Option<Performer> {
        Some(Performer { id: Some(1), username: Some("admin".into()), detail })
    }

    /// The rows that a real Quay wrote for the same pulls, `resolved_ip` apart.
    #[test]
    fn metadata_is_spelled_as_python_does() {
        let common = r#"{"repo": "app", "namespace": "acme", "user-agent": "containers/5.29", "#;
        let typed = r#""mediaType": "application/vnd.oci.image.manifest.v1+json""#;
        for (who, reference, expected) in [
            (None, Reference::Tag("v1"), format!(r#"{common}"tag": "v1", {typed}}}"#)),
            (
                performer(PerformerDetail::User),
                Reference::Digest("sha256:00"),
                format!(
                    r#"{common}"manifest_digest": "sha256:00", {typed}, "username": "admin"}}"#
                ),
            ),
            (
                performer(PerformerDetail::Robot),
                Reference::Tag("v1"),
                format!(r#"{common}"tag": "v1", {typed}, "username": "admin", "is_robot": true}}"#),
            ),
            (
                performer(PerformerDetail::AppToken { uuid: "u".into(), title: "t".into() }),
                Reference::Tag("v1"),
                format!(
                    r#"{common}"tag": "v1", {typed}, "app_specific_token": "u", "app_specific_token_title": "t", "username": "admin"}}"#
                ),
            ),
            (
                performer(PerformerDetail::OAuthToken {
                    id: 2,
                    client_id: "c".into(),
                    application: "ci-app".into(),
                }),
                Reference::Tag("v1"),
                format!(
                    r#"{common}"tag": "v1", {typed}, "oauth_token_id": 2, "oauth_token_application_id": "c", "oauth_token_application": "ci-app", "username": "admin"}}"#
                ),
            ),
            (
                Some(Performer {
                    id: None,
                    username: None,
                    detail: PerformerDetail::AccessToken(None),
                }),
                Reference::Tag("v1"),
                format!(r#"{common}"tag": "v1", {typed}, "token": null}}"#),
            ),
        ] {
            assert_eq!(metadata(who, reference), expected);
        }
    }
}
