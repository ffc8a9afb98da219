//! OCI indexes and Docker's manifest lists.

use super::json::Value;
use super::{Child, ManifestError, OciMembers, PushedManifest, check_head};
use crate::oci::ManifestType;

/// Members that have a meaning, here or in another type.
const KNOWN: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "manifests",
    "subject",
    "annotations",
    "config",
    "layers",
    "fsLayers",
];

/// Members that make it an image for somebody who does not look at its type.
const FOREIGN: [&str; 3] = ["config", "layers", "fsLayers"];

pub(super) fn read(
    media_type: ManifestType,
    document: &Value<'_>,
) -> Result<PushedManifest, ManifestError> {
    let object = document.object_of(&KNOWN)?;
    check_head(media_type, &object, &FOREIGN)?;
    let child = if media_type.is_oci() { Child::oci } else { Child::docker };
    let children = object.need("manifests")?.list()?.iter().map(child).collect::<Result<_, _>>()?;
    let OciMembers { subject, artifact_type, annotations } = OciMembers::read(media_type, &object)?;
    Ok(PushedManifest {
        media_type,
        config: None,
        layers: Vec::new(),
        children,
        subject,
        artifact_type,
        annotations,
    })
}
