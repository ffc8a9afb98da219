//! The list of tags.

use std::collections::HashSet;

use reqwest::{Method, Url};
use serde::{Deserialize, Deserializer};

use super::counts::Kind;
use super::exchange::{Answer, Ask};
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
    let here = Url::parse("http://registry.invalid").and_then(|base| base.join(path));
    let next = here.and_then(|here| here.join(target));
    let next = next.map_err(|error| {
        answer.error(Fault::Source, format!("a link to the next page that is no URL: {error}"))
    })?;
    let query = next.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Some(format!("{}{query}", next.path())))
}

fn shortened(text: &str) -> String {
    text.chars().take(150).collect()
}
