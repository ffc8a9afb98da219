//! The decision register: `conf/decisions.toml`.

use std::sync::LazyLock;

use serde::Deserialize;
use toml::value::Datetime;

/// One decision.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `D-001`
    pub id: String,
    /// The question.
    pub title: String,
    /// `decided` or `open`.
    pub status: String,
    /// The role that answers for it.
    pub owner: String,
    /// When it was decided.
    pub date: Datetime,
    /// The answer.
    pub chosen: String,
    /// The reason.
    pub why: String,
    /// What it means in this program.
    pub here: String,
    /// What taking it back implies.
    pub rollback: String,
}

#[derive(Deserialize)]
struct Register {
    decision: Vec<Decision>,
}

/// The register this binary was built with, by id.
#[expect(clippy::expect_used, reason = "the file is part of the binary; a test loads it")]
pub fn decisions() -> &'static [Decision] {
    static DECISIONS: LazyLock<Vec<Decision>> = LazyLock::new(|| {
        let register: Register = toml::from_str(include_str!("../../conf/decisions.toml"))
            .expect("conf/decisions.toml is well-formed");
        register.decision
    });
    &DECISIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_eight_are_there_and_whole() {
        let ids: Vec<&str> = decisions().iter().map(|decision| &*decision.id).collect();
        let all: Vec<String> = (1..=8).map(|number| format!("D-00{number}")).collect();
        assert_eq!(ids, all);
        for decision in decisions() {
            assert!(["decided", "open"].contains(&&*decision.status), "{}", decision.id);
            let Decision { title, owner, chosen, why, here, rollback, .. } = decision;
            for text in [title, owner, chosen, why, here, rollback] {
                assert!(!text.trim().is_empty(), "{}", decision.id);
            }
        }
        assert!(decisions()[7].chosen.contains("A for routing"), "{}", decisions()[7].chosen);
    }
}
