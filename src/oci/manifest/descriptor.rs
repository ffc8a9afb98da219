//! Descriptors: what a manifest says of other content.

use super::error::ManifestError;
use super::json::{Object, Value, shorten};
use crate::oci::{Digest, ManifestType};

/// Length of the columns that media types, digests and artifact types are stored in, characters.
const COLUMN: usize = 255;

const DESCRIPTOR: [&str; 8] =
    ["mediaType", "digest", "size", "urls", "annotations", "artifactType", "platform", "data"];
const PLATFORM: [&str; 6] =
    ["architecture", "os", "os.version", "os.features", "variant", "features"];

/// Layers that stay where they are, of an OCI image.
const NONDISTRIBUTABLE: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
];
/// The two types that a layer of a schema 2 manifest can have.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The types that a child of a manifest list can have; the second is Python's to read.
const DOCKER_CHILDREN: [&str; 2] =
    [ManifestType::DockerImage.as_str(), "application/vnd.docker.distribution.manifest.v1+json"];

/// Names content by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Any type that looks like one; at most 255 characters.
    pub media_type: String,
    /// `algorithm:hex` of whatever algorithm; at most 255 characters. See [`Self::content`].
    pub digest: String,
    /// Bytes, never negative. Nothing says that it is true.
    pub size: i64,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer's blob.
    pub blob: Descriptor,
    /// The blob lies elsewhere: it need not be in the repository.
    pub foreign: bool,
}

/// A manifest that an index or a manifest list names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The manifest.
    pub manifest: Descriptor,
    /// What it runs on: always there in a manifest list.
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, `windows`, …
    pub os: String,
}

impl Descriptor {
    /// The digest, or `None` where no content of Quay's can have this one: it looks for it, and
    /// does not find it.
    pub fn content(&self) -> Option<Digest> {
        Digest::parse(&self.digest)
    }

    /// A descriptor of an OCI manifest.
    pub(super) fn oci(value: &Value<'_>) -> Result<Self, ManifestError> {
        Self::oci_members(&value.object_of(&DESCRIPTOR)?)
    }

    fn oci_members(object: &Object<'_>) -> Result<Self, ManifestError> {
        let descriptor = Self::read(object)?;
        if !looks_like_media_type(&descriptor.media_type) {
            return Err(object.need("mediaType")?.wrong("is not a media type"));
        }
        urls(object)?;
        object.get("annotations").map(|annotations| annotations.unambiguous()).transpose()?;
        object.text("artifactType")?;
        Ok(descriptor)
    }

    /// The config of a schema 2 manifest.
    pub(super) fn docker_config(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&DESCRIPTOR)?;
        let descriptor = Self::read(&object)?;
        need_type(&object, &descriptor, &[DOCKER_CONFIG])?;
        Ok(descriptor)
    }

    fn read(object: &Object<'_>) -> Result<Self, ManifestError> {
        let media_type = column(&object.need("mediaType")?)?;
        let size = object.need("size")?;
        let size = match size.integer()? {
            bytes if bytes < 0 => return Err(size.wrong(&format!("is {bytes} bytes"))),
            bytes => bytes,
        };
        let digest = column(&object.need("digest")?)?;
        if !Digest::is_shaped(&digest) {
            return Err(ManifestError::Digest(shorten(&digest)));
        }
        Ok(Self { media_type, digest, size })
    }
}

impl Layer {
    /// A layer of an OCI image. One of an ordinary type is not foreign, whatever its `urls`
    /// (recorded 384).
    pub(super) fn oci(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&DESCRIPTOR)?;
        refuse_negative(&object)?;
        let blob = Descriptor::oci_members(&object)?;
        let foreign = NONDISTRIBUTABLE.contains(&blob.media_type.as_str());
        if foreign && urls(&object)? == 0 {
            return Err(ManifestError::MissingUrls(value.path().to_owned()));
        }
        Ok(Self { blob, foreign })
    }

    /// A layer of a schema 2 manifest: any with `urls` is foreign.
    pub(super) fn docker(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&DESCRIPTOR)?;
        refuse_negative(&object)?;
        let blob = Descriptor::read(&object)?;
        need_type(&object, &blob, &[DOCKER_LAYER, DOCKER_FOREIGN_LAYER])?;
        let null = object.get("urls").is_some_and(|urls| urls.is_null());
        let foreign = !null && urls(&object)? > 0;
        if blob.media_type == DOCKER_FOREIGN_LAYER && !foreign {
            return Err(ManifestError::MissingUrls(value.path().to_owned()));
        }
        Ok(Self { blob, foreign })
    }
}

