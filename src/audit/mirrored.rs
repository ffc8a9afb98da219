//! What the log says of syncs: nobody did them, from nowhere (contract §7.3).

use chrono::Local;

use super::metadata::Metadata;
use super::{Audit, AuditError};
use crate::catalog::{LogRow, Mirror};

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

impl Audit {
    /// Logs an event of a sync; returns when the row is durable.
    pub async fn mirrored(&self, mirror: &Mirror, event: &Mirrored<'_>) -> Result<(), AuditError> {
        if self.rules.disabled_namespaces.contains(&mirror.name.namespace) {
            return Ok(());
        }
        self.write(LogRow {
            kind: event.kind,
            account_id: mirror.namespace_id,
            performer_id: None,
            repository_id: Some(mirror.repository_id),
            datetime: Local::now().naive_local(),
            ip: String::new(),
            metadata_json: metadata(mirror, event),
        })
        .await
    }
}

fn metadata(mirror: &Mirror, event: &Mirrored<'_>) -> String {
    let mut metadata = Metadata::default();
    metadata.text("verb", event.verb);
    metadata.text("namespace", &mirror.name.namespace);
    metadata.text("repo", &mirror.name.repository);
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
