//! What the action log and those who asked to be notified learn of a sync, in Quay's words
//! (contract §7.3).

use super::SyncError;
use super::claim::ROUTE;
use super::copy::Copied;
use super::globs::Globs;
use crate::audit::{Audit, Mirrored, Place, push_python_string};
use crate::catalog::{Catalog, Mirror};
use crate::config::Config;

const NOT_APPLICABLE: Option<&str> = Some("Not applicable");

/// Writes what happens to one mirror.
pub(super) struct Log<'a> {
    pub(super) audit: &'a Audit,
    pub(super) catalog: &'a Catalog,
    pub(super) config: &'a Config,
    pub(super) mirror: &'a Mirror,
}

impl Log<'_> {
    /// The place and the rule, which most messages begin with.
    fn about(&self) -> String {
        // What cannot be read is shown as it is stored.
        let rule = Globs::parse(&self.mirror.rule_value).map(|globs| globs.text());
        let rule = rule.unwrap_or_else(|_| self.mirror.rule_value.clone());
        format!("'{}' with tag pattern '{rule}'", self.mirror.external_reference)
    }

    pub(super) async fn started(&self) -> Result<(), SyncError> {
        let message = &self.about();
        let kind = "repo_mirror_sync_started";
        self.write(Mirrored { kind, verb: "start", message, ..Mirrored::default() }).await
    }

    /// The tags could not be listed, or nothing was begun at all.
    pub(super) async fn not_begun(&self, error: &SyncError) -> Result<(), SyncError> {
        let refused = error.reason() == "invalid_source_registry";
        let message = match refused {
            true => "Source registry location is not allowed".to_owned(),
            false => format!("{}: {error}", self.about()),
        };
        let text = error.to_string();
        self.write(Mirrored {
            kind: "repo_mirror_sync_failed",
            verb: "end",
            message: &message,
            tags: Some(""),
            stdout: NOT_APPLICABLE,
            stderr: Some(&text),
            ..Mirrored::default()
        })
        .await
    }

    /// One tag's line.
    pub(super) async fn copied(
        &self,
        tag: &str,
        copied: &Result<Copied, SyncError>,
    ) -> Result<(), SyncError> {
        match copied {
            Ok(copied) => self.tag_copied(tag, &copied.describe()).await,
            Err(SyncError::Ended(_)) => Ok(()),
            Err(error) => self.tag_failed(tag, &error.to_string()).await,
        }
    }

    async fn tag_copied(&self, tag: &str, what: &str) -> Result<(), SyncError> {
        let message = format!("Source '{}' successful sync", self.source(tag));
        self.write(Mirrored {
            kind: "repo_mirror_sync_tag_success",
            verb: "finish",
            message: &message,
            tag: Some(tag),
            stdout: Some(what),
            stderr: Some(""),
            ..Mirrored::default()
        })
        .await
    }

    async fn tag_failed(&self, tag: &str, why: &str) -> Result<(), SyncError> {
        let message = format!("Source '{}' failed to sync", self.source(tag));
        self.write(Mirrored {
            kind: "repo_mirror_sync_tag_failed",
            verb: "finish",
            message: &message,
            tag: Some(tag),
            stdout: Some(""),
            stderr: Some(why),
            ..Mirrored::default()
        })
        .await
    }

    pub(super) async fn succeeded(&self, tags: &[String]) -> Result<(), SyncError> {
        let tags = if tags.is_empty() { "No tags matched".to_owned() } else { tags.join(", ") };
        self.write(Mirrored {
            kind: "repo_mirror_sync_success",
            verb: "end",
            message: &self.about(),
            tags: Some(&tags),
            ..Mirrored::default()
        })
        .await
    }

    /// Some tags failed: those that did not stay as they are now, unless all is to be undone.
    pub(super) async fn failed(
        &self,
        tags: &[String],
        failed: &[(String, String)],
        undone: bool,
    ) -> Result<(), SyncError> {
        let (mut message, mut marked) = (self.about(), Vec::new());
        if !failed.is_empty() && failed.len() < tags.len() && !undone {
            message.push_str(": PARTIAL SYNC");
            let lost = |tag: &String| failed.iter().any(|(name, _)| name == tag);
            marked = tags
                .iter()
                .map(|tag| if lost(tag) { format!("{tag}(FAILED)") } else { tag.clone() })
                .collect();
        }
        let why: Vec<String> =
            failed.iter().take(20).map(|(tag, why)| format!("{tag}: {why}")).collect();
        self.write(Mirrored {
            kind: "repo_mirror_sync_failed",
            verb: "lost",
            message: &message,
            tags: Some(&marked.join(", ")),
            stdout: NOT_APPLICABLE,
            stderr: Some(&why.join("\n")),
            ..Mirrored::default()
        })
        .await
    }

    pub(super) async fn cancelled(&self, tags: &[String]) -> Result<(), SyncError> {
        self.write(Mirrored {
            kind: "repo_mirror_sync_failed",
            verb: "Cancelled",
            message: &self.about(),
            tags: Some(&tags.join(", ")),
            ..Mirrored::default()
        })
        .await
    }

    fn source(&self, tag: &str) -> String {
        format!("docker://{}:{tag}", self.mirror.external_reference)
    }

    async fn write(&self, event: Mirrored<'_>) -> Result<(), SyncError> {
        let Mirror { name, namespace_id, repository_id, .. } = self.mirror;
        let (namespace_id, repository_id) = (*namespace_id, Some(*repository_id));
        self.audit.mirrored(&Place { name, namespace_id, repository_id }, &event).await?;
        if event.tag.is_some() {
            return Ok(());
        }
        let queue = &self.config.push.notification_queue;
        let queue = format!("{queue}/{}/{}/", self.mirror.name, event.kind);
        let body = self.notification(event.message);
        let db = self.catalog.session(ROUTE);
        db.notify_mirror(self.mirror.repository_id, event.kind, &queue, &body).await?;
        Ok(())
    }

    /// The body of an item of the queue, after the notification's uuid.
    fn notification(&self, message: &str) -> String {
        let (name, server) = (&self.mirror.name, &self.config.server);
        format!(
            "\"event_data\": {{\"repository\": {}, \"namespace\": {}, \"name\": {}, \
             \"docker_url\": {}, \"homepage\": {}, \"message\": {}}}, \"performer_data\": {{}}}}",
            text(&name.to_string()),
            text(&name.namespace),
            text(&name.repository),
            text(&format!("{}/{name}", server.hostname)),
            text(&format!("{}/repository/{name}", server.base_url())),
            text(message),
        )
    }
}

/// As `json.dumps` writes it.
fn text(value: &str) -> String {
    let mut json = String::new();
    push_python_string(&mut json, value);
    json
}
