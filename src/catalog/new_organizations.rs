//! Organizations that are made by pushing to them (contract §2.3 step 7, §4.8).

use chrono::Utc;
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::new_repositories::NewRepository;
use super::transaction::Transaction;
use crate::config::NewNamespaces;
use crate::oci::is_account_name;

/// What became of an organization that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewOrganization {
    /// It is there, with its repository.
    Made,
    /// Somebody else has just made a namespace of this name.
    Taken,
    /// There may be none of this name, or by this creator.
    Refused,
}

/// The longest address that `user.email` holds.
const LONGEST_EMAIL: usize = 255;

/// `$1` creator, `$2` name. The organization's address is its creator's with its name added, whether
/// that makes sense (a robot has a uuid for an address) or not.
const LOOK: &str = "\
    SELECT e.email, \
        EXISTS (SELECT 1 FROM \"user\" u WHERE u.email = e.email AND NOT u.organization), \
        EXISTS (SELECT 1 FROM deletednamespace d WHERE d.original_username = $2) \
    FROM (SELECT replace(c.email, '@', '+' || $2 || '@') AS email FROM \"user\" c \
        WHERE c.id = $1) e";

/// Nothing where the name is taken.
const INSERT: &str = "\
    INSERT INTO \"user\" (uuid, username, email, verified, organization, robot, invoice_email, \
        invalid_login_attempts, last_invalid_login, removed_tag_expiration_s, enabled, \
        maximum_queued_builds_count, creation_date) \
    VALUES ($1, $2, $3, false, true, false, false, 0, $4, $5, true, $6, $4) \
    ON CONFLICT DO NOTHING RETURNING id";

const INSERT_OWNERS: &str = "\
    INSERT INTO team (name, organization_id, role_id, description) \
    SELECT 'owners', $1, r.id, '' FROM teamrole r WHERE r.name = 'admin' RETURNING id";

const INSERT_MEMBER: &str = "INSERT INTO teammember (user_id, team_id) VALUES ($2, $1)";

impl Session<'_> {
    /// Makes the namespace of a repository, owned by its creator, and the repository: both or none.
    pub async fn create_organization(
        &self,
        new: &NewRepository<'_>,
        rules: &NewNamespaces,
    ) -> Result<NewOrganization, CatalogError> {
        if !is_account_name(&new.name.namespace) {
            return Ok(NewOrganization::Refused);
        }
        self.transaction(async |transaction| {
            let made = transaction.organization(new, rules).await?;
            if made == NewOrganization::Made {
                transaction.repository(new).await?;
            }
            Ok(made)
        })
        .await
    }
}

impl Transaction<'_> {
    async fn organization(
        &mut self,
        new: &NewRepository<'_>,
        rules: &NewNamespaces,
    ) -> Result<NewOrganization, CatalogError> {
        let name = new.name.namespace.as_str();
        let rows = self.query(LOOK, &[new.creator.into(), name.into()]).await?;
        let Some(row) = rows.first() else { return Ok(NewOrganization::Refused) };
        let (email, of_user, was_there): (&str, bool, bool) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let unusable = email.len() > LONGEST_EMAIL || (rules.mailing && !is_email(email));
        if unusable || was_there || (of_user && !rules.shared_email) {
            return Ok(NewOrganization::Refused);
        }
        let uuid = Uuid::new_v4().to_string();
        let expiration = i64::try_from(rules.tag_expiration.as_secs()).unwrap_or(i64::MAX);
        let params = [
            (&uuid).into(),
            name.into(),
            email.into(),
            Utc::now().naive_utc().into(),
            expiration.into(),
            rules.maximum_builds.into(),
        ];
        let Some(id) = self.id(INSERT, &params).await? else { return Ok(NewOrganization::Taken) };
        let owners = self.id(INSERT_OWNERS, &[id.into()]).await?;
        let owners = owners.ok_or_else(|| self.nothing_inserted("team"))?;
        self.query(INSERT_MEMBER, &[owners.into(), new.creator.into()]).await?;
        Ok(NewOrganization::Made)
    }
}

/// As far as Quay looks at one.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let mut labels = domain.split('.');
    text.chars().count() <= 254
        && !local.is_empty()
        && !domain.contains('@')
        && domain.contains('.')
        && labels.all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["a@b.c", "ada+demo@example.com"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b.c", "a@", "a@b", "a@b..c", "a@b@c.d", "5845433b-1da6-483b"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
