//! The certificate is the operator's to replace, while clients are connected.

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::*;

/// A pair for localhost, both PEM.
fn pair() -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

/// As programs that renew certificates do: another file takes the name.
fn replace(own: &Own, name: &str, content: &str) {
    let new = own.path(&format!("{name}.new"));
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(new, own.path(name)).unwrap();
}

#[test]
fn a_new_certificate_is_served_and_old_connections_go_on() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let old = own.certificate();
    let mut kept = own.client();
    assert_eq!(kept.get("/v2/", &[]).unwrap().status, 401);
    let (certificate, key) = pair();
    replace(&own, "tls.crt", &certificate);
    replace(&own, "tls.key", &key);
    let renewed =
        eventually(|| Client::connect(&own.listen, &certificate).ok(), || registryd.logs());
    assert!(renewed.certificate() != kept.certificate());
    assert_eq!(kept.get("/v2/", &[]).unwrap().status, 401);
    assert!(Client::connect(&own.listen, &old).is_err(), "the old one is served");
    assert!(registryd.logs().contains("certificate reloaded"), "{}", registryd.logs());
}

#[test]
fn a_bad_certificate_leaves_the_old_one() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let old = own.certificate();
    let (certificate, key) = pair();
    for (name, content, complaint) in [
        ("tls.crt", "nonsense", "holds no certificate in PEM"),
        ("tls.crt", certificate.as_str(), "cannot be used together"),
        ("tls.key", "nonsense", "holds no unencrypted private key in PEM"),
    ] {
        replace(&own, name, content);
        let said = || {
            // Clients look, so to speak.
            Client::connect(&own.listen, &old).unwrap();
            registryd.logs().contains(complaint).then_some(())
        };
        eventually(said, || format!("no {complaint:?} in {}", registryd.logs()));
    }
    // The other half comes later, and all is well.
    replace(&own, "tls.key", &key);
    eventually(|| Client::connect(&own.listen, &certificate).ok(), || registryd.logs());
    // With a bad one, nothing starts.
    replace(&own, "tls.key", "nonsense");
    drop(registryd);
    let (code, said) = own.refusal(&[]);
    assert!(code == 64 && said.contains("tls.key holds no"), "{code}: {said}");
}
