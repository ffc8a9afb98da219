//! The columns of the tables that pushes and deletions write to, and how each is compared with what
//! was recorded.

use super::audit::without_resolved_ip;

/// How a column is compared, and where it is not, why not.
#[derive(Clone, Copy)]
pub enum How {
    /// To the letter.
    Same,
    /// Truth values, which databases spell as they like.
    Truth,
    /// The number of this row. Numbers are given in the order of writing, and others have written.
    Number,
    /// The number of a row of another table: always the same one for the same one.
    Of(&'static str),
    /// A random number of whoever writes.
    Random,
    /// The time of writing.
    Now,
    /// A name, but of those that keep a manifest for a while the random part.
    TagName,
    /// When it ends: how long after its beginning.
    End,
    /// JSON with what Quay's data files know of an address, which we have not (README: not done).
    Log,
    /// A text with the random name of a stored blob in it.
    Queue,
}

use How::{End, Log, Now, Number, Of, Queue, Random, Same, TagName, Truth};

/// A row's columns.
pub type Row = Vec<String>;

impl How {
    /// Whether a value here is the recorded one, as far as the two alone can tell.
    pub fn same(self, theirs: &str, ours: &str) -> bool {
        match self {
            Same => begins(theirs, ours),
            Truth => theirs == ours,
            TagName => match theirs.starts_with("$temp-") {
                true => ours.starts_with("$temp-") && theirs.len() == ours.len(),
                false => theirs == ours,
            },
            Log => without_resolved_ip(theirs) == without_resolved_ip(ours),
            Queue => without_uuids(theirs) == without_uuids(ours),
            Number | Of(_) | Random | Now | End => true,
        }
    }
}

/// Tables that pushes and deletions write to, those that others refer to first, with their columns in
/// the order of the record.
pub const TABLES: [(&str, &[(&str, How)]); 9] = [
    (
        "label",
        &[
            ("id", Number),
            ("uuid", Random),
            ("key", Same),
            ("value", Same),
            ("media_type_id", Same),
            ("source_type_id", Same),
        ],
    ),
    (
        "manifest",
        &[
            ("id", Number),
            ("repository_id", Same),
            ("digest", Same),
            ("media_type_id", Same),
            ("manifest_bytes", Same),
            ("config_media_type", Same),
            ("layers_compressed_size", Same),
            ("subject", Same),
            ("subject_backfilled", Truth),
            ("artifact_type", Same),
            ("artifact_type_backfilled", Truth),
        ],
    ),
    (
        "manifestblob",
        &[
            ("id", Number),
            ("repository_id", Same),
            ("manifest_id", Of("manifest")),
            ("blob_id", Of("imagestorage")),
        ],
    ),
    (
        "manifestchild",
        &[
            ("id", Number),
            ("repository_id", Same),
            ("manifest_id", Of("manifest")),
            ("child_manifest_id", Of("manifest")),
        ],
    ),
    (
        "manifestlabel",
        &[
            ("id", Number),
            ("repository_id", Same),
            ("manifest_id", Of("manifest")),
            ("label_id", Of("label")),
        ],
    ),
    (
        "manifestsecuritystatus",
        &[
            ("id", Number),
            ("manifest_id", Of("manifest")),
            ("repository_id", Same),
            ("index_status", Same),
            ("error_json", Same),
            ("last_indexed", Now),
            ("indexer_hash", Same),
            ("indexer_version", Same),
            ("metadata_json", Same),
        ],
    ),
    (
        "tag",
        &[
            ("id", Number),
            ("name", TagName),
            ("repository_id", Same),
            ("manifest_id", Of("manifest")),
            ("lifetime_start_ms", Now),
            ("lifetime_end_ms", End),
            ("hidden", Truth),
            ("reversion", Truth),
            ("tag_kind_id", Same),
            ("linked_tag_id", Same),
            ("immutable", Truth),
        ],
    ),
    (
        "queueitem",
        &[
            ("id", Number),
            ("queue_name", Queue),
            ("body", Queue),
            ("available_after", Now),
            ("available", Truth),
            ("processing_expires", Same),
            ("retries_remaining", Same),
            ("state_id", Random),
        ],
    ),
    (
        "logentry3",
        &[
            ("id", Number),
            ("kind_id", Same),
            ("account_id", Same),
            ("performer_id", Same),
            ("repository_id", Same),
            ("datetime", Now),
            ("ip", Same),
            ("metadata_json", Log),
        ],
    ),
];

/// The columns of a recorded row: `id=1, name=a, …`. Values may have commas in them.
pub fn parsed(text: &str, columns: &[(&str, How)]) -> Row {
    let mut rest = text;
    let mut row = Vec::new();
    for (index, (name, _)) in columns.iter().enumerate() {
        rest = rest.strip_prefix(&format!("{name}=")).unwrap_or_else(|| panic!("{name}: {rest}"));
        let next = columns.get(index + 1).map(|(next, _)| format!(", {next}="));
        let end = next.map_or(rest.len(), |next| rest.find(&next).expect("the next column"));
        row.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(", ");
    }
    row
}

/// Long values are cut off in the record.
fn begins(theirs: &str, ours: &str) -> bool {
    match theirs.split_once('…') {
        Some((begin, _)) => ours.starts_with(begin),
        // Names stand behind some numbers.
        None => theirs == ours || theirs.split(" (").next() == Some(ours),
    }
}

/// How long, in milliseconds; for ever where it has no end.
pub fn lives(start: &str, end: &str) -> Option<i64> {
    let ms = |text: &str| text.parse::<i64>().ok();
    Some(ms(end)? - ms(start)?)
}

/// With `*` in the place of every UUID, but the one that the record gave a notification.
fn without_uuids(text: &str) -> String {
    let mut rest = text;
    let mut masked = String::new();
    while let Some(at) = (0..rest.len()).find(|at| is_uuid(rest.get(*at..*at + 36))) {
        masked.push_str(&rest[..at]);
        let uuid = &rest[at..at + 36];
        masked.push_str(if uuid.starts_with("11111111-") { uuid } else { "*" });
        rest = &rest[at + 36..];
    }
    masked + rest
}

fn is_uuid(text: Option<&str>) -> bool {
    text.is_some_and(|text| uuid::Uuid::parse_str(text).is_ok())
}
