//! The configuration of an image: its labels, once it has the shape that Quay needs to show the
//! image and to convert it.

use super::error::{Document, ManifestError};
use super::json::{Object, Value};
use crate::oci::ManifestType;

/// Members and what they can be. One that is not there is fine.
type Shape = [(&'static str, &'static [&'static str])];

const TEXT: &[&str] = &["a string"];
const TEXT_OR_NULL: &[&str] = &["a string", "null"];
const LIST_OR_NULL: &[&str] = &["a list", "null"];
const OBJECT_OR_NULL: &[&str] = &["an object", "null"];

const OCI: &Shape = &[
    ("created", TEXT_OR_NULL),
    ("author", TEXT_OR_NULL),
    ("architecture", TEXT),
    ("os", TEXT),
    ("config", OBJECT_OR_NULL),
];
const OCI_EXECUTION: &Shape = &[
    ("User", TEXT_OR_NULL),
    ("ExposedPorts", OBJECT_OR_NULL),
    ("Env", LIST_OR_NULL),
    ("Entrypoint", LIST_OR_NULL),
    ("Cmd", LIST_OR_NULL),
    ("Volumes", OBJECT_OR_NULL),
    ("WorkingDir", TEXT_OR_NULL),
    ("Labels", OBJECT_OR_NULL),
    ("StopSignal", TEXT_OR_NULL),
];
const HISTORY: &Shape = &[
    ("empty_layer", &["a boolean"]),
    ("created", TEXT),
    ("created_by", TEXT),
    ("comment", TEXT),
    ("author", TEXT),
];

/// The labels of the config of an image of this type, in their order.
pub(super) fn labels(
    media_type: ManifestType,
    bytes: &[u8],
) -> Result<Vec<(String, String)>, ManifestError> {
    let config = Value::document(Document::Config, bytes)?.object()?;
    if media_type.is_oci() {
        // An artifact that says that it is an image; Quay lets it pass.
        if config.is_empty() {
            return Ok(Vec::new());
        }
        check_oci(&config)?;
    } else {
        check_docker(&config)?;
    }
    let Some(execution) = config.get("config").filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let labels = execution.object()?.get("Labels");
    labels.filter(|value| !value.is_null()).map_or_else(|| Ok(Vec::new()), |l| l.object()?.texts())
}

fn check_oci(config: &Object<'_>) -> Result<(), ManifestError> {
    let root = config.need("rootfs")?.object()?;
    config.need("architecture")?;
    config.need("os")?;
    check(config, OCI)?;
    if let Some(execution) = config.get("config").filter(|value| !value.is_null()) {
        check(&execution.object()?, OCI_EXECUTION)?;
    }
    let kind = root.need("type")?;
    if kind.text()? != "layers" {
        return Err(kind.wrong("has to be `layers`"));
    }
    root.need("diff_ids")?.list()?.iter().try_for_each(|id| id.text().map(drop))?;
    config.get("history").map_or(Ok(()), |history| check_history(&history))
}

fn check_docker(config: &Object<'_>) -> Result<(), ManifestError> {
    check_history(&config.need("history")?)?;
    config.need("rootfs")?.object()?.need("type")?.text().map(drop)
}

fn check_history(history: &Value<'_>) -> Result<(), ManifestError> {
    history.list()?.iter().try_for_each(|entry| check(&entry.object()?, HISTORY))
}

fn check(object: &Object<'_>, shape: &Shape) -> Result<(), ManifestError> {
    for (name, kinds) in shape {
        if let Some(value) = object.get(name).filter(|value| !kinds.contains(&value.kind())) {
            return Err(value.is_not(&kinds.join(" or ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALLEST: &str = "\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}";

    fn oci(members: &str) -> Result<Vec<(String, String)>, String> {
        let config = format!("{{{SMALLEST}{members}}}");
        labels(ManifestType::OciImage, config.as_bytes()).map_err(|error| error.to_string())
    }

    fn docker(config: &str) -> Result<Vec<(String, String)>, String> {
        labels(ManifestType::DockerImage, config.as_bytes()).map_err(|error| error.to_string())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn labels_of_an_oci_image() {
        let expected = pairs(&[("z", "1"), ("a", "2")]);
        assert_eq!(oci(",\"config\":{\"Labels\":{\"z\":\"1\",\"a\":\"2\"}}"), Ok(expected));
        let none = [
            "",
            ",\"config\":null",
            ",\"config\":{}",
            ",\"config\":{\"Labels\":null}",
            ",\"history\":[{\"empty_layer\":true,\"created_by\":\"x\"}],\"created\":null,\"x\":[]",
        ];
        for members in none {
            assert_eq!(oci(members), Ok(Vec::new()), "{members}");
        }
        assert_eq!(labels(ManifestType::OciImage, b"{}"), Ok(Vec::new()));
    }

    #[test]
    fn configs_that_are_of_no_use_to_quay() {
        for (members, place) in [
            (",\"config\":[]", "`config` is a list and has to be an object or null"),
            (",\"config\":{\"Env\":{}}", "`config.Env` is an object"),
            (",\"config\":{\"Labels\":[]}", "`config.Labels` is a list"),
            (",\"config\":{\"Labels\":{\"a\":1}}", "`config.Labels.a` is a number"),
            (",\"history\":null", "`history` is null"),
            (",\"history\":[1]", "`history[0]` is a number"),
            (",\"history\":[{\"created\":null}]", "`history[0].created` is null"),
            (",\"os\":1", "`os` is a number"),
            (",\"rootfs\":{\"diff_ids\":[]}", "`rootfs.type` is missing"),
            (",\"rootfs\":{\"type\":\"x\",\"diff_ids\":[]}", "`rootfs.type` has to be `layers`"),
            (",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[1]}", "`rootfs.diff_ids[0]`"),
        ] {
            let error = oci(members).unwrap_err();
            let prefix = "config data does not match schema: ";
            assert!(error.starts_with(&format!("{prefix}{place}")), "{error}");
        }
        for config in ["{\"os\":\"linux\",\"rootfs\":{}}", "[]", "null", "\"\""] {
            assert!(labels(ManifestType::OciImage, config.as_bytes()).is_err(), "{config}");
        }
        let malformed = labels(ManifestType::OciImage, b"not json").unwrap_err().to_string();
        assert!(malformed.starts_with("malformed config data: "), "{malformed}");
    }

    #[test]
    fn schema_2_has_a_shape_of_its_own() {
        let with = |members: &str| {
            docker(&format!("{{\"history\":[],\"rootfs\":{{\"type\":\"x\"}}{members}}}"))
        };
        assert_eq!(with(""), Ok(Vec::new()));
        assert_eq!(
            with(",\"config\":{\"Labels\":{\"a\":\"1\"},\"Env\":1}"),
            Ok(pairs(&[("a", "1")]))
        );
        assert!(with(",\"config\":\"x\"").is_err());
        assert!(with(",\"config\":{\"Labels\":[\"a\"]}").is_err());
        assert!(docker("{}").is_err());
        assert!(docker("{\"history\":[],\"rootfs\":{}}").is_err());
        assert!(docker("{\"history\":{},\"rootfs\":{\"type\":\"x\"}}").is_err());
    }

    proptest! {
        #[test]
        fn no_config_panics(text in ".{0,60}|[\\[{\":,a1}\\]]{0,40}") {
            for media_type in ManifestType::ALL {
                let _ = labels(media_type, text.as_bytes());
            }
            let _ = oci(&format!(",\"config\":{text}"));
        }
    }
}
