//! What the action log has of organizations that follow others, in Quay's words.

use super::external_reference;
use crate::audit::{Audit, AuditError, Mirrored, OrgEvent, Place};
use crate::catalog::{OrgMirror, OrgMirrorRepository};
use crate::mirroring::{Parts, SyncError};
use crate::upstream::Fault;

/// Characters of an error that Quay keeps in a message.
const LONGEST: usize = 512;

/// Bytes of the errors of all tags.
const LONGEST_ERRORS: usize = 4096;

/// Writes what happens to an organization.
pub(super) struct OrgLog<'a> {
    audit: &'a Audit,
    of: &'a OrgMirror,
}

impl<'a> OrgLog<'a> {
    pub(super) fn of(parts: &'a Parts, of: &'a OrgMirror) -> Self {
        Self { audit: &parts.audit, of }
    }

    pub(super) async fn started(&self) -> Result<(), AuditError> {
        let name = &self.of.organization;
        let message = format!("Starting repository discovery for organization '{name}'");
        self.discovery("org_mirror_sync_started", &message).await
    }

    pub(super) async fn found(&self, wanted: usize, new: usize) -> Result<(), AuditError> {
        let message = format!("Discovery completed: {wanted} repos discovered, {new} new");
        self.discovery("org_mirror_sync_success", &message).await
    }

    pub(super) async fn failed(&self, error: &SyncError) -> Result<(), AuditError> {
        let what = match error {
            SyncError::Undecryptable(_) => "Failed to decrypt source registry credentials",
            SyncError::Settings(_) => "Failed to create registry adapter",
            SyncError::Source(error)
                if matches!(error.fault(), Fault::Configuration | Fault::Refused) =>
            {
                "Failed to create registry adapter"
            }
            _ => "Failed to fetch repositories from source",
        };
        let message = format!("{what}: {}", shortened(&error.to_string(), LONGEST));
        self.discovery("org_mirror_sync_failed", &message).await
    }

    pub(super) async fn cancelled(&self, told: usize) -> Result<(), AuditError> {
        let message = format!("Sync cancelled: {told} repos set to cancelled");
        self.discovery("org_mirror_sync_failed", &message).await
    }

    async fn discovery(&self, kind: &'static str, message: &str) -> Result<(), AuditError> {
        self.audit.organization_mirrored(self.of, &OrgEvent::Discovery { kind, message }).await
    }
}

/// Writes what happens to one of its repositories.
pub(super) struct RepositoryLog<'a> {
    audit: &'a Audit,
    row: &'a OrgMirrorRepository,
    /// `host[:port]/path` of its source.
    pub(super) reference: String,
    /// `repository.id`, once there is one.
    pub(super) repository_id: Option<i32>,
}

impl<'a> RepositoryLog<'a> {
    pub(super) fn of(parts: &'a Parts, row: &'a OrgMirrorRepository) -> Self {
        let reference = external_reference(&row.of, &row.repository);
        Self { audit: &parts.audit, row, reference, repository_id: row.repository_id }
    }

    pub(super) async fn started(&self) -> Result<(), AuditError> {
        let message = format!("Starting sync for '{}'", self.reference);
        let kind = "org_mirror_sync_started";
        self.write(Mirrored { kind, verb: "start", message: &message, ..Mirrored::default() }).await
    }

    pub(super) async fn created(&self, repository_id: i32) -> Result<(), AuditError> {
        let external_reference = &self.reference;
        let created = OrgEvent::Created { repository_id, external_reference };
        self.audit.organization_mirrored(&self.row.of, &created).await
    }

    pub(super) async fn not_created(&self, error: &str) -> Result<(), AuditError> {
        let external_reference = &self.reference;
        let failed = OrgEvent::NotCreated { external_reference, error };
        self.audit.organization_mirrored(&self.row.of, &failed).await
    }

    /// Nothing was copied.
    pub(super) async fn not_begun(&self, message: &str, why: &str) -> Result<(), AuditError> {
        let kind = "org_mirror_sync_failed";
        let (stdout, stderr) = (Some(""), Some(why));
        self.write(Mirrored { kind, verb: "end", message, stdout, stderr, ..Mirrored::default() })
            .await
    }

    pub(super) async fn succeeded(&self, tags: &[String]) -> Result<(), AuditError> {
        let (reference, count) = (&self.reference, tags.len());
        let (message, tags) = match count {
            0 => (format!("No tags found for '{reference}'"), None),
            _ => {
                let message = format!("Successfully synced '{reference}': {count} tags");
                (message, Some(tags.join(", ")))
            }
        };
        let kind = "org_mirror_sync_success";
        let (message, tags) = (message.as_str(), tags.as_deref());
        self.write(Mirrored { kind, verb: "end", message, tags, ..Mirrored::default() }).await
    }

    pub(super) async fn failed(
        &self,
        tags: usize,
        failed: &[(String, String)],
    ) -> Result<(), AuditError> {
        let message =
            format!("Sync failed for '{}': {}/{tags} tags failed", self.reference, failed.len());
        let names: Vec<&str> = failed.iter().map(|(tag, _)| tag.as_str()).collect();
        let errors: Vec<String> =
            failed.iter().map(|(tag, why)| format!("[{tag}]: {why}")).collect();
        self.write(Mirrored {
            kind: "org_mirror_sync_failed",
            verb: "end",
            message: &message,
            tags: Some(&names.join(", ")),
            stderr: Some(&shortened(&errors.join("; "), LONGEST_ERRORS)),
            ..Mirrored::default()
        })
        .await
    }

    pub(super) async fn cancelled(&self) -> Result<(), AuditError> {
        let message = format!("Sync cancelled for '{}'", self.reference);
        let kind = "org_mirror_sync_cancelled";
        self.write(Mirrored { kind, verb: "end", message: &message, ..Mirrored::default() }).await
    }

    async fn write(&self, event: Mirrored<'_>) -> Result<(), AuditError> {
        let name = &self.row.name();
        let namespace_id = self.row.of.organization_id;
        let at = Place { name, namespace_id, repository_id: self.repository_id };
        self.audit.mirrored(&at, &event).await
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 3).chain("...".chars()).collect(),
        false => text.to_owned(),
    }
}
