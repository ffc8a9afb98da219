//! What loading found: every setting in effect with its origin, and every problem.

use std::fmt;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// We refuse to run with this configuration.
    Error,
    /// We run, and something is handed back to Python or differs from what may be expected.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing to know about the configuration. No field ever holds the text of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps us from running.
    pub severity: Severity,
    /// The setting, for instance `DB_URI` or `QUAY_SIDECAR.drain_s`.
    pub key: String,
    /// Where it was set: `/conf/config.yaml:12`, `environment QUAY_OVERRIDE_CONFIG`, `default`.
    pub place: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ({})", self.severity, self.key, self.place)?;
        writeln!(f, "  reason: {}", self.reason)?;
        writeln!(f, "  remedy: {}", self.remedy)
    }
}

/// The configuration cannot be used; holds every problem found, warnings included. Prints those.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigError {
    /// What could be read all the same.
    pub settings: Vec<Setting>,
    /// At least one of them is a [`Severity::Error`].
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_blocks(f, &self.problems)
    }
}

/// One setting in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The setting's name as an operator writes it.
    pub key: String,
    /// Its effective value as text; `***` for a secret.
    pub value: String,
    /// Where it came from, as in [`Problem::place`].
    pub place: String,
}

/// Every setting we use and where it came from; prints as an aligned table, then the warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they were read.
    pub settings: Vec<Setting>,
    /// Warnings only, once loading has succeeded.
    pub problems: Vec<Problem>,
}

/// A longer value is printed whole but does not push the last column further to the right.
const WIDEST_VALUE: usize = 48;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Setting) -> &str| {
            let widths = self.settings.iter().map(|s| text(s).chars().count());
            widths.max().unwrap_or(0)
        };
        let key = width(|s| &s.key);
        let value = width(|s| &s.value).min(WIDEST_VALUE);
        for s in &self.settings {
            writeln!(f, "{:key$}  {:value$}  {}", s.key, s.value, s.place)?;
        }
        if !self.settings.is_empty() && !self.problems.is_empty() {
            writeln!(f)?;
        }
        write_blocks(f, &self.problems)
    }
}

fn write_blocks(f: &mut fmt::Formatter<'_>, problems: &[Problem]) -> fmt::Result {
    for (i, problem) in problems.iter().enumerate() {
        if i > 0 {
            writeln!(f)?;
        }
        write!(f, "{problem}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_a_table_and_then_a_block_a_problem() {
        let setting = |key: &str, value: &str| Setting {
            key: key.into(),
            value: value.into(),
            place: "default".into(),
        };
        let report = Report {
            settings: vec![setting("A", "1"), setting("LONG_KEY", "some value")],
            problems: vec![Problem {
                severity: Severity::Warning,
                key: "A".into(),
                place: "c.yaml:3".into(),
                reason: "odd".into(),
                remedy: "even".into(),
            }],
        };
        let expected = "\
A         1           default
LONG_KEY  some value  default

warning: A (c.yaml:3)
  reason: odd
  remedy: even
";
        assert_eq!(report.to_string(), expected);
    }
}
