//! What others are told of pushes, as Python spells it: notifications for Quay's worker, and for its
//! pages (contract §4.7, §4.10).

use super::manifests::Target;
use crate::audit::push_python_string;
use crate::catalog::{Crossed, Performer, PerformerDetail, Severity};
use crate::config;
use crate::oci::RepoName;

/// Bodies and queues of notifications.
#[derive(Clone, Debug)]
pub(super) struct Notices {
    queue: String,
    hostname: String,
    base_url: String,
}

impl Notices {
    pub(super) fn new(queue: &str, server: &config::Server) -> Self {
        let (queue, hostname) = (queue.to_owned(), server.hostname.clone());
        Self { queue, hostname, base_url: server.base_url() }
    }

    /// The queue of a repository's pushes.
    pub(super) fn queue(&self, name: &RepoName) -> String {
        format!("{}/{}/{}/repo_push/", self.queue, name.namespace, name.repository)
    }

    /// The body of an item of the queue, after the notification's uuid.
    pub(super) fn event(
        &self,
        name: &RepoName,
        target: Target<'_>,
        by: Option<&Performer>,
    ) -> String {
        let tag = match target {
            Target::Tag(tag) => text(tag),
            Target::Digest(_) => return String::new(),
        };
        let Self { hostname, base_url, .. } = self;
        let (repository, namespace) = (text(&name.to_string()), text(&name.namespace));
        let url = text(&format!("{hostname}/{name}"));
        let homepage = text(&format!("{base_url}/repository/{name}"));
        format!(
            "\"event_data\": {{\"repository\": {repository}, \"namespace\": {namespace}, \
             \"name\": {}, \"docker_url\": {url}, \"homepage\": {homepage}, \
             \"updated_tags\": [{tag}]}}, \"performer_data\": {{{}}}}}",
            text(&name.repository),
            by.map(performer_data).unwrap_or_default(),
        )
    }

    /// The queue of a namespace's quota.
    pub(super) fn quota_queue(&self, namespace: &str, severity: Severity) -> String {
        format!("{}/{namespace}/{}/", self.queue, severity.event())
    }

    /// The body of an item of that queue, after the notification's uuid.
    pub(super) fn quota_event(
        &self,
        namespace: &str,
        crossed: Crossed,
        by: Option<&Performer>,
    ) -> String {
        let Crossed { percent, used, quota, .. } = crossed;
        let homepage = text(&format!("{}/organization/{namespace}", self.base_url));
        format!(
            "\"event_data\": {{\"namespace\": {}, \"homepage\": {homepage}, \
             \"threshold_percent\": {percent}, \"usage_bytes\": {used}, \
             \"limit_bytes\": {quota}, \"usage_percent\": {}, \
             \"usage_bytes_formatted\": \"{}\", \"limit_bytes_formatted\": \"{}\"}}, \
             \"performer_data\": {{{}}}, \"notification_type\": \"namespace\"}}",
            text(namespace),
            (used as f64 * 100.0 / (quota.max(1) as f64)) as i64,
            readable(used),
            readable(quota),
            by.map(performer_data).unwrap_or_default(),
        )
    }
}

/// What Quay's pages say of a quota that is reached; of an upload that was `refused` they say so.
pub(super) fn quota_metadata(namespace: &str, refused: bool) -> String {
    let severity = if refused { "\"severity\": \"Reject\", " } else { "" };
    format!("{{{severity}\"namespace\": {}}}", text(namespace))
}

/// A number of bytes for people.
fn readable(bytes: i64) -> String {
    let (mut value, mut units) = (bytes as f64, ["KB", "MB", "GB", "TB"].iter());
    let mut unit = "bytes";
    while value.abs() >= 1024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "bytes" => format!("{bytes} bytes"),
        unit => format!("{value:.2} {unit}"),
    }
}

fn performer_data(performer: &Performer) -> String {
    let Some((id, username)) = performer.id.zip(performer.username.as_deref()) else {
        return String::new();
    };
    let mut data = format!("\"entity_id\": {id}, \"entity_name\": {}", text(username));
    if let PerformerDetail::OAuthToken { id, client_id, application } = &performer.detail {
        data.push_str(&format!(
            ", \"oauth_token_id\": {id}, \"oauth_token_application_id\": {}, \
             \"oauth_token_application\": {}",
            text(client_id),
            text(application)
        ));
    }
    data
}

/// As `json.dumps` writes it.
fn text(value: &str) -> String {
    let mut json = String::new();
    push_python_string(&mut json, value);
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body that a real Quay queued for the same push.
    #[test]
    fn notices_are_spelled_as_python_does() {
        let notices = Notices {
            queue: "notification".into(),
            hostname: "localhost:18080".into(),
            base_url: "http://localhost:18080".into(),
        };
        let name = RepoName { namespace: "acme".into(), repository: "scratch".into() };
        let admin = Performer {
            id: Some(1),
            username: Some("admin".into()),
            detail: PerformerDetail::User,
        };
        let event = notices.event(&name, Target::Tag("u4"), Some(&admin));
        assert_eq!(
            format!("{{\"notification_uuid\": \"1\", {event}"),
            r#"{"notification_uuid": "1", "event_data": {"repository": "acme/scratch", "namespace": "acme", "name": "scratch", "docker_url": "localhost:18080/acme/scratch", "homepage": "http://localhost:18080/repository/acme/scratch", "updated_tags": ["u4"]}, "performer_data": {"entity_id": 1, "entity_name": "admin"}}"#
        );
        assert_eq!(notices.queue(&name), "notification/acme/scratch/repo_push/");
        let nobody = notices.event(&name, Target::Tag("u4"), None);
        assert!(nobody.ends_with("\"performer_data\": {}}"), "{nobody}");
    }

    #[test]
    fn quotas_are_told_as_python_does() {
        let notices = Notices {
            queue: "notification".into(),
            hostname: "quay.example".into(),
            base_url: "https://quay.example".into(),
        };
        let severity = Severity::Warning;
        let crossed = Crossed { severity, percent: 80, used: 1_610_612_736, quota: 2_000_000_000 };
        let event = notices.quota_event("acme", crossed, None);
        assert_eq!(
            format!("{{\"notification_uuid\": \"1\", {event}"),
            r#"{"notification_uuid": "1", "event_data": {"namespace": "acme", "homepage": "https://quay.example/organization/acme", "threshold_percent": 80, "usage_bytes": 1610612736, "limit_bytes": 2000000000, "usage_percent": 80, "usage_bytes_formatted": "1.50 GB", "limit_bytes_formatted": "1.86 GB"}, "performer_data": {}, "notification_type": "namespace"}"#
        );
        assert_eq!(notices.quota_queue("acme", severity), "notification/acme/quota_warning/");
        assert_eq!(quota_metadata("acme", true), r#"{"severity": "Reject", "namespace": "acme"}"#);
        assert_eq!(quota_metadata("acme", false), r#"{"namespace": "acme"}"#);
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00 KB"),
            (1_048_575, "1024.00 KB"),
            (1 << 50, "1024.00 TB"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }
}
