//! Who is told of a quota that a push has reached (contract §4.7): the namespace's administrators
//! in Quay's pages, and its channels through Quay's worker.

use std::time::Duration;

use chrono::{Local, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::quotas::Severity;
use super::transaction::Transaction;
use super::value::Sql;

/// Whoever is told in Quay's pages: of an organization its administrators, else the user. `$1`
/// namespace, `$2` kind. A row for each time they were told already.
const ADMINISTRATORS: &str = "\
    SELECT a.id, x.metadata_json FROM ( \
        SELECT n.id FROM \"user\" n WHERE n.id = $1 AND NOT n.organization \
        UNION SELECT u.id FROM \"user\" n JOIN team t ON t.organization_id = n.id \
        JOIN teamrole o ON o.id = t.role_id AND o.name = 'admin' \
        JOIN teammember m ON m.team_id = t.id \
        JOIN \"user\" u ON u.id = m.user_id AND NOT u.robot \
        WHERE n.id = $1 AND n.organization) a \
    LEFT JOIN notification x ON x.target_id = a.id \
        AND x.kind_id = (SELECT k.id FROM notificationkind k WHERE k.name = $2) \
    ORDER BY a.id, x.id";

macro_rules! tell {
    ($rows:literal, $uuid:literal, $target:literal) => {
        concat!(
            "INSERT INTO notification (uuid, kind_id, target_id, metadata_json, created, \
                 dismissed) SELECT ",
            $uuid,
            ", k.id, ",
            $target,
            ", $3, $4, false FROM ",
            $rows,
            " JOIN notificationkind k ON k.name = $2"
        )
    };
}

/// `$1` uuids and targets, in JSON; `$2` kind, `$3` metadata, `$4` now.
const TELL: Sql = Sql {
    postgres: tell!("json_array_elements($1::json) e", "e ->> 0", "(e ->> 1)::int4"),
    sqlite: tell!("json_each($1) e", "e.value ->> 0", "e.value ->> 1"),
};

const CHANNELS: &str = "\
    SELECT c.uuid FROM namespacenotification c \
    JOIN externalnotificationevent e ON e.id = c.event_id \
    WHERE c.namespace_id = $1 AND e.name = $2 ORDER BY c.id";

/// Makes it this push that tells the channels of a limit: `$3` now, `$4` when they may have been
/// told last. Of many pushes at once it is one.
const CLAIM: &str = "\
    INSERT INTO quotanotificationstate (namespace_id, threshold_percent, last_notified_at, cleared) \
    VALUES ($1, $2, $3, false) ON CONFLICT (namespace_id, threshold_percent) DO UPDATE \
    SET last_notified_at = excluded.last_notified_at, cleared = false \
    WHERE quotanotificationstate.cleared OR quotanotificationstate.last_notified_at IS NULL \
        OR quotanotificationstate.last_notified_at <= $4 RETURNING id";

impl Severity {
    /// `notificationkind.name`, and `externalnotificationevent.name`.
    pub fn event(self) -> &'static str {
        match self {
            Self::Warning => "quota_warning",
            Self::Reject => "quota_error",
        }
    }
}

/// What channels are told.
#[derive(Clone, Copy, Debug)]
pub struct ChannelNotice<'a> {
    /// The limit that was reached.
    pub severity: Severity,
    /// Percent of the quota that it is.
    pub percent: i32,
    /// How often they are told of it at most.
    pub cooldown: Duration,
    /// `queueitem.queue_name`
    pub queue: &'a str,
    /// The body of an item, after the channel's uuid.
    pub event: &'a str,
}

impl Session<'_> {
    /// Tells the administrators of a namespace, unless they have been told the same before.
    /// `metadata` is a JSON object.
    pub async fn tell_administrators(
        &self,
        namespace_id: i32,
        severity: Severity,
        metadata: &str,
    ) -> Result<(), CatalogError> {
        self.transaction(async |transaction| {
            transaction.tell_administrators(namespace_id, severity, metadata).await
        })
        .await
    }

    /// Tells the channels of a namespace, unless they were told of the same limit a while ago.
    pub async fn tell_channels(
        &self,
        namespace_id: i32,
        notice: &ChannelNotice<'_>,
    ) -> Result<(), CatalogError> {
        self.transaction(async |transaction| {
            let event = notice.severity.event();
            let channels =
                transaction.query(CHANNELS, &[namespace_id.into(), event.into()]).await?;
            let now = Utc::now().naive_utc();
            let last = now - notice.cooldown;
            let claim = [namespace_id.into(), notice.percent.into(), now.into(), last.into()];
            if channels.is_empty() || transaction.id(CLAIM, &claim).await?.is_none() {
                return Ok(());
            }
            let uuids: Vec<&str> =
                channels.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
            transaction.announce(&uuids, notice.queue, notice.event).await
        })
        .await
    }
}

impl Transaction<'_> {
    pub(super) async fn tell_administrators(
        &mut self,
        namespace_id: i32,
        severity: Severity,
        metadata: &str,
    ) -> Result<(), CatalogError> {
        let kind = severity.event();
        let told = self.query(ADMINISTRATORS, &[namespace_id.into(), kind.into()]).await?;
        let mut targets: Vec<(i32, bool)> = Vec::new();
        for row in &told {
            let (target, before): (i32, Option<&str>) = (row.get(0)?, row.get(1)?);
            let same = before.is_some_and(|before| includes(before, metadata));
            match targets.last_mut().filter(|(last, _)| *last == target) {
                Some((_, already)) => *already |= same,
                None => targets.push((target, same)),
            }
        }
        let new: Vec<(String, i32)> = targets
            .into_iter()
            .filter(|(_, already)| !already)
            .map(|(target, _)| (Uuid::new_v4().to_string(), target))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let new = serde_json::json!(new).to_string();
        let now = Local::now().naive_local();
        let params = [(&new).into(), kind.into(), metadata.into(), now.into()];
        self.query(TELL, &params).await.map(drop)
    }
}

/// Whether one JSON object says all that another does.
fn includes(object: &str, other: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    let (Some(Value::Object(object)), Some(Value::Object(other))) = (parsed(object), parsed(other))
    else {
        return false;
    };
    other.iter().all(|(key, value)| object.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_more_was_told() {
        let new = r#"{"namespace": "acme"}"#;
        for (before, expected) in [
            (r#"{"namespace": "acme"}"#, true),
            (r#"{"severity": "Reject", "namespace": "acme"}"#, true),
            (r#"{"namespace": "other"}"#, false),
            ("{}", false),
            ("", false),
            ("[]", false),
        ] {
            assert_eq!(includes(before, new), expected, "{before}");
        }
        assert!(!includes(new, r#"{"severity": "Reject", "namespace": "acme"}"#));
    }
}
