//! The tags of a repository, a page at a time.

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::{Repository, repository_columns, repository_named};
use crate::oci::RepoName;

/// A page of tags.
#[derive(Debug)]
pub struct TagPage {
    /// The repository of the request.
    pub repository: Repository,
    /// At most as many names as were asked for, in the database's order.
    pub names: Vec<String>,
    /// Whether more follow.
    pub has_more: bool,
}

/// `$3` last name of the page before, `$4` now in milliseconds, `$5` limit (contract §3.4).
///
/// The order is the column's collation, so the database sorts, never we.
const PAGE: &str = concat!(
    "SELECT ",
    repository_columns!(),
    ", t.name FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
     LEFT JOIN tag t ON t.repository_id = r.id AND t.name > $3 AND NOT t.hidden \
         AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $4)",
    repository_named!(),
    " ORDER BY t.name LIMIT $5"
);

impl Session<'_> {
    /// Up to `limit` tags after `last`, or `None` without a repository.
    pub async fn tags(
        &self,
        name: &RepoName,
        last: Option<&str>,
        limit: u32,
        now_ms: i64,
    ) -> Result<Option<TagPage>, CatalogError> {
        // Every tag has a name, so all of them follow the empty one.
        let last = last.unwrap_or_default();
        let one_more = i64::from(limit) + 1;
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            last.into(),
            now_ms.into(),
            one_more.into(),
        ];
        let rows = self.query(PAGE, &params).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let repository = Repository::from_row(first, self.enums().await?)?;
        // Without any tag there is one row, and no name in it.
        let names = rows.iter().filter_map(|row| row.get::<Option<String>>(6).transpose());
        let mut names = names.collect::<Result<Vec<String>, _>>()?;
        let has_more = names.len() > limit as usize;
        names.truncate(limit as usize);
        Ok(Some(TagPage { repository, names, has_more }))
    }
}
