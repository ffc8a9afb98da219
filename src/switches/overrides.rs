//! Where switches and Quay's own `QUAY_OVERRIDE_SERVICES` speak of the same program (section 7).

use super::catalogue::catalogue;
use super::key::Key;
use super::owner::Owner;
use super::problem::{Code, Problem, Wrong};
use super::snapshot::Switches;

/// Programs for which both say something, and not the same. The switch wins for what `is_taken`
/// from Python; an owner of python means whatever Quay starts by itself, so it contradicts nothing.
pub fn override_conflicts(
    switches: &Switches,
    overrides: &str,
    is_taken: impl Fn(&str) -> bool,
) -> Vec<Problem> {
    let mut conflicts = Vec::new();
    for (program, value) in overrides.split(',').filter_map(|item| item.trim().split_once('=')) {
        let worker = catalogue().switchable().find(|worker| worker.program == program);
        let Some(switch) = worker.and_then(|worker| worker.switch.as_deref()) else { continue };
        let key = Key::Worker(switch);
        let Some(assigned) = switches.owners.get(&key) else { continue };
        let differs = match assigned.owner {
            Owner::Python => false,
            Owner::Off => value != "false",
            Owner::Rust => true,
        };
        if differs && is_taken(program) {
            let reason = format!("QUAY_OVERRIDE_SERVICES says {program}={value}; the switch wins");
            let remedy = format!("take {program} out of QUAY_OVERRIDE_SERVICES, it is deprecated");
            let wrong = Wrong::new(Code::OverrideConflict, reason, remedy);
            conflicts.push(wrong.at(&key.to_string(), assigned.place));
        }
    }
    conflicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::Stage;

    #[test]
    fn a_switch_and_an_override_that_disagree() {
        let conflicts = |owner: &str, overrides| {
            let variable = ("WORKER_OWNER_GCWORKER".to_owned(), owner.to_owned());
            let stage = Stage::read([variable]);
            let found =
                override_conflicts(&stage.switches, overrides, |program| program == "gcworker");
            found.iter().map(|problem| problem.to_string()).collect::<Vec<_>>()
        };
        for (owner, overrides, told) in [
            ("rust", "gcworker=true", true),
            ("rust", "notificationworker=true, gcworker=false", true),
            ("off", "gcworker=true", true),
            ("off", "gcworker=false", false),
            ("python", "gcworker=false", false),
            ("off", "gcworker2=true,,gcworker", false),
            ("off", "", false),
        ] {
            assert_eq!(conflicts(owner, overrides).len(), usize::from(told), "{owner} {overrides}");
        }
        let told = conflicts("off", "gcworker=true").remove(0);
        assert!(
            told.starts_with("warning: WORKER_OWNER_GCWORKER (environment): override_conflict")
        );
    }
}