impl Child {
    pub(super) fn oci(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&DESCRIPTOR)?;
        let manifest = Descriptor::oci_members(&object)?;
        let platform = object.get("platform").map(|value| Platform::read(&value)).transpose()?;
        Ok(Self { manifest, platform })
    }

    pub(super) fn docker(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&DESCRIPTOR)?;
        let manifest = Descriptor::read(&object)?;
        need_type(&object, &manifest, &DOCKER_CHILDREN)?;
        let platform = Some(Platform::read(&object.need("platform")?)?);
        Ok(Self { manifest, platform })
    }
}

impl Platform {
    fn read(value: &Value<'_>) -> Result<Self, ManifestError> {
        let object = value.object_of(&PLATFORM)?;
        for name in ["os.version", "variant"] {
            object.text(name)?;
        }
        for name in ["os.features", "features"] {
            texts(&object, name)?;
        }
        let architecture = object.need("architecture")?.text()?;
        Ok(Self { architecture, os: object.need("os")?.text()? })
    }
}

/// A string that has a column of its own, which PostgreSQL bounds.
pub(super) fn column(value: &Value<'_>) -> Result<String, ManifestError> {
    let text = value.text()?;
    if text.chars().count() > COLUMN || text.contains('\0') {
        return Err(value.wrong(&format!("has more than {COLUMN} characters, or one that is zero")));
    }
    Ok(text)
}

/// How many `urls` there are.
fn urls(object: &Object<'_>) -> Result<usize, ManifestError> {
    texts(object, "urls")
}

fn texts(object: &Object<'_>, name: &str) -> Result<usize, ManifestError> {
    let items = object.get(name).map(|list| list.list()).transpose()?.unwrap_or_default();
    items.iter().try_for_each(|item| item.text().map(drop))?;
    Ok(items.len())
}

fn need_type(
    object: &Object<'_>,
    descriptor: &Descriptor,
    needed: &[&str],
) -> Result<(), ManifestError> {
    if needed.contains(&descriptor.media_type.as_str()) {
        return Ok(());
    }
    let found = shorten(&descriptor.media_type);
    let problem = format!("is `{found}` and has to be `{}`", needed.join("` or `"));
    Err(object.need("mediaType")?.wrong(&problem))
}

/// Quay has words of its own for this one.
fn refuse_negative(object: &Object<'_>) -> Result<(), ManifestError> {
    let size = object.need("size")?;
    match size.integer()? {
        bytes if bytes < 0 => {
            Err(ManifestError::LayerSize(format!("`{}` is {bytes} bytes", size.path())))
        }
        _ => Ok(()),
    }
}

/// Whether a slash stands between a word character and something that a subtype can begin with:
/// all that Quay's `\w+/[-.\w]+(?:\+[-.\w]+)?`, found anywhere, comes to.
fn looks_like_media_type(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.char_indices().filter(|(_, c)| *c == '/').any(|(slash, _)| {
        text[..slash].chars().next_back().is_some_and(word)
            && text[slash + 1..].chars().next().is_some_and(|c| word(c) || c == '-' || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn media_types_are_looked_for_anywhere() {
        for (text, like) in [
            ("application/x-custom", true),
            ("a/b", true),
            ("//a/.", true),
            ("text/plain; charset=utf-8", true),
            ("größe/ß", true),
            ("application", false),
            ("application/", false),
            ("/json", false),
            ("a /b", false),
            ("a/+json", false),
            ("", false),
        ] {
            assert_eq!(looks_like_media_type(text), like, "{text}");
        }
    }

    #[test]
    fn the_pattern_of_quay() {
        let pattern = regex::Regex::new(r"\w+/[-.\w]+(?:\+[-.\w]+)?").unwrap();
        proptest!(|(text in "[a/+.\\- ]{0,8}")| {
            prop_assert_eq!(looks_like_media_type(&text), pattern.is_match(&text));
        });
    }
}
