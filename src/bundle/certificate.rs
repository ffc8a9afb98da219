//! Quay's own certificate, `ssl.cert` in its configuration folder: how long it holds.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use x509_cert::Certificate;

/// Enough to get another one.
const WARN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// That none of the chain ends soon; `None` where there is no such file.
pub(super) fn holds(path: &Path, now: SystemTime) -> Option<Result<String, String>> {
    let pem = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("{}: {error}", path.display()))),
        Ok(pem) => pem,
    };
    let shown = path.display();
    let chain = match Certificate::load_pem_chain(&pem) {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => return Some(Err(format!("{shown} holds no certificate in PEM"))),
        Err(error) => return Some(Err(format!("{shown}: {error}"))),
    };
    let end =
        |certificate: &Certificate| certificate.tbs_certificate.validity.not_after.to_system_time();
    let first = chain.iter().min_by_key(|certificate| end(certificate))?;
    let (subject, end) = (&first.tbs_certificate.subject, end(first));
    let date = DateTime::<Utc>::from(end).format("%Y-%m-%d %H:%M UTC");
    let replace = "put another one in its place, and restart Quay";
    Some(match end.duration_since(now) {
        Err(_) => Err(format!("{shown}: {subject} ended on {date}: {replace}")),
        Ok(left) if left < WARN => {
            let days = left.as_secs() / (24 * 60 * 60);
            Err(format!("{shown}: {subject} ends in {days} days, on {date}: {replace}"))
        }
        Ok(_) => Ok(format!("{subject} holds until {date}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn the_first_of_a_chain_to_end_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ssl.cert");
        assert_eq!(holds(&path, SystemTime::now()), None);
        let pem = |name: &str, year| {
            let mut wanted = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            wanted.distinguished_name.push(rcgen::DnType::CommonName, name);
            wanted.not_after = rcgen::date_time_ymd(year, 6, 30);
            wanted.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        fs::write(&path, pem("leaf", 2031) + &pem("root", 2030)).unwrap();
        let end: SystemTime = DateTime::parse_from_rfc3339("2030-06-30T00:00:00Z").unwrap().into();
        let said = |before: Duration| holds(&path, end - before).unwrap();
        assert_eq!(said(31 * DAY).unwrap(), "CN=root holds until 2030-06-30 00:00 UTC");
        assert!(said(30 * DAY - DAY / 2).unwrap_err().contains("CN=root ends in 29 days"));
        let after = holds(&path, end + DAY).unwrap().unwrap_err();
        assert!(after.contains("ended on 2030-06-30"), "{after}");
        fs::write(&path, "nothing").unwrap();
        assert!(holds(&path, end).unwrap().is_err());
    }
}
