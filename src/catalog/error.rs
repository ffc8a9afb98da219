//! What can go wrong with the database, in terms that an answer can be made of.

use tokio_postgres::error::SqlState;

/// A statement that gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// No connection, none in time, or it broke: the same request may work in a moment.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The statement took too long and was cancelled.
    #[error("statement of {route} took longer than {limit_ms} ms and was cancelled")]
    Timeout {
        /// Whose statement it was.
        route: &'static str,
        /// The limit, `QUAY_SIDECAR.db_statement_timeout_ms`.
        limit_ms: u128,
    },
    /// Another transaction was in the way (a deadlock, or one that has to come after it): the same
    /// transaction may work if it begins anew.
    #[error("another transaction was in the way: {0}")]
    Conflict(String),
    /// The database refuses to write for now: a replica, or in recovery.
    #[error("database is read-only: {0}")]
    ReadOnly(String),
    /// The statement itself was refused; it will be again.
    #[error("statement of {route} refused: {reason}")]
    Refused {
        /// Whose statement it was.
        route: &'static str,
        /// The database's words.
        reason: String,
    },
}

impl CatalogError {
    /// Whether the same statement may succeed shortly.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    pub(super) fn from_postgres(route: &'static str, error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Unavailable(chain(error));
        };
        let reason = format!("{} ({})", db.message(), db.code().code());
        let state = db.code();
        // Class 08: connection; 53: resources; 57: operator intervention (SQL standard classes).
        let transient = ["08", "53", "57"].iter().any(|class| state.code().starts_with(class))
            // What a row refers to was there when we looked, and has been collected since.
            || *state == SqlState::FOREIGN_KEY_VIOLATION;
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state) {
            Self::Conflict(reason)
        } else if *state == SqlState::READ_ONLY_SQL_TRANSACTION {
            Self::ReadOnly(reason)
        } else if transient {
            Self::Unavailable(reason)
        } else {
            Self::Refused { route, reason }
        }
    }
}

/// The error and its causes in one line: tokio-postgres hides the cause.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
