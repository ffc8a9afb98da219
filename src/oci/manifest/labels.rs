//! Labels, and the two that do something to a tag.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::json::is_json;

/// The label that says how long a tag lives: see [`expires_after`].
pub const EXPIRES_AFTER: &str = "quay.expires-after";
/// The label that makes a tag immutable: see [`is_immutable_label`].
pub const IMMUTABLE: &str = "quay.immutable";

/// Length of `label.key`, characters.
const KEY: usize = 255;
/// What Python's `timedelta` can hold, days.
const MAX_DAYS: u64 = 999_999_999;
const SECONDS_A_DAY: u64 = 86_400;

/// A row of `label`, which is also what a tag may be told (contract §4.4 step 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Never empty, at most 255 characters.
    pub key: String,
    /// Any text.
    pub value: String,
    /// What the value is taken for.
    pub media_type: LabelType,
}

/// The media type of a label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelType {
    /// `text/plain`
    Text,
    /// `application/json`
    Json,
}

impl LabelType {
    /// As in `mediatype.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
        }
    }

    /// Objects and lists are JSON, if they are; nothing else is.
    fn of(value: &str) -> Self {
        let bracketed = |open, close| value.starts_with(open) && value.ends_with(close);
        match (bracketed('{', '}') || bracketed('[', ']')) && is_json(value) {
            true => Self::Json,
            false => Self::Text,
        }
    }
}

/// Labels of which a later one takes the place of an earlier one of the same key, as in a Python
/// dictionary. One without a key means nothing, and one that PostgreSQL cannot hold (Quay stores
/// the manifest, then fails with 500) is left out.
pub(super) fn overlaid(pairs: impl Iterator<Item = (String, String)>) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    let mut positions = HashMap::new();
    for (key, value) in pairs.filter(|(key, _)| !key.is_empty() && key.chars().count() <= KEY) {
        let media_type = LabelType::of(&value);
        match positions.get(&key) {
            Some(&position) => labels[position] = Label { key, value, media_type },
            None => {
                positions.insert(key.clone(), labels.len());
                labels.push(Label { key, value, media_type });
            }
        }
    }
    labels.retain(|label| !label.key.contains('\0') && !label.value.contains('\0'));
    labels
}

/// What the labels of a list's children have in common, keys and values: the ones that a tag of
/// the list obeys (contract §4.4 step 8). A child that is a list has none.
pub fn common_labels(children: &[Vec<Label>]) -> Vec<Label> {
    let Some((first, others)) = children.split_first() else { return Vec::new() };
    let pair = |label: &Label| (label.key.clone(), label.value.clone());
    let others: Vec<HashSet<_>> =
        others.iter().map(|labels| labels.iter().map(pair).collect()).collect();
    let shared = |label: &&Label| others.iter().all(|labels| labels.contains(&pair(label)));
    first.iter().filter(shared).cloned().collect()
}

/// How long a tag lives by the value of its [`EXPIRES_AFTER`] label: a whole number and one of
/// `s m h d w y`, a year being 365 days. `None`, for ever, for everything else, for no time at
/// all, and for more than Python's `timedelta` can hold.
///
/// The tag of a negative time is born dead in Quay; here it lives for ever.
pub fn expires_after(value: &str) -> Option<Duration> {
    let unit = value.chars().next_back()?;
    let number = integer(value.strip_suffix(unit)?)?;
    let seconds = number.checked_mul(match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => SECONDS_A_DAY,
        'w' => 7 * SECONDS_A_DAY,
        'y' => 365 * SECONDS_A_DAY,
        _ => return None,
    })?;
    let lives = seconds > 0 && seconds / SECONDS_A_DAY <= MAX_DAYS;
    lives.then(|| Duration::from_secs(seconds))
}

/// A whole number that is not negative, as Python's `int` reads it: white space around it, a
/// sign, and single underscores between its digits.
fn integer(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let group = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    digits.split('_').all(group).then(|| digits.replace('_', "").parse().ok()).flatten()
}

