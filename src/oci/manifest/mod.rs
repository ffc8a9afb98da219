//! A pushed manifest, read as Quay reads it (contract §4.4), and more strictly where two readers
//! could see two different things in it (CVE-2021-41190).

mod config;
mod descriptor;
mod error;
mod image;
mod json;
mod labels;
mod list;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::{Digest, ManifestType};
use descriptor::column;
use json::{Object, Value};

pub use descriptor::{Child, Descriptor, Layer, Platform};
pub use error::{Document, ManifestError};
pub use labels::{
    EXPIRES_AFTER, IMMUTABLE, Label, LabelType, common_labels, expires_after, is_immutable_label,
};

/// The media type of the config of an OCI image; a manifest with another one is an artifact.
const OCI_IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What is to be known of a manifest before it is stored. Its bytes are stored as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    /// As declared by `Content-Type`; where the body names a type, it is the same.
    pub media_type: ManifestType,
    /// The config; none in lists.
    pub config: Option<Descriptor>,
    /// The layers from the base up, at most 10,000; none in lists.
    pub layers: Vec<Layer>,
    /// The manifests of a list, in their order and as often as they are named, at most 10,000.
    pub children: Vec<Child>,
    /// What this manifest refers to; OCI only. It need not exist.
    pub subject: Option<Descriptor>,
    /// `artifactType`, never empty and at most 255 characters; OCI only.
    pub artifact_type: Option<String>,
    /// The annotations in their order, at most 10,000; OCI only.
    pub annotations: Vec<(String, String)>,
}

impl PushedManifest {
    /// Reads the body of a push whose `Content-Type` is `media_type`, or a stored child whose
    /// type the parent says is `media_type`.
    ///
    /// Neither the existence nor the size of anything it names is looked at.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        let media_type = ManifestType::parse(media_type)
            .ok_or_else(|| ManifestError::UnknownType(json::shorten(media_type)))?;
        let document = Value::document(Document::Manifest, bytes)?;
        if media_type.is_list() {
            list::read(media_type, &document)
        } else {
            image::read(media_type, &document)
        }
    }

    /// Reads the stored bytes of a child as its parent describes it.
    pub fn parse_child(child: &Descriptor, bytes: &[u8]) -> Result<Self, ManifestError> {
        if i64::try_from(bytes.len()) != Ok(child.size) {
            return Err(ManifestError::ChildSize { found: bytes.len(), declared: child.size });
        }
        Self::parse(&child.media_type, bytes)
    }

    /// Whether it is an index or a manifest list.
    pub fn is_list(&self) -> bool {
        self.media_type.is_list()
    }

    /// Whether its config is that of an image: an OCI artifact's is not.
    pub fn is_image_config(&self) -> bool {
        match self.media_type {
            ManifestType::DockerImage => true,
            ManifestType::OciImage => self.config_media_type() == Some(OCI_IMAGE_CONFIG),
            ManifestType::OciIndex | ManifestType::DockerList => false,
        }
    }

    /// `manifest.config_media_type`
    pub fn config_media_type(&self) -> Option<&str> {
        Some(&self.config.as_ref()?.media_type)
    }

    /// `manifest.layers_compressed_size`: bytes of all layers, the foreign ones too; `None` for
    /// lists.
    pub fn layers_compressed_size(&self) -> Option<i64> {
        let sizes = self.layers.iter().map(|layer| layer.blob.size);
        (!self.is_list()).then(|| sizes.fold(0, i64::saturating_add))
    }

    /// The blobs that have to be in the repository, each once: the layers that are not foreign,
    /// then the config. The error is [`ManifestError::UnknownBlob`].
    pub fn local_blobs(&self) -> Result<Vec<Digest>, ManifestError> {
        let layers = self.layers.iter().filter(|layer| !layer.foreign).map(|layer| &layer.blob);
        let mut seen = HashSet::new();
        layers
            .chain(&self.config)
            .filter(|blob| seen.insert(blob.digest.as_str()))
            .map(|blob| {
                blob.content()
                    .ok_or_else(|| ManifestError::UnknownBlob(json::shorten(&blob.digest)))
            })
            .collect()
    }

    /// Whether [`Self::labels`] needs the bytes of the config.
    pub fn needs_config(&self) -> bool {
        self.is_image_config()
    }

    /// The labels to store, in Quay's order: those of the config, overlaid with the annotations
    /// (contract §4.4 step 6). A list has none.
    ///
    /// The config is checked on the way. For schema 2 Quay does so before it stores anything; for
    /// an OCI image it does so afterwards and fails with 500, so call this first for both.
    pub fn labels(&self, config: Option<&[u8]>) -> Result<Vec<Label>, ManifestError> {
        let annotations = match self.media_type {
            ManifestType::OciImage => self.annotations.as_slice(),
            _ => &[],
        };
        let configured = match &self.config {
            Some(descriptor) if self.needs_config() => {
                let bytes = config.ok_or(ManifestError::NoConfig)?;
                if i64::try_from(bytes.len()) != Ok(descriptor.size) {
                    let (found, declared) = (bytes.len(), descriptor.size);
                    return Err(ManifestError::ConfigSize { found, declared });
                }
                config::labels(self.media_type, bytes)?
            }
            _ => Vec::new(),
        };
        Ok(labels::overlaid(configured.into_iter().chain(annotations.iter().cloned())))
    }
}

/// Checks what all four types have in common: one version, one type, and nothing of another type.
fn check_head(
    media_type: ManifestType,
    object: &Object<'_>,
    foreign: &[&str],
) -> Result<(), ManifestError> {
    let version = object.need("schemaVersion")?;
    if version.number()?.as_f64() != Some(2.0) {
        return Err(version.wrong("has to be 2"));
    }
    match object.get("mediaType") {
        Some(value) => {
            let found = value.text()?;
            if found != media_type.as_str() {
                let found = json::shorten(&found);
                let problem = format!("is `{found}` and has to be `{}`", media_type.as_str());
                return Err(value.wrong(&problem));
            }
        }
        None if media_type.is_oci() => {}
        None => drop(object.need("mediaType")?),
    }
    for name in foreign {
        if let Some(value) = object.get(name).filter(|value| !value.is_null()) {
            return Err(value.wrong(&format!("has no place in `{}`", media_type.as_str())));
        }
    }
    Ok(())
}

/// The members that only OCI's types have.
struct OciMembers {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Vec<(String, String)>,
}

impl OciMembers {
    fn read(media_type: ManifestType, object: &Object<'_>) -> Result<Self, ManifestError> {
        if !media_type.is_oci() {
            return Ok(Self { subject: None, artifact_type: None, annotations: Vec::new() });
        }
        let annotations = match object.get("annotations") {
            Some(annotations) => annotations.unambiguous()?.texts()?,
            None => Vec::new(),
        };
        let artifact_type = object.get("artifactType").map(|value| column(&value)).transpose()?;
        Ok(Self {
            subject: object.get("subject").map(|value| Descriptor::oci(&value)).transpose()?,
            artifact_type: artifact_type.filter(|name| !name.is_empty()),
            annotations,
        })
    }
}
