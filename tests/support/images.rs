//! Container images made in memory: real layers, configs and manifests, the same bytes every time.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What clients send as Accept. Quay converts a manifest whose type is not listed literally.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: String,
    pub media_type: &'static str,
    pub bytes: Bytes,
    /// Of a layer: the digest and length of what it holds uncompressed.
    pub uncompressed: Option<(String, usize)>,
}

#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: String,
    pub media_type: &'static str,
    pub bytes: Bytes,
    pub config_media_type: Option<&'static str>,
    /// The config first, then the layers.
    pub blobs: Vec<Blob>,
    /// Of an index: what it lists.
    pub children: Vec<Manifest>,
    pub subject: Option<String>,
    pub artifact_type: Option<String>,
}

impl Blob {
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Blob {
        Blob { digest: digest_of(&bytes), media_type, bytes: bytes.into(), uncompressed: None }
    }

    /// A gzipped tar archive of some files.
    pub fn layer(media_type: &'static str, files: &[(&str, &str)]) -> Blob {
        let tar = tar(files);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tar).expect("memory");
        let uncompressed = Some((digest_of(&tar), tar.len()));
        Blob { uncompressed, ..Blob::new(media_type, gzip.finish().expect("memory")) }
    }

    /// A layer of these very bytes, which are no archive: nothing here looks into them.
    pub fn layer_of(bytes: Vec<u8>) -> Blob {
        let uncompressed = Some((digest_of(&bytes), bytes.len()));
        Blob { uncompressed, ..Blob::new(OCI_LAYER, bytes) }
    }

    /// The same in a frame of zstd (RFC 8878), with its one block as it is.
    pub fn zstd_layer(files: &[(&str, &str)]) -> Blob {
        const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
        // One segment, whose length less 256 follows in two bytes.
        const TWO_BYTES: u8 = 0x60;
        let tar = tar(files);
        let length = u16::try_from(tar.len() - 256).expect("a small archive").to_le_bytes();
        let last_raw_block = (u32::try_from(tar.len()).expect("small") << 3 | 1).to_le_bytes();
        let head = [&MAGIC[..], &[TWO_BYTES], &length, &last_raw_block[..3]].concat();
        let uncompressed = Some((digest_of(&tar), tar.len()));
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        Blob { uncompressed, ..Blob::new(media_type, [head, tar].concat()) }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

impl Manifest {
    /// An image for linux on `architecture`.
    pub fn oci(architecture: &str, layers: Vec<Blob>) -> Manifest {
        Manifest::image(OCI_MANIFEST, OCI_CONFIG, architecture, layers)
    }

    /// The same in Docker's own format, laid out over several lines as Docker does.
    pub fn docker(architecture: &str, layers: Vec<Blob>) -> Manifest {
        Manifest::image(DOCKER_MANIFEST, DOCKER_CONFIG, architecture, layers)
    }

    /// An artifact that refers to another manifest: a signature, a bill of materials.
    pub fn referrer(artifact_type: &str, subject: &Manifest) -> Manifest {
        let config = Blob::new(OCI_EMPTY, b"{}".to_vec());
        let body = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": config.descriptor(),
            "layers": [config.descriptor()],
            "subject": subject.descriptor(),
            "annotations": {"org.example.note": "made for a test"},
        });
        Manifest {
            subject: Some(subject.digest.clone()),
            artifact_type: Some(artifact_type.to_owned()),
            config_media_type: Some(OCI_EMPTY),
            blobs: vec![config],
            ..Manifest::new(OCI_MANIFEST, body.to_string())
        }
    }

    /// Whatever else is kept in a registry: a chart, a policy, some files.
    pub fn artifact(artifact_type: Option<&str>, config: Blob, layers: Vec<Blob>) -> Manifest {
        let mut body = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        if let Some(artifact_type) = artifact_type {
            body["artifactType"] = artifact_type.into();
        }
        Manifest {
            artifact_type: artifact_type.map(str::to_owned),
            config_media_type: Some(config.media_type),
            blobs: std::iter::once(config).chain(layers).collect(),
            ..Manifest::new(OCI_MANIFEST, body.to_string())
        }
    }

    /// A multi-architecture image.
    pub fn index(children: Vec<(&str, Manifest)>) -> Manifest {
        Manifest::list(OCI_INDEX, children)
    }

    /// The same in Docker's own format.
    pub fn docker_list(children: Vec<(&str, Manifest)>) -> Manifest {
        Manifest::list(DOCKER_LIST, children)
    }

    fn list(media_type: &'static str, children: Vec<(&str, Manifest)>) -> Manifest {
        let listed = children.iter().map(|(architecture, child)| {
            let mut entry = child.descriptor();
            entry["platform"] = json!({"architecture": architecture, "os": "linux"});
            entry
        });
        let listed: Vec<Value> = listed.collect();
        let body = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": listed});
        let children = children.into_iter().map(|(_, child)| child).collect();
        Manifest { children, ..Manifest::new(media_type, body.to_string()) }
    }

    pub fn config(&self) -> &Blob {
        &self.blobs[0]
    }

    pub fn layers(&self) -> &[Blob] {
        &self.blobs[1..]
    }

    fn new(media_type: &'static str, body: String) -> Manifest {
        let bytes = Bytes::from(body);
        Manifest {
            digest: digest_of(&bytes),
            media_type,
            bytes,
            config_media_type: None,
            blobs: Vec::new(),
            children: Vec::new(),
            subject: None,
            artifact_type: None,
        }
    }

    fn image(
        media_type: &'static str,
        config_type: &'static str,
        architecture: &str,
        layers: Vec<Blob>,
    ) -> Manifest {
        let diff_ids: Vec<&str> = layers
            .iter()
            .map(|layer| layer.uncompressed.as_ref().expect("a layer").0.as_str())
            .collect();
        let history: Vec<Value> = layers.iter().map(|_| json!({"created_by": "a test"})).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/hello"], "Labels": {"org.example.purpose": "test"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = Blob::new(config_type, config.to_string().into_bytes());
        let body = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let body =
            if media_type == DOCKER_MANIFEST { format!("{body:#}") } else { body.to_string() };
        let blobs = std::iter::once(config).chain(layers).collect();
        Manifest { config_media_type: Some(config_type), blobs, ..Manifest::new(media_type, body) }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A POSIX (ustar) archive: for each file a header block, then its content in blocks of 512.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = [0u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(156, "0");
        put(257, "ustar\x0000");
        // The checksum counts its own field as spaces.
        put(148, "        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
