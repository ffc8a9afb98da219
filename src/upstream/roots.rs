//! Certificates of authorities that are trusted beside those of the system.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::Certificate;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// How the files of a folder are called that hold authorities; in `certs.d` there are client
/// certificates (`*.cert`) and keys beside them.
const EXTENSIONS: [&str; 2] = ["crt", "pem"];

/// Files of a folder, and bytes of a file, that are read.
const MOST_FILES: usize = 1000;
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// The certificates in these files and folders; the error names the file. What is not there is
/// passed over.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Certificate>, String> {
    let mut certificates = Vec::new();
    for path in paths {
        for file in files(path).map_err(|error| format!("{}: {error}", path.display()))? {
            let wrong = |problem: &dyn std::fmt::Display| format!("{}: {problem}", file.display());
            certificates.extend(of_file(&file).map_err(|error| wrong(&error))?);
        }
    }
    Ok(certificates)
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    if !found.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)?.take(MOST_FILES) {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn of_file(file: &Path) -> Result<Vec<Certificate>, String> {
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > LONGEST_FILE {
        return Err(format!("{length} bytes are too many for certificates"));
    }
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("no certificate in PEM: {error}"))?;
        let der = certificate.to_vec();
        RootCertStore::empty().add(certificate).map_err(|error| error.to_string())?;
        certificates.push(Certificate::from_der(&der).map_err(|error| error.to_string())?);
    }
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let one = file("ca.crt", &authority());
        file("two.pem", &format!("# a bundle\n{}{}", authority(), authority()));
        // Not ours to read.
        file("client.cert", "x");
        file("client.key", "x");
        let count = |paths: &[PathBuf]| read(paths).map(|found| found.len());
        assert_eq!(count(std::slice::from_ref(&one)), Ok(1));
        assert_eq!(count(&[folder.path().to_owned()]), Ok(3));
        assert_eq!(count(&[folder.path().join("none"), one]), Ok(1));
        let empty = file("empty.crt", "");
        let error = count(&[empty]).unwrap_err();
        assert!(error.contains("empty.crt") && error.contains("PEM"), "{error}");
        let broken = authority().replace("MII", "AAA");
        let error = count(&[file("broken.pem", &broken)]).unwrap_err();
        assert!(error.contains("broken.pem"), "{error}");
    }
}
