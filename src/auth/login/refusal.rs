//! A login that failed, and in whose log that belongs (contract §2.2.7).

/// Why somebody did not get in.
#[derive(Debug)]
pub struct Refusal {
    /// In Quay's words; `None` for its default ones.
    pub message: Option<String>,
    /// Where it is logged, if failed logins are.
    pub log: FailureLog,
}

/// Whose log a failed login goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureLog {
    /// Nobody's.
    Nowhere,
    /// The installation's: `SERVICE_LOG_ACCOUNT_ID`, else its first account.
    Service,
    /// The user's of this name; the installation's where it is an organization's, or nobody's.
    User(String),
    /// An account's, with who tried.
    Account {
        /// `user.username`
        username: String,
        /// `user.id` of the robot, or of the owner of the token.
        performer: i32,
        /// `appspecificauthtoken.title`
        title: Option<String>,
    },
    /// One that names more than we have read: Python's to write.
    Python,
}

impl Refusal {
    /// Logged by the installation.
    pub(super) fn service(message: &str) -> Self {
        Self { message: Some(message.to_owned()), log: FailureLog::Service }
    }

    /// The same, logged elsewhere.
    pub(super) fn in_log(self, log: FailureLog) -> Self {
        Self { log, ..self }
    }
}
