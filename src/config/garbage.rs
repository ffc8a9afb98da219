//! When garbage is collected (contract 3.4, 4.2).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, feature, number, seconds};

/// What Quay's workers that clean up are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Garbage {
    /// `FEATURE_GARBAGE_COLLECTION`, default true.
    pub collected: bool,
    /// `GARBAGE_COLLECTION_FREQUENCY`, seconds between two runs. Its default is 3600 here, where a run
    /// is about everything; Quay's looks at one repository every 30 s.
    pub every: Duration,
    /// `BLOBUPLOAD_DELETION_DATE_THRESHOLD`, default 2880 minutes: uploads are given up after this.
    pub uploads_after: Duration,
}

/// Nothing is at once, as in Quay; a moment, so that there is time for anything else.
fn every(value: &ValueKind) -> Parsed<Duration> {
    let seconds = number(0..=i64::from(u32::MAX))(value)?.unsigned_abs();
    Ok(Duration::from_secs(seconds).max(Duration::from_millis(10)))
}

pub(super) fn read(r: &mut Reader<'_>) -> Garbage {
    let minutes = |value: &_| Ok(seconds(value)? * 60);
    Garbage {
        collected: r.setting("FEATURE_GARBAGE_COLLECTION", true, feature),
        every: r.setting("GARBAGE_COLLECTION_FREQUENCY", Duration::from_secs(3600), every),
        uploads_after: r.setting(
            "BLOBUPLOAD_DELETION_DATE_THRESHOLD",
            Duration::from_secs(2880 * 60),
            minutes,
        ),
    }
}
