//! What is shared with the rest of Quay beside the database, through its Redis and memcached.
//!
//! - [`Events`]: events for the users' browsers, and how often what is pulled. Never waited for,
//!   bounded, and lost where Redis is (contract §2.2.7, §4.9, §4.12).
//! - [`BlobLocks`]: the lock that keeps Quay's garbage collector from a blob while it is pushed.
//! - [`StaleCaches`]: what Python must not serve from its cache after a write of ours.
//!
//! The last two are waited for, briefly; without their server everything goes on.

mod connection;
mod health;
mod lock;
mod memcached;
mod own_lock;
mod sink;
mod stale;

use std::sync::Arc;

use chrono::Utc;
use tokio::task::JoinSet;

pub use lock::{BlobLock, BlobLocks, LockState};
pub use stale::StaleCaches;

use sink::Sink;

use crate::audit::push_python_string;
use crate::config;
use crate::oci::RepoName;
use crate::telemetry::Metrics;

/// Where events go. Cheap to clone; when the last clone is gone what waits is sent.
#[derive(Clone)]
pub struct Events {
    user_events: Option<Sink>,
    pull_stats: Option<Sink>,
}

/// What a user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Got a token, for a first repository where one was asked for.
    Token(Option<(&'a RepoName, &'a [&'static str])>),
    /// Got a manifest.
    Pull(&'a RepoName),
    /// Moved a tag.
    Push(&'a RepoName),
    /// Deleted a tag.
    Delete(&'a RepoName),
}

/// A manifest that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Pulled<'a> {
    /// `repository.id`
    pub repository_id: i32,
    /// The tag it was asked for by, if it was.
    pub tag: Option<&'a str>,
    /// Its digest.
    pub digest: &'a str,
}

impl Events {
    /// Starts a sender for each Redis that is configured, which ends after the last clone.
    pub fn start(config: &config::Events, metrics: &Arc<Metrics>) -> (Self, JoinSet<()>) {
        let mut senders = JoinSet::new();
        let mut sink = |name, redis: &Option<config::Redis>| {
            Sink::start(name, redis.as_ref()?, metrics.clone(), &mut senders)
        };
        let events = Self {
            user_events: sink("user_events", &config.user_events),
            pull_stats: sink("pull_stats", &config.pull_stats),
        };
        (events, senders)
    }

    /// Tells the browsers of a user or a robot what was done in their name.
    pub fn user_did(&self, username: &str, action: Action<'_>) {
        let Some(sink) = &self.user_events else { return };
        let mut publish = redis::pipe();
        publish.publish(format!("user/{username}/events/docker-cli"), action.to_json());
        sink.send(publish);
    }

    /// Counts a pull, in the fields that Quay's worker collects (contract §4.12).
    pub fn pulled(&self, pulled: Pulled<'_>) {
        let Some(sink) = &self.pull_stats else { return };
        let Pulled { repository_id, tag, digest } = pulled;
        let (key, method) = match tag {
            Some(tag) => (format!("pull_events:repo:{repository_id}:tag:{tag}:{digest}"), "tag"),
            None => (format!("pull_events:repo:{repository_id}:digest:{digest}"), "digest"),
        };
        let mut count = redis::pipe();
        count
            .atomic()
            .hset_nx(&key, "repository_id", repository_id)
            .hset_nx(&key, "tag_name", tag.unwrap_or_default())
            .hset_nx(&key, "manifest_digest", digest)
            .hincr(&key, "pull_count", 1)
            .hset(&key, "last_pull_timestamp", Utc::now().timestamp())
            .hset_nx(&key, "pull_method", method);
        sink.send(count);
    }
}

impl Action<'_> {
    /// As `json.dumps` writes Quay's dictionaries, whose keys differ in order.
    fn to_json(self) -> String {
        let text = |value: &str| {
            let mut json = String::new();
            push_python_string(&mut json, value);
            json
        };
        let done = |action, name: &RepoName| {
            let (namespace, repository) = (text(&name.namespace), text(&name.repository));
            format!(
                r#"{{"action": "{action}", "repository": {repository}, "namespace": {namespace}}}"#
            )
        };
        match self {
            Self::Token(None) => r#"{"action": "login"}"#.to_owned(),
            Self::Token(Some((name, actions))) => {
                let action = match actions {
                    actions if actions.contains(&"push") => "push_start",
                    actions if actions.contains(&"pull") => "pull_start",
                    _ => "login",
                };
                let (namespace, repository) = (text(&name.namespace), text(&name.repository));
                format!(
                    r#"{{"action": "{action}", "namespace": {namespace}, "repository": {repository}}}"#
                )
            }
            Self::Pull(name) => done("pull_repo", name),
            Self::Push(name) => done("push_repo", name),
            Self::Delete(name) => done("delete_tag", name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages that a real Quay published for the same requests.
    #[test]
    fn events_are_spelled_as_python_does() {
        let app = RepoName { namespace: "acme".into(), repository: "app".into() };
        for (action, expected) in [
            (Action::Token(None), r#"{"action": "login"}"#),
            (
                Action::Token(Some((&app, &["pull"]))),
                r#"{"action": "pull_start", "namespace": "acme", "repository": "app"}"#,
            ),
            (
                Action::Token(Some((&app, &["push", "pull"]))),
                r#"{"action": "push_start", "namespace": "acme", "repository": "app"}"#,
            ),
            (
                Action::Token(Some((&app, &[]))),
                r#"{"action": "login", "namespace": "acme", "repository": "app"}"#,
            ),
            (
                Action::Pull(&app),
                r#"{"action": "pull_repo", "repository": "app", "namespace": "acme"}"#,
            ),
            (
                Action::Push(&app),
                r#"{"action": "push_repo", "repository": "app", "namespace": "acme"}"#,
            ),
            (
                Action::Delete(&app),
                r#"{"action": "delete_tag", "repository": "app", "namespace": "acme"}"#,
            ),
        ] {
            assert_eq!(action.to_json(), expected);
        }
    }
}
