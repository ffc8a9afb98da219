//! Which token service gets the credentials of a registry: its own, and nobody else's
//! (CVE-2020-15157, CVE-2026-33540, CVE-2026-48978).

use reqwest::Url;

use super::ssrf;

/// Token services of other sites that a registry is known to have, as
/// `(host of the registry, host of its token service)`. Docker Hub's is of the same site too: it
/// stands here because it is in every list.
const KNOWN: [(&str, &str); 1] = [("registry-1.docker.io", "auth.docker.io")];

/// Reads the realm of a challenge and judges it. The error says what is wrong with it.
///
/// Without credentials nothing can be lost, so any service may be asked over HTTPS; with them, it
/// has to be of the registry's own site. HTTP is only for registries that are spoken to over HTTP,
/// and only on their own host.
pub(super) fn judge(registry: &Url, realm: &str, credentials: bool) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|error| format!("is no URL ({error})"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name in it".to_owned());
    }
    let (Some(host), Some(own)) = (url.host_str(), registry.host_str()) else {
        return Err("has no host".to_owned());
    };
    match url.scheme() {
        "https" if !credentials || host == own => Ok(url),
        "https" if is_same_site(own, host) || KNOWN.contains(&(own, host)) => Ok(url),
        "https" => Err(format!("is on another site, {host}, which is not told the credentials")),
        "http" if registry.scheme() == "http" && host == own => Ok(url),
        "http" => Err("is not HTTPS".to_owned()),
        scheme => Err(format!("is for {scheme}")),
    }
}

/// Whether two names were registered by the same party, by the public suffix list.
fn is_same_site(one: &str, other: &str) -> bool {
    // The list would take the last parts of an address for a domain.
    if ssrf::address(one).is_some() || ssrf::address(other).is_some() {
        return false;
    }
    let registered = |host: &str| psl::domain_str(host).map(str::to_owned);
    registered(one).is_some_and(|domain| registered(other) == Some(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_service_it_is() {
        for (registry, realm, with, without) in [
            ("https://quay.io", "https://quay.io/v2/auth", true, true),
            ("https://quay.io", "https://quay.io:8443/v2/auth", true, true),
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true, true),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true, true),
            ("https://registry.corp.example", "https://sso.corp.example/t?a=b", true, true),
            ("https://lscr.io", "https://ghcr.io/token", false, true),
            ("https://quay.io", "https://evil.example/token", false, true),
            ("https://quay.io.evil.example", "https://quay.io/token", false, true),
            // Neighbours under a public suffix are strangers.
            ("https://a.co.uk", "https://b.co.uk/token", false, true),
            ("https://a.github.io", "https://b.github.io/token", false, true),
            ("https://10.0.0.1", "https://10.1.0.1/token", false, true),
            ("https://[fd00::1]", "https://[fd00::2]/token", false, true),
            ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token", true, true),
            // HTTP is not for credentials, nor for tokens.
            ("https://quay.io", "http://quay.io/v2/auth", false, false),
            ("http://quay.io", "http://quay.io/v2/auth", true, true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/auth", true, true),
            ("http://quay.io", "http://auth.quay.io/v2/auth", false, false),
            ("https://quay.io", "ftp://quay.io/auth", false, false),
            ("https://quay.io", "/v2/auth", false, false),
            ("https://quay.io", "https://ada:x@quay.io/v2/auth", false, false),
        ] {
            let registry = Url::parse(registry).unwrap();
            for (credentials, fine) in [(true, with), (false, without)] {
                let judged = judge(&registry, realm, credentials);
                assert_eq!(judged.is_ok(), fine, "{registry} {realm} {judged:?}");
            }
        }
    }
}
