//! `quay bundle render kubernetes …`

use std::process::ExitCode;

use clap::Args;
use ipnet::IpNet;
use quay_sidecar::bundle;
use quay_sidecar::config::{Config, Engine};

use super::bundle::failed;
use super::{ConfigDir, unusable};

#[derive(Args)]
pub struct Kubernetes {
    #[command(flatten)]
    config: ConfigDir,
    /// The namespace of Quay.
    #[arg(long, value_name = "NAME", default_value = "quay")]
    namespace: String,
    /// An image with us in it: the one of Quay's pods.
    #[arg(long)]
    image: String,
    /// How many pods.
    #[arg(long, value_name = "N", default_value_t = 2)]
    replicas: u16,
    /// The secret with config.yaml that Quay's pods mount.
    #[arg(long, value_name = "NAME", default_value = "quay-config")]
    config_secret: String,
    /// A secret with quay.pem and quay.kid, the key that tokens are signed with.
    #[arg(long, value_name = "NAME", default_value = "quay-registryd-key")]
    key_secret: String,
    /// A label of Quay's pods: they alone may connect.
    #[arg(long, value_name = "LABEL=VALUE", default_value = "app=quay", value_parser = label)]
    quay_pods: (String, String),
    /// Networks that pods have their addresses of: nobody else is answered. Repeatable.
    #[arg(long = "pod-network", value_name = "CIDR", required = true, value_delimiter = ',')]
    pod_networks: Vec<IpNet>,
    /// The claim of the volume with blobs, where Quay's storage is a folder.
    #[arg(long, value_name = "NAME")]
    storage_claim: Option<String>,
    /// The namespace that metrics may be read from; nobody else can without it.
    #[arg(long, value_name = "NAME")]
    monitoring: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (label, value) = text.split_once('=').ok_or("not LABEL=VALUE")?;
    Ok((label.to_owned(), value.to_owned()))
}

impl Kubernetes {
    pub fn run(self) -> ExitCode {
        let config = match self.config.load() {
            Ok(loaded) => loaded.config,
            Err(error) => return unusable(&error),
        };
        if let Engine::Sqlite(file) = &config.database.engine {
            let file = file.display();
            eprintln!(
                "DB_URI: {file} is a file of one machine: a service of its own needs PostgreSQL"
            );
            return ExitCode::FAILURE;
        }
        match self.objects(&config).render() {
            Ok(manifests) => {
                print!("{manifests}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        }
    }

    fn objects(self, config: &Config) -> bundle::Kubernetes {
        let roots = config.storage.local_roots().map(|(_, root)| root.to_owned());
        bundle::Kubernetes {
            namespace: self.namespace,
            image: self.image,
            replicas: self.replicas,
            config_secret: self.config_secret,
            key_secret: self.key_secret,
            quay_pods: self.quay_pods,
            pod_networks: self.pod_networks,
            local_storage: roots.collect(),
            storage_claim: self.storage_claim,
            monitoring: self.monitoring,
        }
    }
}
