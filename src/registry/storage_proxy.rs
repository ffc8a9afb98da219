//! `FEATURE_PROXY_STORAGE`: clients fetch blobs from the object storage through Quay's nginx
//! (contract §5.6).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use super::App;
use super::error::ApiError;
use crate::auth::mint_storage_proxy;

impl App {
    /// Where nginx fetches `url` for whoever asks, with a token that permits just that. nginx asks
    /// Quay's web application, which trusts the same keys.
    pub(super) fn proxied(&self, url: &str) -> Result<String, ApiError> {
        let no_url = || ApiError::Internal("a signed URL has no host".to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(no_url)?;
        let (host, uri) = rest.split_once('/').ok_or_else(no_url)?;
        let config = &self.shared.config;
        let key = &self.shared.instance_key;
        let audience = &config.server.hostname;
        let token = mint_storage_proxy(key, &config.keys.service, audience, scheme, host, uri)?;
        let (base, token) = (config.server.base_url(), URL_SAFE.encode(token));
        Ok(format!("{base}/_storage_proxy/{token}/{scheme}/{host}/{uri}"))
    }
}
