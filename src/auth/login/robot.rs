//! Robots: by the token that Quay keeps for them, or by one that it signed (contract §2.2.3).

use subtle::ConstantTimeEq;

use super::{FailureLog, Identity, LoginError, Logins, ROUTE, Refusal, invalid, is_jwt};
use crate::auth::{Basic, BearerError};
use crate::catalog::{Catalog, Robot};

impl Logins {
    pub(super) async fn robot(
        &self,
        catalog: &Catalog,
        basic: &Basic,
        owner: &str,
    ) -> Result<Identity, LoginError> {
        let name = &basic.username;
        let refuse = |message: &str| {
            let log = FailureLog::User(owner.to_owned());
            LoginError::Invalid(Refusal::service(message).in_log(log))
        };
        if self.config.robots_disallow && !self.config.robots_whitelist.contains(name) {
            let disallowed = "Robot account have been disabled. Please contact your administrator.";
            return Err(refuse(disallowed));
        }
        if !basic.password.is_ascii() {
            return Err(refuse(&wrong(name)));
        }
        let unknown = || refuse("Could not find robot with specified username");
        if !name.is_ascii() || name.contains('\0') {
            return Err(unknown());
        }
        let db = catalog.session(ROUTE);
        let robot = db.robot(name, owner).await?.ok_or_else(unknown)?;
        let Some((owner_id, owner_enabled)) = robot.owner else {
            return Err(refuse(&format!("Robot {name} owner does not exist")));
        };
        // From here on the log names the robot.
        let tried =
            FailureLog::Account { username: owner.to_owned(), performer: robot.id, title: None };
        let refused = |error| match error {
            LoginError::Invalid(refusal) => LoginError::Invalid(refusal.in_log(tried)),
            other => other,
        };
        if !owner_enabled {
            return Err(refused(invalid(&format!("Robot {name} owner {owner} is disabled"))));
        }
        let checked = match is_jwt(&basic.password) {
            true => self.signed_for(catalog, name, &basic.password).await,
            false => self.own_token(&robot, &basic.password),
        };
        checked.map_err(refused)?;
        self.accessed(db, robot.id, robot.last_accessed).await?;
        if !robot.enabled {
            let refusal = Refusal { message: None, log: FailureLog::Nowhere };
            return Err(LoginError::Invalid(refusal));
        }
        let owner = owner.to_owned();
        Ok(Identity::Robot { id: robot.id, username: robot.username, owner_id, owner })
    }

    fn own_token(&self, robot: &Robot, password: &str) -> Result<(), LoginError> {
        let stored = robot.token.as_deref().map(|stored| self.decrypted(stored, &robot.username));
        let wrong = || invalid(&wrong(&robot.username));
        let token = stored.transpose()?.flatten().ok_or_else(wrong)?;
        match bool::from(token.as_bytes().ct_eq(password.as_bytes())) {
            true => Ok(()),
            false => Err(wrong()),
        }
    }

    /// What federated robots log in with: Quay signs it for an hour.
    async fn signed_for(
        &self,
        catalog: &Catalog,
        name: &str,
        token: &str,
    ) -> Result<(), LoginError> {
        match self.verifier.subject(catalog, token).await {
            Ok(subject) if subject == name => Ok(()),
            Ok(_) => Err(invalid("Token does not match robot")),
            Err(BearerError::Rejected(reason)) => Err(invalid(&reason)),
            Err(BearerError::Catalog(error)) => Err(error.into()),
        }
    }
}

fn wrong(name: &str) -> String {
    format!("Could not find robot with username: {name} and supplied password.")
}
