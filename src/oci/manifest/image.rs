//! OCI image manifests, which are also those of artifacts, and Docker's schema 2.

use super::json::Value;
use super::{Descriptor, Layer, ManifestError, OciMembers, PushedManifest, check_head};
use crate::oci::ManifestType;

/// Members that have a meaning, here or in another type.
const KNOWN: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "subject",
    "annotations",
    "manifests",
    "fsLayers",
];

/// Members that make it a list, or schema 1, for somebody who does not look at its type.
const FOREIGN: [&str; 2] = ["manifests", "fsLayers"];

pub(super) fn read(
    media_type: ManifestType,
    document: &Value<'_>,
) -> Result<PushedManifest, ManifestError> {
    let object = document.object_of(&KNOWN)?;
    check_head(media_type, &object, &FOREIGN)?;
    let (config, layer): (_, fn(&Value<'_>) -> _) = match media_type.is_oci() {
        true => (Descriptor::oci(&object.need("config")?)?, Layer::oci),
        false => (Descriptor::docker_config(&object.need("config")?)?, Layer::docker),
    };
    let list = object.need("layers")?;
    let layers = list.list()?.iter().map(layer).collect::<Result<Vec<Layer>, ManifestError>>()?;
    if layers.iter().try_fold(0_i64, |sum, layer| sum.checked_add(layer.blob.size)).is_none() {
        return Err(list.wrong("have more bytes together than 64 bits can count"));
    }
    let OciMembers { subject, artifact_type, annotations } = OciMembers::read(media_type, &object)?;
    Ok(PushedManifest {
        media_type,
        config: Some(config),
        layers,
        children: Vec::new(),
        subject,
        artifact_type,
        annotations,
    })
}
