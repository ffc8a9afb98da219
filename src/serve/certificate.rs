//! The certificate that registryd itself serves HTTPS with: read from two files, and read again when
//! they change, for new connections; those that are open go on.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// No certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {expected} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// The two are no pair, or of a kind that is not served.
    #[error("{certificate} and {key} cannot be used together: {source}")]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// How to serve HTTPS with the certificate (PEM, its chain after it) and key in these files: TLS 1.2
/// and 1.3. HTTP/1.1 is what the server offers.
pub fn https(certificate: &Path, key: &Path) -> Result<ServerConfig, CertificateError> {
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let seen = Look { at: Instant::now(), version: files.version()? };
    let current = ArcSwap::from_pointee(files.read(&provider)?);
    let resolver = Reloading { files, provider: provider.clone(), current, seen: Mutex::new(seen) };
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|source| resolver.files.pair(source))?;
    Ok(builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver)))
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What tells one content of the two files from another without reading them: an inode, a time of
/// change (seconds, nanoseconds) and a length each.
type Version = [(u64, i64, i64, u64); 2];

impl Files {
    fn version(&self) -> Result<Version, CertificateError> {
        let stat = |path: &PathBuf| {
            let file = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
            Ok((file.ino(), file.mtime(), file.mtime_nsec(), file.len()))
        };
        Ok([stat(&self.certificate)?, stat(&self.key)?])
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&read(&self.certificate)?).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| wrong(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_: pem::Error| wrong(&self.key, "unencrypted private key"))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|source| self.pair(source))
    }

    fn pair(&self, source: rustls::Error) -> CertificateError {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        CertificateError::Pair { certificate, key, source }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> CertificateError {
    CertificateError::File { path: path.to_owned(), source }
}

fn wrong(path: &Path, expected: &'static str) -> CertificateError {
    CertificateError::Pem { path: path.to_owned(), expected }
}

/// The last good pair of what the files have held.
struct Reloading {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Look>,
}

struct Look {
    at: Instant,
    version: Version,
}

impl Reloading {
    /// One handshake a second looks; the others do not wait for it.
    fn look(&self) {
        let Ok(mut seen) = self.seen.try_lock() else { return };
        if seen.at.elapsed() < LOOK {
            return;
        }
        seen.at = Instant::now();
        let fresh = self.files.version().and_then(|version| {
            if version == seen.version {
                return Ok(None);
            }
            // Before reading: what changes meanwhile is read the next time.
            seen.version = version;
            self.files.read(&self.provider).map(Some)
        });
        match fresh {
            Ok(None) => {}
            Ok(Some(pair)) => {
                self.current.store(Arc::new(pair));
                tracing::info!(certificate = %self.files.certificate.display(), "certificate reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "certificate not reloaded, the last good one is served")
            }
        }
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.look();
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading")
            .field("certificate", &self.files.certificate)
            .finish_non_exhaustive()
    }
}
