//! The list of tags.

use std::collections::HashSet;

use reqwest::{Method, Url};
use serde::{Deserialize, Deserializer};

use super::counts::Kind;
use super::exchange::{Answer, Ask};
use super::source::in_registry;
use super::source_name::is_tag_name;
use super::{Fault, Source, UpstreamError, link};

/// Tags that are asked for at once: as many as any registry gives.
const PAGE: usize = 1000;
const MOST_PAGES: usize = 1000;
const MOST_TAGS: usize = 200_000;
/// Bytes of one page: some registries know no pages.
const LONGEST_PAGE: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
struct Page {
    /// Null where there are none; but it has to be there.
    #[serde(deserialize_with = "present")]
    tags: Option<Vec<String>>,
}

fn present<'de, D: Deserializer<'de>>(tags: D) -> Result<Option<Vec<String>>, D::Error> {
    Option::deserialize(tags)
}

impl Source {
    /// All tags, each once, in the registry's order. What is no tag's name is left out: some
    /// registries list digests.
    pub async fn tags(&self) -> Result<Vec<String>, UpstreamError> {
        let ask = self.ask(Kind::Tags, Method::GET, "tags").accept(&["application/json"]);
        let plain = self.path("tags/list");
        let first = format!("{plain}?n={PAGE}");
        let listing = async {
            match self.pages(&ask, &first).await {
                // Some take no number, or no such number.
                Err(error) if error.status() == Some(400) => self.pages(&ask, &plain).await,
                tags => tags,
            }
        };
        self.in_time(listing).await
    }

    async fn pages(&self, ask: &Ask, first: &str) -> Result<Vec<String>, UpstreamError> {
        let (mut tags, mut seen, mut asked) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut path = first.to_owned();
        loop {
            let (page, next) = self.retrying(|| self.page(ask, &path)).await?;
            for tag in page {
                if !is_tag_name(&tag) {
                    tracing::debug!(source = %self.name(), name = ?shortened(&tag), "no tag's name");
                } else if !seen.contains(&tag) {
                    seen.insert(tag.clone());
                    tags.push(tag);
                }
            }
            let Some(next) = next else { return Ok(tags) };
            let endless = tags.len() > MOST_TAGS || asked.len() + 1 >= MOST_PAGES;
            if endless || !asked.insert(std::mem::replace(&mut path, next)) || asked.contains(&path)
            {
                let reason =
                    format!("more than {MOST_TAGS} tags or {MOST_PAGES} pages, or in circles");
                let host = self.name().authority();
                return Err(UpstreamError::new(Fault::Source, host, &ask.what, reason));
            }
        }
    }

    /// The names of one page, and the path of the next.
    async fn page(
        &self,
        ask: &Ask,
        path: &str,
    ) -> Result<(Vec<String>, Option<String>), UpstreamError> {
        let mut answer = self.answer(ask, path).await?;
        let next = next_path(&answer, path)?;
        let body = self.client().body(&mut answer, LONGEST_PAGE).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| answer.error(Fault::Source, format!("no list of tags: {error}")))?;
        Ok((page.tags.unwrap_or_default(), next))
    }
}

/// Where a list goes on: always in the same registry, whatever host a link names.
pub(super) fn next_path(answer: &Answer, path: &str) -> Result<Option<String>, UpstreamError> {
    let lines = answer.headers().get_all("link").iter().filter_map(|line| line.to_str().ok());
    let Some(target) = link::next(lines) else { return Ok(None) };
    let next = following(path, target);
    next.map(Some).map_err(|problem| answer.error(Fault::Source, problem))
}

/// The path of a link's target, as seen from the page under `path`.
fn following(path: &str, target: &str) -> Result<String, String> {
    let base = Url::parse("http://registry.invalid");
    let next = base.and_then(|base| in_registry(&base, path).join(target));
    let next = next.map_err(|error| format!("a link to the next page that is no URL: {error}"))?;
    let query = next.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{}{query}", next.path()))
}

fn shortened(text: &str) -> String {
    text.chars().take(150).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_no_other_host() {
        let registry = Url::parse("https://registry.example:5000/").unwrap();
        let page = "/v2/a/tags/list?n=2";
        for (target, path) in [
            ("?last=b", "/v2/a/tags/list?last=b"),
            ("http://x/v2/a/tags/list?last=b", "/v2/a/tags/list?last=b"),
            ("//evil.example/v2/a?last=b", "/v2/a?last=b"),
            ("http://x//evil.example/v2/a?last=b", "//evil.example/v2/a?last=b"),
        ] {
            let header = format!("<{target}>; rel=\"next\"");
            let target = link::next([header.as_str()].into_iter()).unwrap();
            let next = following(page, target).unwrap();
            assert_eq!(next, path);
            let url = in_registry(&registry, &next);
            assert_eq!(url.as_str(), format!("https://registry.example:5000{path}"));
        }
        // From there on, too.
        let next = following("//evil.example/v2/a?last=b", "?last=c");
        assert_eq!(next.as_deref(), Ok("//evil.example/v2/a?last=c"));
        // And where it is no path at all.
        for odd in [r"x:/\evil.example/v2/", "x:https://evil.example/", r"http://x/\evil.example/"]
        {
            let url = in_registry(&registry, &following(page, odd).unwrap());
            assert_eq!(url.origin(), registry.origin(), "{odd}: {url}");
        }
    }
}
