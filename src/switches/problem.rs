//! What is wrong with a set of switches, and what to write instead.

use std::fmt;

/// The kind of a [`Problem`] (the switch model, section 10, as amended by its decisions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their text is their documentation")]
pub enum Code {
    AuthBaseSplit,
    BadPercent,
    BadPoll,
    BadSchema,
    BadSelector,
    BadType,
    BadUpdatedAt,
    BadVersion,
    BadYaml,
    BothPresent,
    DuplicateKey,
    EmptyCanary,
    GoMeansRust,
    LegacyRouteKey,
    MissingRouteTable,
    MissingSection,
    MissingVersion,
    NoEndMark,
    NotSwitchable,
    OffNotAllowed,
    OverrideConflict,
    PinnedRoute,
    RetiredProgram,
    RouteTableMismatch,
    SplitPush,
    TooLarge,
    UnknownCapability,
    UnknownFamily,
    UnknownKey,
    UnknownOwner,
    UnknownRoute,
    UnknownWorker,
    Unreachable,
    Unreadable,
    UpdatedInFuture,
    VersionRegression,
    VersionReuse,
}

impl Code {
    /// As it is printed, and as it labels a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthBaseSplit => "auth_base_split",
            Self::BadPercent => "bad_percent",
            Self::BadPoll => "bad_poll",
            Self::BadSchema => "bad_schema",
            Self::BadSelector => "bad_selector",
            Self::BadType => "bad_type",
            Self::BadUpdatedAt => "bad_updated_at",
            Self::BadVersion => "bad_version",
            Self::BadYaml => "bad_yaml",
            Self::BothPresent => "both_present",
            Self::DuplicateKey => "duplicate_key",
            Self::EmptyCanary => "empty_canary",
            Self::GoMeansRust => "go_means_rust",
            Self::LegacyRouteKey => "legacy_route_key",
            Self::MissingRouteTable => "missing_route_table",
            Self::MissingSection => "missing_section",
            Self::MissingVersion => "missing_version",
            Self::NoEndMark => "no_end_mark",
            Self::NotSwitchable => "not_switchable",
            Self::OffNotAllowed => "off_not_allowed",
            Self::OverrideConflict => "override_conflict",
            Self::PinnedRoute => "pinned_route",
            Self::RetiredProgram => "retired_program",
            Self::RouteTableMismatch => "route_table_mismatch",
            Self::SplitPush => "split_push",
            Self::TooLarge => "too_large",
            Self::UnknownCapability => "unknown_capability",
            Self::UnknownFamily => "unknown_family",
            Self::UnknownKey => "unknown_key",
            Self::UnknownOwner => "unknown_owner",
            Self::UnknownRoute => "unknown_route",
            Self::UnknownWorker => "unknown_worker",
            Self::Unreachable => "unreachable_route",
            Self::Unreadable => "unreadable",
            Self::UpdatedInFuture => "updated_in_future",
            Self::VersionRegression => "version_regression",
            Self::VersionReuse => "version_reuse",
        }
    }

    /// Errors reject the whole document, and in the environment the one variable.
    pub fn severity(self) -> Severity {
        match self {
            Self::AuthBaseSplit
            | Self::BothPresent
            | Self::EmptyCanary
            | Self::GoMeansRust
            | Self::MissingRouteTable
            | Self::NoEndMark
            | Self::OverrideConflict
            | Self::Unreachable
            | Self::UpdatedInFuture => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing of the document is used.
    Error,
    /// It is used, and may not do what was meant.
    Warning,
}

/// Where switches come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The variables of this process: stage A, read once.
    Environment,
    /// `migration-switches.yaml` beside `config.yaml`.
    SwitchFile,
    /// The section `MIGRATION_SWITCHES` of `config.yaml`.
    ConfigFile,
}

impl Origin {
    /// As audit lines and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::SwitchFile => super::SWITCH_FILE,
            Self::ConfigFile => super::CONFIG_FILE,
        }
    }
}

/// Where a switch was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, or the environment.
    pub origin: Origin,
    /// From 1; 0 where there is none.
    pub line: u64,
}

impl Place {
    pub(super) const ENVIRONMENT: Self = Self { origin: Origin::Environment, line: 0 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(self.origin.as_str()),
            line => write!(f, "{}:{line}", self.origin.as_str()),
        }
    }
}

/// One thing to know about a set of switches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind it is.
    pub code: Code,
    /// The switch, or the field beside them.
    pub key: String,
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// Whether it rejects what it was found in.
    pub fn is_error(&self) -> bool {
        self.code.severity() == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_error() { "error" } else { "warning" };
        writeln!(f, "{kind}: {} ({}): {}", self.key, self.place, self.code.as_str())?;
        writeln!(f, "  reason: {}", self.reason)?;
        writeln!(f, "  remedy: {}", self.remedy)
    }
}

/// What is wrong with one key or value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: Code,
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(code: Code, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), remedy: remedy.into() }
    }

    pub(super) fn at(self, key: &str, place: Place) -> Problem {
        let Self { code, reason, remedy } = self;
        Problem { code, key: shown(key), place, reason, remedy }
    }
}

/// Text of an operator's on one line of bounded length.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut line: String =
        text.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}
