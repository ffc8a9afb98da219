//! Organizations that are made by pushing to them (contract 2.3, 4.8).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, Show, Wrong, feature, flag, number, text};
use crate::oci::manifest::expires_after;

/// What a new organization gets, and what it may not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    /// `CREATE_NAMESPACE_ON_PUSH`, default false: a push makes one.
    pub on_push: bool,
    /// `DEFAULT_TAG_EXPIRATION`, default `2w`: how long what was deleted is kept.
    pub tag_expiration: Duration,
    /// `FEATURE_MAILING`, default true: its e-mail address has to look like one.
    pub mailing: bool,
    /// `FEATURE_ORG_SHARED_EMAIL`, default false: it may be that of a user.
    pub shared_email: bool,
    /// `DEFAULT_NAMESPACE_MAXIMUM_BUILD_COUNT`, default none.
    pub maximum_builds: Option<i32>,
}

pub(super) fn read(r: &mut Reader<'_>) -> NewNamespaces {
    NewNamespaces {
        on_push: r.setting("CREATE_NAMESPACE_ON_PUSH", false, flag),
        tag_expiration: r.setting("DEFAULT_TAG_EXPIRATION", Duration::from_secs(1_209_600), span),
        mailing: r.setting("FEATURE_MAILING", true, feature),
        shared_email: r.setting("FEATURE_ORG_SHARED_EMAIL", false, feature),
        maximum_builds: r.setting("DEFAULT_NAMESPACE_MAXIMUM_BUILD_COUNT", None, count),
    }
}

fn count(value: &ValueKind) -> Parsed<Option<i32>> {
    match value {
        ValueKind::Nil => Ok(None),
        value => Ok(i32::try_from(number(0..=i64::from(i32::MAX))(value)?).ok()),
    }
}

/// `<number><unit>`, as of the label `quay.expires-after`; here nothing is a time too.
fn span(value: &ValueKind) -> Parsed<Duration> {
    let text = text(value)?;
    let zero = text.strip_suffix(['s', 'm', 'h', 'd', 'w', 'y']).is_some_and(|n| n.trim() == "0");
    match expires_after(&text) {
        None if zero => Ok(Duration::ZERO),
        lives => lives.ok_or_else(|| {
            let reason = format!("{} is not a time", text.show());
            Wrong::new(reason, "write a number and a unit (s, m, h, d, w, y), such as 2w")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let seconds = |text: &str| span(&ValueKind::String(text.to_owned())).ok();
        for (text, expected) in [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("1d", Some(86_400)),
            ("2w", Some(1_209_600)),
            ("", None),
            ("2", None),
            ("w", None),
            ("-1d", None),
            ("2 weeks", None),
        ] {
            assert_eq!(seconds(text), expected.map(Duration::from_secs), "{text}");
        }
    }
}
