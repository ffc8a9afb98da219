//! `quay decisions` and `quay tooling`: what was decided, printed.

use std::process::ExitCode;

use quay_sidecar::governance;

pub fn decisions() -> ExitCode {
    for decision in governance::decisions() {
        let governance::Decision { id, title, status, owner, date, .. } = decision;
        println!("{id}  {title}\n  {status} on {date}, owner: {owner}");
        let rest = [
            ("chosen", &decision.chosen),
            ("why", &decision.why),
            ("here", &decision.here),
            ("rollback", &decision.rollback),
        ];
        for (name, text) in rest {
            println!("  {name:9} {text}");
        }
        println!();
    }
    ExitCode::SUCCESS
}

pub fn tooling() -> ExitCode {
    for script in governance::tooling() {
        let governance::Script { path, what, disposition, replacement, sunset, .. } = script;
        println!("{path}: {what}");
        println!("  {disposition}, {sunset}\n  instead: {replacement}");
        if let Some(by) = &script.imported_at_boot {
            println!("  KEEP THE FILE while Python is installed: {by}, at every boot");
        }
    }
    ExitCode::SUCCESS
}
