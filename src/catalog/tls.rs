//! TLS to PostgreSQL with the meaning that libpq gives to `sslmode` and its certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{SslMode, Tls};

/// Why no TLS connector could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds no PEM section of the kind that is needed, or a broken one.
    #[error("{}: holds no readable {expected} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// `verify-ca` or `verify-full` without a root certificate.
    #[error("sslmode asks for verification, but there is no root certificate (sslrootcert)")]
    NoRoots,
    /// A client certificate without its key, or a key without its certificate.
    #[error("a client certificate needs both sslcert and sslkey")]
    HalfAClientCertificate,
    /// The certificates cannot be used.
    #[error("the certificates cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The root certificates cannot be used.
    #[error("the root certificates cannot be used")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// A connector for `tls`; only to be used when its mode is not [`SslMode::Disable`].
///
/// As in libpq, a root certificate makes every mode verify the chain, and only `verify-full` looks at
/// the host name; without one nothing is verified. Unlike libpq, a root certificate that is named
/// but missing is an error in every mode.
///
/// # Errors
/// When a file is missing or unusable.
pub fn connector(tls: &Tls) -> Result<MakeRustlsConnect, TlsError> {
    Ok(MakeRustlsConnect::new(client_config(tls)?))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    // Named explicitly: a process-wide default would depend on what else was linked in.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(tls, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&tls.client_cert, &tls.client_key) {
        (Some(cert), Some(key)) => {
            Ok(builder.with_client_auth_cert(certificates(cert)?, private_key(key)?)?)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(TlsError::HalfAClientCertificate),
    }
}

fn verifier(
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let Some(path) = &tls.root_cert else {
        return match tls.mode {
            SslMode::VerifyCa | SslMode::VerifyFull => Err(TlsError::NoRoots),
            _ => Ok(Arc::new(Unverified(provider.clone()))),
        };
    };
    let named = certificates(path)?;
    let mut roots = RootCertStore::empty();
    // A bundle may hold certificates that rustls cannot read; libpq does not mind them either.
    roots.add_parsable_certificates(named.iter().cloned());
    let chain =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    Ok(Arc::new(Verified { chain, named, check_name: tls.mode == SslMode::VerifyFull }))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let expected = "certificate";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::Pem { path: path.into(), expected }),
    }
}

/// PKCS#8, PKCS#1 or SEC1, whichever the file holds. An encrypted key is not supported.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key: Result<_, pem::Error> = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|_| TlsError::Pem { path: path.into(), expected: "private key" })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.into(), source })
}

