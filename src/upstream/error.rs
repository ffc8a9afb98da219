//! What can go wrong with another registry: whose fault it is, and whether to ask again helps.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The mirror's settings: its reference, its proxy, its certificates.
    Configuration,
    /// The registry does not let these credentials, or nobody in particular, read this.
    Credentials,
    /// The registry's: it failed, or answered what no registry may.
    Source,
    /// It cannot be reached, or connections break.
    Network,
    /// It takes too long.
    Timeout,
    /// Its certificate is not one that is trusted, or there is no TLS at all.
    Tls,
    /// We do not go there: an address that is not public, or a token service that is somebody
    /// else's.
    Refused,
    /// There is no such repository, manifest or blob.
    NotFound,
    /// It wants to be asked less often.
    RateLimited,
}

impl Fault {
    /// One word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Source => "source",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// One thing that could not be had of another registry, whatever was tried. Prints as one line that
/// names the host, the request, the reason and the remedy, and holds no secret.
#[derive(Clone, Debug)]
pub struct UpstreamError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    fault: Fault,
    can_retry: bool,
    retry_after: Option<Duration>,
    status: Option<u16>,
    host: String,
    request: String,
    reason: String,
    remedy: Option<&'static str>,
}

/// Characters of a reason.
const LONGEST_REASON: usize = 500;

impl UpstreamError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// Whether the same may succeed later.
    pub fn can_retry(&self) -> bool {
        self.0.can_retry
    }

    /// How long the registry asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The status it answered with, if it answered.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The host, with its port if it is not the usual one: the registry's, or wherever it sent us.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// An error of one request. What `reason` says of an answer is made one short line.
    pub(super) fn new(fault: Fault, host: &str, request: &str, reason: impl AsRef<str>) -> Self {
        let can_retry = matches!(fault, Fault::Network | Fault::Timeout | Fault::RateLimited);
        Self(Box::new(Inner {
            fault,
            can_retry,
            retry_after: None,
            status: None,
            host: host.to_owned(),
            request: request.to_owned(),
            reason: one_line(reason.as_ref()),
            remedy: None,
        }))
    }

    /// A reference that names no repository.
    pub(super) fn reference(reference: &str, problem: &str) -> Self {
        // `user:password@host` is a mistake, and no reason to print the password.
        let shown = reference.rsplit_once('@').map_or(reference, |(_, place)| place);
        Self::new(Fault::Configuration, shown, "the external reference", problem)
    }

    pub(super) fn retryable(mut self) -> Self {
        self.0.can_retry = true;
        self
    }

    pub(super) fn after(mut self, delay: Option<Duration>) -> Self {
        self.0.retry_after = delay;
        self
    }

    pub(super) fn answered(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    pub(super) fn remedy(mut self, remedy: &'static str) -> Self {
        self.0.remedy = Some(remedy);
        self
    }

    /// The same without `secret`, which an answer may repeat.
    pub(super) fn without(mut self, secret: &str) -> Self {
        // A short one would be found everywhere, and is none.
        if secret.len() >= 4 && self.0.reason.contains(secret) {
            self.0.reason = self.0.reason.replace(secret, "***");
        }
        self
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { host, request, reason, remedy, .. } = &*self.0;
        write!(f, "{host}: {request}: {reason}")?;
        remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl Error for UpstreamError {}

/// What a stranger wrote, fit for a line of a log.
pub(super) fn one_line(text: &str) -> String {
    let text = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(LONGEST_REASON).collect()
}

/// An error and what caused it, from the outside in. `io::Error` hides what it wraps.
pub(super) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_one_line() {
        let error =
            UpstreamError::new(Fault::Source, "quay.io", "GET tags of a/b", "500\r\nevil: x");
        assert_eq!(error.to_string(), "quay.io: GET tags of a/b: 500  evil: x");
        assert!(!error.can_retry());
        let error = error.remedy("try again").retryable().answered(500);
        assert!(error.to_string().ends_with("; try again") && error.can_retry());
        assert_eq!(error.status(), Some(500));
        let long = UpstreamError::new(Fault::Source, "h", "r", "x".repeat(9000));
        assert!(long.to_string().len() < 600);
    }

    #[test]
    fn a_secret_that_comes_back_is_cut_out() {
        let error = UpstreamError::new(Fault::Credentials, "h", "r", "bad: hunter2!");
        assert_eq!(error.without("hunter2").to_string(), "h: r: bad: ***!");
        let error = UpstreamError::reference("ada:hunter2@quay.io/a", "no");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn causes_are_found_behind_io_errors() {
        let inner = UpstreamError::new(Fault::Refused, "h", "r", "x");
        let outer = std::io::Error::other(std::io::Error::other(inner));
        assert!(causes(&outer).any(<dyn Error>::is::<UpstreamError>));
    }
}