/// Whether a label of this value makes its tag immutable, where `FEATURE_IMMUTABLE_TAGS` is on.
pub fn is_immutable_label(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<Label> {
        overlaid(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_last_value_at_the_first_place() {
        let overlaid = labels(&[("a", "1"), ("", "x"), ("b", "2"), ("a", "{}"), ("c", "3")]);
        let seen: Vec<_> = overlaid.iter().map(|l| (l.key.as_str(), l.value.as_str())).collect();
        assert_eq!(seen, [("a", "{}"), ("b", "2"), ("c", "3")]);
        assert_eq!(overlaid[0].media_type, LabelType::Json);
    }

    #[test]
    fn what_cannot_be_stored_is_left_out() {
        let (longest, longer) = ("ß".repeat(255), "ß".repeat(256));
        let kept =
            labels(&[(&longest, "1"), (&longer, "2"), ("a\0", "3"), ("b", "\0"), ("c", "4")]);
        let keys: Vec<_> = kept.iter().map(|label| label.key.as_str()).collect();
        assert_eq!(keys, [longest.as_str(), "c"]);
    }

    #[test]
    fn objects_and_lists_are_json() {
        for (value, json) in [
            ("{}", true),
            ("[1, {\"a\": null}]", true),
            ("{a}", false),
            ("{]", false),
            (" {}", false),
            ("\"text\"", false),
            ("1", false),
            ("", false),
            ("{", false),
        ] {
            let expected = if json { "application/json" } else { "text/plain" };
            assert_eq!(LabelType::of(value).as_str(), expected, "{value}");
        }
    }

    #[test]
    fn lists_have_what_their_children_share() {
        let amd64 = labels(&[("a", "1"), ("quay.expires-after", "1h"), ("b", "2")]);
        let arm64 = labels(&[("b", "3"), ("quay.expires-after", "1h"), ("a", "1")]);
        let common = common_labels(&[amd64.clone(), arm64]);
        assert_eq!(common, [amd64[0].clone(), amd64[1].clone()]);
        assert_eq!(common_labels(slice::from_ref(&amd64)), amd64);
        assert_eq!(common_labels(&[amd64, Vec::new()]), []);
        assert_eq!(common_labels(&[]), []);
    }

    #[test]
    fn durations() {
        let day = 86_400;
        for (value, seconds) in [
            ("60s", Some(60)),
            ("5m", Some(300)),
            ("1h", Some(3_600)),
            ("7d", Some(7 * day)),
            ("2w", Some(14 * day)),
            ("1y", Some(365 * day)),
            (" +1_0 d", Some(10 * day)),
            ("999999999d", Some(999_999_999 * day)),
            ("1000000000d", None),
            ("18446744073709551615y", None),
            ("99999999999999999999999s", None),
            ("0s", None),
            ("-1d", None),
            ("", None),
            ("d", None),
            ("5", None),
            ("5D", None),
            ("5 ", None),
            ("1.5h", None),
            ("1__0s", None),
            ("_1s", None),
            ("soon", None),
            ("5ß", None),
        ] {
            assert_eq!(expires_after(value), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn immutable_is_true() {
        for value in ["true", "TRUE", " True\n"] {
            assert!(is_immutable_label(value), "{value}");
        }
        for value in ["", "1", "yes", "truely", "false"] {
            assert!(!is_immutable_label(value), "{value}");
        }
    }

    proptest! {
        #[test]
        fn an_end_fits_the_clock(value in "[ +_-]?[0-9]{0,22}[smhdwy]|.{0,20}") {
            if let Some(lives) = expires_after(&value) {
                let ms = i64::try_from(lives.as_millis()).unwrap();
                prop_assert!(ms > 0 && ms.checked_add(i64::MAX / 2).is_some());
            }
        }

        #[test]
        fn keys_are_distinct(pairs in proptest::collection::vec(("[a-c]{0,2}", ".{0,5}"), 0..20)) {
            let labels = overlaid(pairs.iter().cloned());
            let keys: HashSet<_> = labels.iter().map(|label| &label.key).collect();
            prop_assert_eq!(keys.len(), labels.len());
            for label in &labels {
                let last = pairs.iter().rev().find(|(key, _)| *key == label.key);
                prop_assert_eq!(last.map(|(_, value)| value), Some(&label.value));
            }
        }
    }
}
