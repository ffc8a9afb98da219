//! `FEATURE_QUOTA_MANAGEMENT`, and what goes with it (contract §4.7).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, feature, flag, number};

/// Whether and how pushes are counted, and held to quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// `FEATURE_QUOTA_MANAGEMENT`, default false: what is pushed is counted.
    pub counted: bool,
    /// `FEATURE_VERIFY_QUOTA` (default true), where pushes are counted: they are held to quotas.
    pub enforced: bool,
    /// `QUOTA_INVALIDATE_TOTALS`, default true: without counting, old counts are made void.
    pub void_uncounted: bool,
    /// `FEATURE_QUOTA_SUPPRESS_FAILURES`, default false: what cannot be counted is pushed uncounted.
    pub suppress_failures: bool,
    /// `DEFAULT_SYSTEM_REJECT_QUOTA_BYTES`, bytes, default 0 for none: the quota of namespaces that
    /// have none of their own.
    pub default_bytes: i64,
    /// `QUOTA_NOTIFICATION_COOLDOWN_SECONDS`, default 86400 s: how often a namespace's channels are
    /// told at most. `None` unless `FEATURE_QUOTA_NOTIFICATIONS`.
    pub notifications: Option<Duration>,
}

pub(super) fn read(r: &mut Reader<'_>) -> Quotas {
    let counted = r.setting("FEATURE_QUOTA_MANAGEMENT", false, feature);
    let verified = r.setting("FEATURE_VERIFY_QUOTA", true, feature);
    let notified = r.setting("FEATURE_QUOTA_NOTIFICATIONS", false, feature);
    let cooldown = Duration::from_secs(86_400);
    let cooldown = r.setting("QUOTA_NOTIFICATION_COOLDOWN_SECONDS", cooldown, cooldown_seconds);
    Quotas {
        counted,
        enforced: counted && verified,
        void_uncounted: r.setting("QUOTA_INVALIDATE_TOTALS", true, flag),
        suppress_failures: r.setting("FEATURE_QUOTA_SUPPRESS_FAILURES", false, feature),
        default_bytes: r.setting("DEFAULT_SYSTEM_REJECT_QUOTA_BYTES", 0, number(0..=i64::MAX)),
        notifications: notified.then_some(cooldown),
    }
}

fn cooldown_seconds(value: &ValueKind) -> Parsed<Duration> {
    Ok(Duration::from_secs(number(0..=i64::from(u32::MAX))(value)?.unsigned_abs()))
}
