//! What is to be done next so that one runtime has a worker, and never two.

use crate::bundle::Process;
use crate::switches::Owner;

/// One of the two programs of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Python,
    Ours,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be.
    Done,
    /// Nothing, for now: supervisord is at it.
    Wait(Side),
    /// It is told to stop.
    Stop(Side),
    /// It is told to start.
    Start(Side),
    /// Ours is to run, and supervisord does not know it.
    Unknown,
}

/// Both programs at one moment; one that supervisord does not know does not run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) python: Option<&'a Process>,
    pub(super) ours: Option<&'a Process>,
}

impl<'a> Look<'a> {
    pub(super) fn of(&self, side: Side) -> Option<&'a Process> {
        match side {
            Side::Python => self.python,
            Side::Ours => self.ours,
        }
    }

    /// Towards an owner: what must not run is seen at rest before anything is started.
    /// `gives_back`: Python's program runs where Python has it.
    pub(super) fn next(&self, owner: Owner, gives_back: bool) -> Step {
        let (rests, runs): (&[Side], _) = match owner {
            Owner::Rust => (&[Side::Python], Some(Side::Ours)),
            Owner::Python => (&[Side::Ours], gives_back.then_some(Side::Python)),
            Owner::Off => (&[Side::Python, Side::Ours], None),
        };
        // Nothing is taken from Python for what cannot be.
        if runs == Some(Side::Ours) && self.ours.is_none() {
            return Step::Unknown;
        }
        for &side in rests {
            match self.of(side) {
                Some(process) if process.can_be_stopped() => return Step::Stop(side),
                Some(process) if !process.is_at_rest() => return Step::Wait(side),
                _ => {}
            }
        }
        match runs.and_then(|side| Some((side, self.of(side)?))) {
            None => Step::Done,
            Some((_, process)) if process.is_running() => Step::Done,
            Some((side, process)) if process.is_at_rest() => Step::Start(side),
            Some((side, _)) => Step::Wait(side),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [&str; 8] =
        ["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"];
    const OWNERS: [Owner; 3] = [Owner::Python, Owner::Rust, Owner::Off];

    fn process(state: &str, ended_s: u64) -> Process {
        let at_rest = ["STOPPED", "BACKOFF", "EXITED", "FATAL"].contains(&state);
        Process {
            name: "worker".to_owned(),
            state: state.to_owned(),
            pid: if at_rest { 0 } else { 7 },
            ended_s,
            exit_status: 0,
            spawn_error: String::new(),
        }
    }

    /// In every state that two programs can be in.
    fn all(mut check: impl FnMut(&Process, &Process, Owner, Step)) {
        for (python, ours) in STATES.iter().flat_map(|a| STATES.map(|b| (*a, b))) {
            for (owner, ended_s) in OWNERS.iter().flat_map(|owner| [0, 9].map(|s| (*owner, s))) {
                let (python, ours) = (process(python, ended_s), process(ours, ended_s));
                let look = Look { python: Some(&python), ours: Some(&ours) };
                check(&python, &ours, owner, look.next(owner, true));
            }
        }
    }

    #[test]
    fn nothing_is_started_beside_what_may_run() {
        let mut started = 0;
        all(|python, ours, owner, step| match step {
            Step::Start(Side::Ours) => {
                started += 1;
                assert!(owner == Owner::Rust && python.is_at_rest(), "{python:?} {ours:?}");
            }
            Step::Start(Side::Python) => {
                started += 1;
                assert!(owner == Owner::Python && ours.is_at_rest(), "{python:?} {ours:?}");
            }
            _ => {}
        });
        assert!(started > 10, "{started}");
    }

    #[test]
    fn it_is_done_when_one_runs_and_the_other_rests() {
        all(|python, ours, owner, step| {
            let good = match owner {
                Owner::Python => python.is_running() && ours.is_at_rest(),
                Owner::Rust => ours.is_running() && python.is_at_rest(),
                Owner::Off => python.is_at_rest() && ours.is_at_rest(),
            };
            assert_eq!(step == Step::Done, good, "{owner}: {python:?} {ours:?} {step:?}");
        });
    }

    /// The owner's own program is never stopped, and whatever waits waits for supervisord.
    #[test]
    fn what_is_wanted_is_left_alone() {
        all(|python, ours, owner, step| match step {
            Step::Stop(Side::Python) => assert!(owner != Owner::Python && python.can_be_stopped()),
            Step::Stop(Side::Ours) => assert!(owner != Owner::Rust && ours.can_be_stopped()),
            Step::Wait(Side::Python) => assert!(!python.is_at_rest() && !python.is_running()),
            Step::Wait(Side::Ours) => assert!(!ours.is_at_rest() && !ours.is_running()),
            Step::Unknown => panic!("both are known"),
            _ => {}
        });
    }

    #[test]
    fn what_supervisord_does_not_know_does_not_run() {
        let running = process("RUNNING", 0);
        let look = Look { python: Some(&running), ours: None };
        assert_eq!(look.next(Owner::Rust, true), Step::Unknown);
        assert_eq!(look.next(Owner::Python, true), Step::Done);
        assert_eq!(look.next(Owner::Off, true), Step::Stop(Side::Python));
        let look = Look { python: None, ours: Some(&running) };
        assert_eq!(look.next(Owner::Rust, true), Step::Done);
        assert_eq!(look.next(Owner::Python, true), Step::Stop(Side::Ours));
        let rests = process("STOPPED", 0);
        let look = Look { python: Some(&rests), ours: Some(&rests) };
        // A program that Quay does not start is not started by us either.
        assert_eq!(look.next(Owner::Python, false), Step::Done);
    }
}
