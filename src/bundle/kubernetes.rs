//! registryd as a service of its own on Kubernetes (decision D-007): what is applied to the cluster.
//!
//! Quay's pods keep nginx, Python and the watcher; they reach registryd by the service's address.

use std::path::PathBuf;

use askama::Template;
use ipnet::IpNet;

use super::text::{self, Refused, only, shape};

/// What everything of it is called.
pub const NAME: &str = "quay-registryd";
/// Where nginx connects.
const PORT: u16 = 8445;
/// Where probes and metrics are.
const ADMIN_PORT: u16 = 9192;

/// What a cluster has to know.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// Quay's own namespace.
    pub namespace: String,
    /// An image with `/opt/quay-sidecar/bin/quay`.
    pub image: String,
    /// Pods of registryd.
    pub replicas: u16,
    /// The secret with `config.yaml`, as Quay's pods mount it.
    pub config_secret: String,
    /// The secret with `quay.pem` and `quay.kid`.
    pub key_secret: String,
    /// A label of Quay's pods and its value: they alone may connect.
    pub quay_pods: (String, String),
    /// The networks that these pods have their addresses of.
    pub pod_networks: Vec<IpNet>,
    /// Folders of Quay's that hold blobs.
    pub local_storage: Vec<PathBuf>,
    /// The claim of the volume that Quay's pods mount there.
    pub storage_claim: Option<String>,
    /// The namespace of what reads metrics.
    pub monitoring: Option<String>,
}

#[derive(Template)]
#[template(path = "kubernetes.yaml", escape = "none")]
struct Manifests<'a> {
    namespace: &'a str,
    image: &'a str,
    replicas: u16,
    config_secret: &'a str,
    key_secret: &'a str,
    quay_label: &'a str,
    quay_value: &'a str,
    any: &'static str,
    networks: String,
    storage: Option<(&'a str, &'a str)>,
    monitoring: Option<&'a str>,
}

impl Kubernetes {
    /// Every object, in the order in which they can be applied.
    ///
    /// # Errors
    /// When a value is none that Kubernetes would take, or one is missing; the error names it.
    pub fn render(&self) -> Result<String, Refused> {
        let names = [
            ("--namespace", Some(&self.namespace)),
            ("--config-secret", Some(&self.config_secret)),
            ("--key-secret", Some(&self.key_secret)),
            ("--storage-claim", self.storage_claim.as_ref()),
            ("--monitoring", self.monitoring.as_ref()),
        ];
        for (what, name) in names {
            name.map(|name| is_name(what, name)).transpose()?;
        }
        is_image(&self.image)?;
        let (label, value) = &self.quay_pods;
        is_label("--quay-pods", label)?;
        is_label("--quay-pods", value)?;
        if self.replicas == 0 {
            return Err(shape("--replicas", "0", "would be no service"));
        }
        let networks: Vec<String> = self.pod_networks.iter().map(IpNet::to_string).collect();
        if networks.is_empty() {
            return Err(shape("--pod-network", "", "is missing: nobody could connect"));
        }
        let manifests = Manifests {
            namespace: &self.namespace,
            image: &self.image,
            replicas: self.replicas,
            config_secret: &self.config_secret,
            key_secret: &self.key_secret,
            quay_label: label,
            quay_value: value,
            any: self.any(),
            networks: networks.join(","),
            storage: self.storage()?,
            monitoring: self.monitoring.as_deref(),
        };
        let rendered = manifests.render();
        let rendered = rendered.map_err(|error| shape("template", "", error.to_string()))?;
        Ok(format!("{}\n", rendered.trim_end()))
    }

    /// Every address of a pod, in a family that it has.
    fn any(&self) -> &'static str {
        let v4 = self.pod_networks.iter().all(|network| matches!(network, IpNet::V4(_)));
        if v4 { "0.0.0.0" } else { "[::]" }
    }

    fn storage(&self) -> Result<Option<(&str, &str)>, Refused> {
        match (self.local_storage.as_slice(), &self.storage_claim) {
            ([], None) => Ok(None),
            ([], Some(claim)) => {
                Err(shape("--storage-claim", claim, "is not needed: no storage is a folder"))
            }
            ([root], Some(claim)) => Ok(Some((claim, text::path("storage", root)?))),
            ([root, ..], None) => Err(shape(
                "DISTRIBUTED_STORAGE_CONFIG",
                &root.to_string_lossy(),
                "is a folder: name the claim of its volume with --storage-claim, one that all \
                 nodes can mount at a time (ReadWriteMany)",
            )),
            ([_, second, ..], Some(_)) => Err(shape(
                "DISTRIBUTED_STORAGE_CONFIG",
                &second.to_string_lossy(),
                "is a second folder, and there is one claim: this has to be written by hand",
            )),
        }
    }
}

/// A DNS label (RFC 1123): what every kind of object may be called.
fn is_name(what: &str, value: &str) -> Result<(), Refused> {
    only(what, value, "a-z 0-9 -", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
    if value.len() > 63 || value.starts_with('-') || value.ends_with('-') {
        return Err(shape(what, value, "is longer than 63 characters, or has - at an end"));
    }
    Ok(())
}

/// A key or a value of a label.
fn is_label(what: &str, value: &str) -> Result<(), Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    only(what, value, "A-Z a-z 0-9 . _ / -", plain)?;
    let ends = [value.chars().next(), value.chars().next_back()];
    if value.len() > 253 || !ends.iter().flatten().all(char::is_ascii_alphanumeric) {
        return Err(shape(what, value, "is no part of a label"));
    }
    Ok(())
}

fn is_image(value: &str) -> Result<(), Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/:@-".contains(c);
    only("--image", value, "A-Z a-z 0-9 . _ / : @ -", plain)?;
    match value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(shape("--image", value, "is no image")),
    }
}
