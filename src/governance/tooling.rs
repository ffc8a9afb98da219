//! Operational scripts of Quay's tree (decision D-004): `conf/tooling.csv`.

use std::sync::LazyLock;

use crate::switches::csv::{self, Row};

/// A script that operators run by hand.
#[derive(Debug)]
pub struct Script {
    /// Below Quay's folder.
    pub path: String,
    /// What it does.
    pub what: String,
    /// `retire-approved`, or `excepted`.
    pub disposition: String,
    /// What does it without the script.
    pub replacement: String,
    /// Until when it is there.
    pub sunset: String,
    /// What of Quay imports it at every boot: then the file has to stay for as long as Python does.
    pub imported_at_boot: Option<String>,
}

/// Every script, by path.
pub fn tooling() -> &'static [Script] {
    static SCRIPTS: LazyLock<Vec<Script>> =
        LazyLock::new(|| csv::rows(include_str!("../../conf/tooling.csv")).map(script).collect());
    &SCRIPTS
}

fn script(mut row: Row<'_>) -> Script {
    let mut take = |name: &str| row.remove(name).unwrap_or_default();
    Script {
        path: take("script"),
        what: take("what"),
        disposition: take("disposition"),
        replacement: take("replacement"),
        sunset: take("sunset"),
        imported_at_boot: Some(take("imported_at_boot")).filter(|by| !by.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_and_one_of_them_at_every_boot() {
        assert_eq!(tooling().len(), 16);
        let at_boot: Vec<&Script> =
            tooling().iter().filter(|script| script.imported_at_boot.is_some()).collect();
        assert_eq!(at_boot.len(), 1);
        assert_eq!(at_boot[0].path, "util/generatepresharedkey.py");
        for script in tooling() {
            assert!(script.path.ends_with(".py") && !script.what.is_empty(), "{script:?}");
            assert_eq!(script.disposition, "retire-approved", "{script:?}");
            assert_eq!(script.sunset, "before-python-retirement", "{script:?}");
            assert!(!script.replacement.is_empty(), "{script:?}");
        }
    }
}
