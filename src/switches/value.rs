//! What may be written after a key.

use std::collections::BTreeSet;

use super::canary;
use super::key::Key;
use super::owner::Owner;
use super::problem::{Code, Wrong, shown};
use super::yaml::{Node, Value};

/// An owner as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) owner: Owner,
    pub(super) gated: Option<bool>,
    /// It was called `go`.
    pub(super) go: bool,
}

/// An owner: `python`, `rust`, `go`, for workers `off`; or `{owner: rust, gated: false}`.
pub(super) fn owner(key: Key, value: &Value) -> Result<Given, Wrong> {
    let Value::Map(entries) = value else {
        return word(key, value).map(|(owner, go)| Given { owner, gated: None, go });
    };
    let bad = |reason: String| {
        Wrong::new(Code::BadType, reason, "write {owner: rust, gated: true}, or only the owner")
    };
    let mut found = None;
    let mut gated = None;
    for entry in entries {
        match (entry.key.as_str(), &entry.node.value) {
            ("owner", value) if found.is_none() => found = Some(word(key, value)?),
            ("gated", Value::Bool(on)) if gated.is_none() && key.owns_routes() => gated = Some(*on),
            (name, _) => return Err(bad(format!("{:?} does not belong here", shown(name)))),
        }
    }
    let (owner, go) = found.ok_or_else(|| bad("the owner is missing".into()))?;
    Ok(Given { owner, gated, go })
}

fn word(key: Key, value: &Value) -> Result<(Owner, bool), Wrong> {
    let worker = !key.owns_routes();
    let remedy = if worker { "use python, rust or \"off\"" } else { "use python or rust" };
    let owner = match value {
        // `off` without quotes is false in the YAML that Python reads.
        Value::Bool(false) => Some(Owner::Off),
        Value::Text(text) if worker && text.trim() == "false" => Some(Owner::Off),
        Value::Text(text) => Owner::parse(text),
        _ => None,
    };
    match (owner, value) {
        (Some(Owner::Off), _) if !worker => {
            Err(Wrong::new(Code::OffNotAllowed, "a route cannot be off", remedy))
        }
        (Some(owner), Value::Text(text)) => Ok((owner, text.trim() == "go")),
        (Some(owner), _) => Ok((owner, false)),
        (None, Value::Text(text)) => {
            let reason = format!("{:?} is no owner", shown(text));
            Err(Wrong::new(Code::UnknownOwner, reason, remedy))
        }
        (None, other) => {
            let reason = format!("expected an owner, found {}", other.kind());
            Err(Wrong::new(Code::UnknownOwner, reason, remedy))
        }
    }
}

/// The kill switch (section 7): what cannot be read is true.
pub(super) fn force(value: &Value) -> (bool, Option<Wrong>) {
    let text = match value {
        Value::Null => "",
        Value::Bool(true) | Value::Integer(1) => "true",
        Value::Bool(false) | Value::Integer(0) => "false",
        Value::Text(text) => text.trim(),
        _ => "?",
    };
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => (true, None),
        "false" | "0" | "no" | "" => (false, None),
        _ => {
            let reason = "neither true nor false, so it counts as true";
            (true, Some(Wrong::new(Code::BadType, reason, "set it to true or false")))
        }
    }
}

/// 0 to 100, whole.
pub(super) fn percent(value: &Value) -> Result<u8, Wrong> {
    let number = match value {
        Value::Integer(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.and_then(|number| u8::try_from(number).ok()).filter(|number| *number <= 100).ok_or_else(
        || {
            let reason = "not a percentage";
            Wrong::new(Code::BadPercent, reason, "set it to a whole number from 0 to 100")
        },
    )
}

/// What a selector lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    Orgs,
    Repos,
    Users,
}

impl Names {
    pub(super) fn allows(self, name: &str) -> bool {
        let part = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
        };
        match self {
            _ if name.len() > 512 => false,
            Self::Orgs => part(name),
            Self::Repos => name.contains('/') && name.split('/').all(part),
            Self::Users => {
                let odd = |c: char| c.is_control() || c.is_whitespace() || "$,\"'\\".contains(c);
                !name.is_empty() && !name.contains(odd)
            }
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Orgs => "the name of a namespace",
            Self::Repos => "the name of a repository",
            Self::Users => "the name of a user",
        }
    }

    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Orgs => "list namespaces, such as [mirror]",
            Self::Repos => "list repositories with their namespace, such as [openshift/release]",
            Self::Users => "list users or robots, such as [alice, mirror+ci]",
        }
    }
}

