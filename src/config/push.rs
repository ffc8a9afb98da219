//! What pushes are held to (contract 4.1, 4.7, 6).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, Show, Wrong, feature, flag, number, text};

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
    /// `ACTION_LOG_AUDIT_PUSH_FAILURES`, default false.
    pub log_failures: bool,
}

pub(super) fn read(r: &mut Reader<'_>) -> Push {
    let managed = r.setting("FEATURE_QUOTA_MANAGEMENT", false, feature);
    let verified = r.setting("FEATURE_VERIFY_QUOTA", true, feature);
    Push {
        disabled: r.setting("DISABLE_PUSHES", false, flag),
        maximum_layer_size: r.setting("MAXIMUM_LAYER_SIZE", 20_000_000_000, size),
        temp_tag_expiration: r.setting(
            "PUSH_TEMP_TAG_EXPIRATION_SEC",
            Duration::from_secs(3600),
            seconds,
        ),
        quotas: managed && verified,
        log_failures: r.setting("ACTION_LOG_AUDIT_PUSH_FAILURES", false, flag),
    }
}

fn seconds(value: &ValueKind) -> Parsed<Duration> {
    Ok(Duration::from_secs(number(1..=i64::from(u32::MAX))(value)?.unsigned_abs()))
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
