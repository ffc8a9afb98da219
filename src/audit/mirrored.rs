//! What the log says of mirroring (contract §7.3, §7.5): nobody did a sync, from nowhere; what is done
//! to an organization, its robot did.

use chrono::Local;

use super::metadata::Metadata;
use super::{Audit, AuditError};
use crate::catalog::{LogRow, OrgMirror};
use crate::oci::RepoName;

/// The repository of an event.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What it is called.
    pub name: &'a RepoName,
    /// `user.id` of its namespace.
    pub namespace_id: i32,
    /// `repository.id`, if it is there by now.
    pub repository_id: Option<i32>,
}

/// An event of a sync.
#[derive(Clone, Debug, Default)]
pub struct Mirrored<'a> {
    /// `logentrykind.name`: `repo_mirror_sync_` and the rest.
    pub kind: &'static str,
    /// Quay's word for where in a sync it is.
    pub verb: &'static str,
    /// What happened.
    pub message: &'a str,
    /// The tag it happened to.
    pub tag: Option<&'a str>,
    /// All tags of the sync.
    pub tags: Option<&'a str>,
    /// What was done, in words.
    pub stdout: Option<&'a str>,
    /// What went wrong, in words.
    pub stderr: Option<&'a str>,
}

/// What happened to an organization that follows another registry.
#[derive(Clone, Copy, Debug)]
pub enum OrgEvent<'a> {
    /// Its repositories are looked for, were found, or were not.
    Discovery {
        /// `logentrykind.name`: `org_mirror_sync_` and the rest.
        kind: &'static str,
        /// What happened.
        message: &'a str,
    },
    /// A repository was made.
    Created {
        /// It.
        repository_id: i32,
        /// `host[:port]/path` of its source.
        external_reference: &'a str,
    },
    /// A repository could not be made.
    NotCreated {
        /// `host[:port]/path` of its source.
        external_reference: &'a str,
        /// Why.
        error: &'a str,
    },
}

impl Audit {
    /// Logs an event of a sync; returns when the row is durable.
    pub async fn mirrored(&self, at: &Place<'_>, event: &Mirrored<'_>) -> Result<(), AuditError> {
        let metadata = metadata(at.name, event);
        let namespace = (at.namespace_id, at.name.namespace.as_str());
        self.write_mirrored(event.kind, namespace, None, at.repository_id, metadata).await
    }

    /// Logs what happened to an organization; returns when the row is durable.
    pub async fn organization_mirrored(
        &self,
        of: &OrgMirror,
        event: &OrgEvent<'_>,
    ) -> Result<(), AuditError> {
        let mut metadata = Metadata::default();
        let (kind, repository_id) = match *event {
            OrgEvent::Discovery { kind, message } => {
                metadata.text("message", message);
                metadata.number("org_mirror_config_id", of.id);
                metadata.text("external_registry_url", &of.url);
                metadata.text("external_namespace", &of.external_namespace);
                (kind, None)
            }
            OrgEvent::Created { repository_id, external_reference } => {
                metadata.text("external_reference", external_reference);
                metadata.text("visibility", &of.visibility);
                metadata.literal("via_org_mirror", "true");
                ("org_mirror_repo_created", Some(repository_id))
            }
            OrgEvent::NotCreated { external_reference, error } => {
                metadata.text("external_reference", external_reference);
                metadata.text("error", error);
                ("org_mirror_repo_creation_failed", None)
            }
        };
        let (namespace, robot) =
            ((of.organization_id, of.organization.as_str()), Some(of.robot_id));
        self.write_mirrored(kind, namespace, robot, repository_id, metadata.into_json()).await
    }

    async fn write_mirrored(
        &self,
        kind: &'static str,
        (account_id, namespace): (i32, &str),
        performer_id: Option<i32>,
        repository_id: Option<i32>,
        metadata_json: String,
    ) -> Result<(), AuditError> {
        if self.rules.disabled_namespaces.iter().any(|disabled| disabled == namespace) {
            return Ok(());
        }
        self.write(LogRow {
            kind,
            account_id,
            performer_id,
            repository_id,
            datetime: Local::now().naive_local(),
            ip: String::new(),
            metadata_json,
        })
        .await
    }
}

fn metadata(name: &RepoName, event: &Mirrored<'_>) -> String {
    let mut metadata = Metadata::default();
    metadata.text("verb", event.verb);
    metadata.text("namespace", &name.namespace);
    metadata.text("repo", &name.repository);
    metadata.text("message", event.message);
    for (key, value) in [
        ("tag", event.tag),
        ("tags", event.tags),
        ("stdout", event.stdout),
        ("stderr", event.stderr),
    ] {
        match value {
            Some(value) => metadata.text(key, value),
            None => metadata.literal(key, "null"),
        }
    }
    metadata.into_json()
}