/// The chain has to be right, and with `verify-full` the host name too.
#[derive(Debug)]
struct Verified {
    chain: Arc<WebPkiServerVerifier>,
    /// The certificates in the root file.
    named: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other};
        match self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(_) => {}
            // The name is checked last, so everything else was right.
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => {}
            // `openssl req -x509` marks a self-signed server certificate as an authority, which webpki
            // refuses in a server, after it has checked the dates. The root file naming this very
            // certificate is how PostgreSQL's own manual sets such a server up.
            Err(rustls::Error::InvalidCertificate(Other(_))) if self.named.contains(end_entity) => {
            }
            Err(error) => return Err(error),
        }
        if self.check_name {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// `require` without a root certificate: encrypted, but anyone could be at the other end. The server
/// still has to prove that it holds the key of the certificate that it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Made for these tests with `openssl req -x509` and `openssl x509 -req`; valid for a century.
    const ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUF4jReEYkgPt1eOwa637mR2LlE4EwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJdGVzdCByb290MCAXDTI2MTEyMzIwMjczOFoYDzIxMjYxMDMw
MjAyNzM4WjAUMRIwEAYDVQQDDAl0ZXN0IHJvb3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAR+e6SoTpOJl1M5h45lcVk3Vx6cdqPrUvmFE3uUrkFs58H/0YgIdaQc
+ok8N+z9fMUFDIilk5cylkra6qAO3Jvco1MwUTAdBgNVHQ4EFgQUS5o92b2vf3CW
HIPV1sGi2UeJM50wHwYDVR0jBBgwFoAUS5o92b2vf3CWHIPV1sGi2UeJM50wDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAY8SBA83Py0j24S5xOvkJS
DLYKV+uzU8EZpPEGhOX7LgIhAJO9xQpWcbWuJA0EoccltA+UkAFOuUbzmntSqpZ6
RFn2
-----END CERTIFICATE-----
";
    /// For `db.example`, issued by `ROOT`.
    const LEAF: &str = "\
-----BEGIN CERTIFICATE-----
MIIBkjCCATegAwIBAgIUQmM2sEVZ2yOCoVakjuDupwSOiv8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJdGVzdCByb290MCAXDTI2MTEyMzIwMjczOFoYDzIxMjYxMDMw
MjAyNzM4WjAVMRMwEQYDVQQDDApkYi5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZI
zj0DAQcDQgAE01fzMp+ba8+rEo3gt5+4zjzmXB1DkJ7hMo0kn4PBNiX/LRc2zUFE
TJXLWGmQCMfuozUF1Gw6HY7WhvJirdJ5M6NkMGIwFQYDVR0RBA4wDIIKZGIuZXhh
bXBsZTAJBgNVHRMEAjAAMB0GA1UdDgQWBBTTJ4AkV5lw3Zm5VCUrFnP8307RmTAf
BgNVHSMEGDAWgBRLmj3Zva9/cJYcg9XWwaLZR4kznTAKBggqhkjOPQQDAgNJADBG
AiEAnE+6AjP4X5DMqs6qRltnSpbeerf5wKYuoYf8A20HDrICIQCqW7kDrh+eKzQK
S5wpUGuJH1E7l/xvV1q8X+1sLWLKCg==
-----END CERTIFICATE-----
";
    /// For `db.example`, self-signed, marked as an authority.
    const SELF_SIGNED: &str = "\
-----BEGIN CERTIFICATE-----
MIIBmDCCAT6gAwIBAgIUbeCh1CnwKanUJewi2asUBU9nhB8wCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKZGIuZXhhbXBsZTAgFw0yNjExMjMyMDI3MzhaGA8yMTI2MTAz
MDIwMjczOFowFTETMBEGA1UEAwwKZGIuZXhhbXBsZTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABOGb8mQx8cKLCIFF0JnKviZ8VKpWqP4c8Lw3AB3WXf9yF6TeCBe9
+zkpLVzld6huB04qKVQPCCGoSQ4yFK3CGeKjajBoMB0GA1UdDgQWBBQmkV1rweqg
PIlMZb1tVWLIGLPpCzAfBgNVHSMEGDAWgBQmkV1rweqgPIlMZb1tVWLIGLPpCzAP
BgNVHRMBAf8EBTADAQH/MBUGA1UdEQQOMAyCCmRiLmV4YW1wbGUwCgYIKoZIzj0E
AwIDSAAwRQIhAIl0qAmEi6ETXt8QNrbQCR+umnxBZQAGuK1famC3BkzUAiBvQjic
Gm1TlIaVWiUJOdmwjZELnhQBEt8TKSSsdxI2FQ==
-----END CERTIFICATE-----
";
    /// The key of `LEAF`, in both forms.
    const LEAF_PKCS8: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDcS7VuMQE7RLlHDK
epDUDLzhrDbsD125oeNjCc/7R+yhRANCAATTV/Myn5trz6sSjeC3n7jOPOZcHUOQ
nuEyjSSfg8E2Jf8tFzbNQURMlctYaZAIx+6jNQXUbDodjtaG8mKt0nkz
-----END PRIVATE KEY-----
";
    const LEAF_SEC1: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIA3Eu1bjEBO0S5RwynqQ1Ay84aw27A9duaHjYwnP+0fsoAoGCCqGSM49
AwEHoUQDQgAE01fzMp+ba8+rEo3gt5+4zjzmXB1DkJ7hMo0kn4PBNiX/LRc2zUFE
TJXLWGmQCMfuozUF1Gw6HY7WhvJirdJ5Mw==
-----END EC PRIVATE KEY-----
";

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str) -> Option<PathBuf> {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        }
    }

    fn verifies(mode: SslMode, roots: &str, server: &str, name: &str, year: u64) -> bool {
        let files = Files::new();
        let root_cert = files.write("root.crt", roots);
        let tls = Tls { mode, root_cert, ..Tls::default() };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let server = CertificateDer::from_pem_slice(server.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_string()).unwrap();
        verifier(&tls, &provider).unwrap().verify_server_cert(&server, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn modes_mean_what_libpq_means() {
        use SslMode::{Allow, Prefer, Require, VerifyCa, VerifyFull};
        for mode in [Allow, Prefer, Require, VerifyCa] {
            assert!(verifies(mode, ROOT, LEAF, "db.example", 2030), "{mode:?}");
            assert!(
                verifies(mode, ROOT, LEAF, "other.example", 2030),
                "{mode:?}: the name does not matter"
            );
            assert!(verifies(mode, SELF_SIGNED, SELF_SIGNED, "other.example", 2030), "{mode:?}");
        }
        for mode in [Allow, Prefer, Require, VerifyCa, VerifyFull] {
            assert!(
                !verifies(mode, ROOT, SELF_SIGNED, "db.example", 2030),
                "{mode:?}: another chain"
            );
            assert!(
                !verifies(mode, SELF_SIGNED, LEAF, "db.example", 2030),
                "{mode:?}: another chain"
            );
            assert!(!verifies(mode, ROOT, LEAF, "db.example", 2200), "{mode:?}: expired");
            assert!(
                !verifies(mode, SELF_SIGNED, SELF_SIGNED, "db.example", 2200),
                "{mode:?}: expired"
            );
        }
        for (root, server) in [(ROOT, LEAF), (SELF_SIGNED, SELF_SIGNED)] {
            assert!(verifies(VerifyFull, root, server, "db.example", 2030));
            assert!(!verifies(VerifyFull, root, server, "other.example", 2030));
            assert!(!verifies(VerifyFull, root, server, "10.0.0.1", 2030));
        }
    }

    #[test]
    fn without_a_root_nothing_is_verified_unless_asked_for() {
        for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
            connector(&Tls { mode, ..Tls::default() }).unwrap();
        }
        for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            let error = connector(&Tls { mode, ..Tls::default() }).err();
            assert!(matches!(error, Some(TlsError::NoRoots)), "{error:?}");
        }
    }

    #[test]
    fn client_certificates() {
        let files = Files::new();
        let client_cert = files.write("client.crt", LEAF);
        for key in [LEAF_PKCS8, LEAF_SEC1] {
            let client_key = files.write("client.key", key);
            connector(&Tls { client_cert: client_cert.clone(), client_key, ..Tls::default() })
                .unwrap();
        }
        let half = connector(&Tls { client_cert: client_cert.clone(), ..Tls::default() }).err();
        assert!(matches!(half, Some(TlsError::HalfAClientCertificate)), "{half:?}");
        let client_key = files.write("client.key", LEAF);
        let none = connector(&Tls { client_cert, client_key, ..Tls::default() }).err();
        assert!(matches!(none, Some(TlsError::Pem { expected: "private key", .. })), "{none:?}");
        let (client_cert, client_key) =
            (files.write("other.crt", ROOT), files.write("client.key", LEAF_PKCS8));
        let foreign = connector(&Tls { client_cert, client_key, ..Tls::default() }).err();
        assert!(matches!(foreign, Some(TlsError::Rustls(_))), "{foreign:?}");
    }

    #[test]
    fn unusable_files_are_named() {
        let files = Files::new();
        let missing =
            connector(&Tls { root_cert: Some("/no/such/file".into()), ..Tls::default() }).err();
        assert!(matches!(&missing, Some(TlsError::Read { .. })), "{missing:?}");
        assert!(missing.is_some_and(|error| error.to_string().contains("/no/such/file")));
        for text in [
            "",
            "not PEM",
            LEAF_PKCS8,
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            let error =
                connector(&Tls { root_cert: files.write("root.crt", text), ..Tls::default() })
                    .err();
            assert!(
                matches!(error, Some(TlsError::Pem { expected: "certificate", .. })),
                "{text}: {error:?}"
            );
        }
    }
}
