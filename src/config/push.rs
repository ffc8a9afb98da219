//! What pushes are held to (contract 4.1, 4.7, 6).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, Show, Wrong, feature, flag, names, seconds, text};
use crate::oci::PushRules;

/// What pushes are held to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Push {
    /// `DISABLE_PUSHES`, default false.
    pub disabled: bool,
    /// `MAXIMUM_LAYER_SIZE` in bytes, default `20G`, which is decimal here as in Python.
    pub maximum_layer_size: u64,
    /// `PUSH_TEMP_TAG_EXPIRATION_SEC`, default 3600 s: how long a blob is kept that no manifest
    /// names, and a manifest that no tag does.
    pub temp_tag_expiration: Duration,
    /// `FEATURE_QUOTA_MANAGEMENT` and `FEATURE_VERIFY_QUOTA`: pushes are held against quotas.
    pub quotas: bool,
    /// `FEATURE_QUOTA_MANAGEMENT`, default false: what is pushed is counted.
    pub quota_management: bool,
    /// `QUOTA_INVALIDATE_TOTALS`, default true: without counting, old counts are made void.
    pub invalidate_quota_totals: bool,
    /// `ACTION_LOG_AUDIT_PUSH_FAILURES`, default false.
    pub log_failures: bool,
    /// `ACTION_LOG_AUDIT_DELETE_FAILURES`, default false.
    pub log_delete_failures: bool,
    /// `FEATURE_GENERAL_OCI_SUPPORT`, default true: OCI manifests may be pushed.
    pub oci: bool,
    /// `OCI_NAMESPACE_WHITELIST`, default none: where they may be nevertheless.
    pub oci_namespaces: Vec<String>,
    /// `V22_NAMESPACE_BLACKLIST`, default none: namespaces that take schema 1 alone.
    pub schema1_namespaces: Vec<String>,
    /// `FEATURE_IMMUTABLE_TAGS`, default false.
    pub immutable_tags: bool,
    /// `FEATURE_IMMUTABLE_TAGS_CAN_EXPIRE`, default false.
    pub immutable_tags_can_expire: bool,
    /// `FEATURE_IMAGE_PULL_STATS`, default false: those of a deleted tag go with it.
    pub pull_stats: bool,
    /// `RESET_CHILD_MANIFEST_EXPIRATION`, default false: children go with the tag of their index.
    pub reset_child_expiration: bool,
    /// `REPLICATION_QUEUE_NAME`, default `imagestoragereplication`; `None` unless
    /// `FEATURE_STORAGE_REPLICATION`.
    pub replication_queue: Option<String>,
    /// `NOTIFICATION_QUEUE_NAME`, default `notification`.
    pub notification_queue: String,
}

impl Push {
    /// What manifests may be pushed to a namespace.
    pub fn rules(&self, namespace: &str) -> PushRules {
        let listed = |names: &[String]| names.iter().any(|name| name == namespace);
        PushRules {
            oci: self.oci || listed(&self.oci_namespaces),
            schema1_only: listed(&self.schema1_namespaces),
        }
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Push {
    let managed = r.setting("FEATURE_QUOTA_MANAGEMENT", false, feature);
    let verified = r.setting("FEATURE_VERIFY_QUOTA", true, feature);
    let replicated = r.setting("FEATURE_STORAGE_REPLICATION", false, feature);
    let replication_queue =
        r.setting("REPLICATION_QUEUE_NAME", "imagestoragereplication".into(), text);
    Push {
        disabled: r.setting("DISABLE_PUSHES", false, flag),
        maximum_layer_size: r.setting("MAXIMUM_LAYER_SIZE", 20_000_000_000, size),
        temp_tag_expiration: r.setting(
            "PUSH_TEMP_TAG_EXPIRATION_SEC",
            Duration::from_secs(3600),
            seconds,
        ),
        quotas: managed && verified,
        quota_management: managed,
        invalidate_quota_totals: r.setting("QUOTA_INVALIDATE_TOTALS", true, flag),
        log_failures: r.setting("ACTION_LOG_AUDIT_PUSH_FAILURES", false, flag),
        log_delete_failures: r.setting("ACTION_LOG_AUDIT_DELETE_FAILURES", false, flag),
        oci: r.setting("FEATURE_GENERAL_OCI_SUPPORT", true, feature),
        oci_namespaces: r.setting("OCI_NAMESPACE_WHITELIST", Vec::new(), names),
        schema1_namespaces: r.setting("V22_NAMESPACE_BLACKLIST", Vec::new(), names),
        immutable_tags: r.setting("FEATURE_IMMUTABLE_TAGS", false, feature),
        immutable_tags_can_expire: r.setting("FEATURE_IMMUTABLE_TAGS_CAN_EXPIRE", false, feature),
        pull_stats: r.setting("FEATURE_IMAGE_PULL_STATS", false, feature),
        reset_child_expiration: r.setting("RESET_CHILD_MANIFEST_EXPIRATION", false, flag),
        replication_queue: replicated.then_some(replication_queue),
        notification_queue: r.setting("NOTIFICATION_QUEUE_NAME", "notification".into(), text),
    }
}

/// As the release of bitmath that Quay pins reads it: letters of any case, `20G` and `20GB` decimal,
/// `20Gi` and `20GiB` binary, a bare number bytes. nginx reads `20G` as binary.
fn size(value: &ValueKind) -> Parsed<u64> {
    let text = match value {
        ValueKind::I64(bytes) => bytes.to_string(),
        value => text(value)?,
    };
    let wrong = || {
        let reason = format!("{} is not a size", text.show());
        Wrong::new(reason, "write a number and a unit, such as 20G or 512MiB")
    };
    let plain = text.trim().to_ascii_lowercase();
    let digits = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let (amount, unit) = plain.split_at(digits);
    let unit = unit.trim();
    let unit = unit.strip_suffix("bytes").or(unit.strip_suffix("byte")).unwrap_or(unit);
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024f64),
        None => (unit, 1000f64),
    };
    let power = match letter {
        "" => 0,
        letter => {
            1 + ["k", "m", "g", "t", "p", "e"]
                .iter()
                .position(|l| *l == letter)
                .ok_or_else(wrong)?
        }
    };
    let amount: f64 = amount.parse().map_err(|_| wrong())?;
    let bytes = amount * base.powi(i32::try_from(power).unwrap_or(i32::MAX));
    if !bytes.is_finite() || bytes < 1.0 || bytes > i64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        size(&ValueKind::String(text.to_owned())).ok()
    }

    /// What bitmath 1.3.3.1 makes of the same texts.
    #[test]
    fn sizes() {
        for (text, expected) in [
            ("20G", 20_000_000_000),
            ("20GB", 20_000_000_000),
            ("20g", 20_000_000_000),
            ("20Gi", 20 << 30),
            ("20 GiB", 20 << 30),
            ("1KiB", 1024),
            ("1.5M", 1_500_000),
            ("512", 512),
            ("512B", 512),
            ("1T", 1_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "G", "-1G", "20X", "20GG", "many", "0", "9999999E"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(size(&ValueKind::I64(1024)).ok(), Some(1024));
    }
}