/// A list, or text with commas.
pub(super) fn names(kind: Names, value: &Value) -> Result<BTreeSet<String>, Wrong> {
    let bad = |found: &Value| {
        let reason = format!("expected a list of names, found {}", found.kind());
        Wrong::new(Code::BadSelector, reason, kind.remedy())
    };
    let item = |node: &Node| match &node.value {
        Value::Text(text) => Ok(text.clone()),
        other => {
            let reason = format!("{} is no name", other.kind());
            Err(Wrong::new(Code::BadSelector, reason, "put quotes around each name"))
        }
    };
    let names = match value {
        Value::List(items) => items.iter().map(item).collect::<Result<Vec<_>, _>>()?,
        Value::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        }
        other => return Err(bad(other)),
    };
    canary::check(kind, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: Key = Key::Capability("V2_PULL");
    const WORKER: Key = Key::Worker("WORKER_OWNER_GCWORKER");

    fn read(key: Key, yaml: &str) -> Result<Given, Code> {
        let node = crate::switches::yaml::read(yaml).unwrap();
        owner(key, &node.value).map_err(|wrong| wrong.code)
    }

    #[test]
    fn owners() {
        let plain = |owner, go| Ok(Given { owner, gated: None, go });
        assert_eq!(read(ROUTES, "python"), plain(Owner::Python, false));
        assert_eq!(read(ROUTES, "\" rust \""), plain(Owner::Rust, false));
        assert_eq!(read(ROUTES, "go"), plain(Owner::Rust, true));
        assert_eq!(read(WORKER, "off"), plain(Owner::Off, false));
        assert_eq!(read(WORKER, "\"off\""), plain(Owner::Off, false));
        assert_eq!(read(WORKER, "false"), plain(Owner::Off, false));
        assert_eq!(read(WORKER, "\"false\""), plain(Owner::Off, false));
        let gated = Given { owner: Owner::Rust, gated: Some(true), go: false };
        assert_eq!(read(ROUTES, "{owner: rust, gated: true}"), Ok(gated));
        for off in ["off", "\"off\"", "no", "{owner: off}"] {
            assert_eq!(read(ROUTES, off), Err(Code::OffNotAllowed), "{off}");
        }
        for unknown in ["RUST", "Rust", "1", "~", "[rust]", "true", "rust python", "\"\""] {
            assert_eq!(read(ROUTES, unknown), Err(Code::UnknownOwner), "{unknown}");
            assert_eq!(read(WORKER, unknown), Err(Code::UnknownOwner), "{unknown}");
        }
        for odd in ["{gated: true}", "{owner: rust, gated: 1}", "{owner: rust, owner: rust}", "{}"]
        {
            assert_eq!(read(ROUTES, odd), Err(Code::BadType), "{odd}");
        }
    }

    #[test]
    fn the_kill_switch_is_on_unless_it_is_plainly_off() {
        let read = |yaml: &str| force(&crate::switches::yaml::read(yaml).unwrap().value);
        for on in ["true", "1", "yes", "YES", "\"1\"", "on"] {
            assert_eq!(read(on), (true, None), "{on}");
        }
        for off in ["false", "0", "no", "No", "\"\"", "~", "off"] {
            assert_eq!(read(off), (false, None), "{off}");
        }
        for odd in ["2", "maybe", "[]", "{}", "1.5", "flase"] {
            assert!(matches!(read(odd), (true, Some(_))), "{odd}");
        }
    }

    #[test]
    fn selectors() {
        let read = |kind, yaml: &str| {
            names(kind, &crate::switches::yaml::read(yaml).unwrap().value)
                .map(|names| names.into_iter().collect::<Vec<_>>().join(" "))
                .map_err(|wrong| wrong.code)
        };
        assert_eq!(read(Names::Orgs, "[b, a, b]"), Ok("a b".into()));
        assert_eq!(read(Names::Orgs, "a, b,"), Ok("a b".into()));
        assert_eq!(read(Names::Repos, "[a/b/c.d]"), Ok("a/b/c.d".into()));
        assert_eq!(read(Names::Users, "[a+b, \"ü@x\"]"), Ok("a+b ü@x".into()));
        let many = format!("[{}]", vec!["a"; 1001].join(","));
        let bad =
            ["5", "[5]", "[a/b]", "[\"$x\"]", "[\"a b\"]", "[\"\"]", "[no]", "~", "{}", &many];
        for bad in bad {
            assert_eq!(read(Names::Orgs, bad), Err(Code::BadSelector), "{bad}");
        }
        for bad in ["[a]", "[a/]", "[/a]", "[a//b]", "[\"a/$b\"]", "[\"a/b;\"]"] {
            assert_eq!(read(Names::Repos, bad), Err(Code::BadSelector), "{bad}");
        }
    }
}
