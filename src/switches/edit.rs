//! `quay switch set`, as a change of text: comments, order and layout stay as they are.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::catalogue::catalogue;
use super::document::{Found, Parsed, draft};
use super::environment::assign;
use super::key::Key;
use super::layout::{Patches, fields, indent, is_scalar, line_start, lines};
use super::problem::{Code, Origin, Place, Problem, Wrong};
use super::snapshot::{POLL, Snapshot, Switches};
use super::yaml::{self, Entry, Value};
use super::{SWITCH_FILE, text};

/// A switch and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The switch.
    pub key: Key,
    /// As it would be written in the file; `None` removes it.
    pub value: Option<String>,
}

impl Assignment {
    /// Reads `KEY=VALUE`; `KEY=` removes the key, which gives it its default.
    ///
    /// # Errors
    /// What is wrong with either side.
    pub fn parse(argument: &str) -> Result<Self, Problem> {
        let place = Place { origin: Origin::SwitchFile, line: 0 };
        let Some((name, value)) = argument.split_once('=') else {
            let wrong = Wrong::new(Code::UnknownKey, "there is no value", "write KEY=VALUE");
            return Err(wrong.at(argument, place));
        };
        let name = name.trim();
        let key = Key::parse(name).map_err(|wrong| wrong.at(name, place))?;
        if value.trim().is_empty() {
            return Ok(Self { key, value: None });
        }
        let value = match yaml::read(value) {
            Ok(node) => node.value,
            Err(_) => Value::Text(value.to_owned()),
        };
        let mut alone = Switches::default();
        let wrong = assign(&mut alone, key, &value, place).err().unwrap_or_default();
        let mut problems = wrong.into_iter().map(|wrong| wrong.at(name, place));
        if let Some(problem) = problems.find(Problem::is_error) {
            return Err(problem);
        }
        let value = alone.written().remove(&key).map(|(text, _)| quoted(text));
        Ok(Self { key, value })
    }
}

/// A new text for the switch file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// All of it.
    pub text: String,
    /// What it says.
    pub snapshot: Snapshot,
    /// What it is worth knowing about it; no errors.
    pub warnings: Vec<Problem>,
}

/// Makes `changes` in `text`, raises the version and ends the file with its end mark.
///
/// Without a text, writes one from `below`: the section of `config.yaml`, which the new file will
/// hide. The version will be higher than `least`, which is what the watcher has in use.
///
/// # Errors
/// Everything that is wrong with the result: nothing invalid is ever handed out.
pub fn edit(
    text: Option<&str>,
    below: Option<&Snapshot>,
    changes: &[Assignment],
    least: u64,
    now: DateTime<Utc>,
) -> Result<Edited, Vec<Problem>> {
    let comment = |line: &str| line.is_empty() || line.starts_with('#');
    let Some(text) = text.filter(|text| !text.lines().map(str::trim).all(comment)) else {
        let version = below.map_or(0, |below| below.version).max(least).saturating_add(1);
        let poll = below.map_or(POLL, |below| below.poll);
        let expected = expected(below.map(|below| &below.switches), changes);
        let comments = text.map(|text| format!("{}\n", text.trim_end())).unwrap_or_default();
        return checked(comments + &fresh(version, poll, &expected, now), &expected);
    };
    let Parsed { found, version, mut problems, .. } = draft(text);
    let Found::Good(old) = found else {
        problems.retain(Problem::is_error);
        return Err(problems);
    };
    let version = version.unwrap_or(0).max(least).saturating_add(1);
    let expected = expected(Some(&old.switches), changes);
    let in_place = patched(text, version, changes, &expected, now)
        .map_or_else(|| Err(vec![awkward()]), |text| checked(text, &expected));
    match in_place {
        // Some other layout than one key a line. Nothing is lost by writing it anew.
        Err(_) if !text.contains('#') && !problems.iter().any(Problem::is_error) => {
            checked(fresh(version, old.poll, &expected, now), &expected)
        }
        result => result,
    }
}

type Written = BTreeMap<Key, String>;

fn expected(before: Option<&Switches>, changes: &[Assignment]) -> Written {
    let mut all: Written = before
        .map(Switches::written)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, (text, _))| (key, quoted(text)))
        .collect();
    for change in changes {
        match &change.value {
            Some(value) => all.insert(change.key, value.clone()),
            None => all.remove(&change.key),
        };
    }
    all
}

/// `off` is false for those who read YAML as Python does.
fn quoted(text: String) -> String {
    if text == "off" { "\"off\"".into() } else { text }
}

/// The text, if it is valid and says what it should.
fn checked(text: String, expected: &Written) -> Result<Edited, Vec<Problem>> {
    let Parsed { found, mut problems, .. } = draft(&text);
    if problems.iter().any(Problem::is_error) {
        problems.retain(Problem::is_error);
        return Err(problems);
    }
    match found {
        Found::Good(snapshot) if self::expected(Some(&snapshot.switches), &[]) == *expected => {
            Ok(Edited { text, snapshot: *snapshot, warnings: problems })
        }
        _ => Err(vec![awkward()]),
    }
}

fn awkward() -> Problem {
    let reason = "its layout cannot be edited without losing its comments";
    let wrong = Wrong::new(Code::BadYaml, reason, "write one KEY: value a line below switches:");
    wrong.at(SWITCH_FILE, Place { origin: Origin::SwitchFile, line: 0 })
}

fn time(now: DateTime<Utc>) -> String {
    format!("\"{}\"", now.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn has_routes(switches: &Written) -> bool {
    switches.keys().any(|key| matches!(key, Key::Route(_)))
}

fn fresh(
    version: u64,
    poll: std::time::Duration,
    switches: &Written,
    now: DateTime<Utc>,
) -> String {
    let mut text = format!(
        "# Who owns what. `quay switch set` edits this file and raises its version.\n\
         schema: 1\nversion: {version}\nupdated_at: {}\n",
        time(now)
    );
    if has_routes(switches) {
        text.push_str(&format!("route_table: \"{}\"\n", catalogue().route_table));
    }
    if poll != POLL {
        text.push_str(&format!("poll_seconds: {}\n", poll.as_secs()));
    }
    text.push_str("switches:\n");
    for (key, value) in switches {
        text.push_str(&format!("  {key}: {value}\n"));
    }
    text.push_str("...\n");
    text
}

/// The text with the changes made in place; `None` where its layout does not allow that.
fn patched(
    text: &str,
    version: u64,
    changes: &[Assignment],
    expected: &Written,
    now: DateTime<Utc>,
) -> Option<String> {
    let root = yaml::read(text).ok()?;
    let fields = fields(&root)?;
    let first = fields.first()?;
    let margin = indent(text, first)?.to_owned();
    let mut patches = Patches::default();
    let mut field = |name: &str, value: String| {
        match fields.iter().find(|entry| entry.key == name) {
            Some(entry) if is_scalar(&entry.node) => {
                patches.replace(entry.node.span.clone(), value);
            }
            Some(entry) => {
                patches.replace(lines(text, entry)?, format!("{margin}{name}: {value}\n"))
            }
            None => {
                patches.insert(line_start(text, first.at), format!("{margin}{name}: {value}\n"));
            }
        }
        Some(())
    };
    field("version", version.to_string())?;
    field("updated_at", time(now))?;
    if has_routes(expected) {
        field("route_table", format!("\"{}\"", catalogue().route_table))?;
    }
    switches(&mut patches, text, fields, &margin, changes)?;
    let mut result = patches.apply(text)?;
    if !text::is_complete(&result) {
        if !result.ends_with('\n') {
            result.push('\n');
        }
        result.push_str("...\n");
    }
    Some(result)
}

fn switches(
    patches: &mut Patches,
    text: &str,
    fields: &[Entry],
    margin: &str,
    changes: &[Assignment],
) -> Option<()> {
    let section = fields.iter().find(|entry| entry.key == "switches");
    let none: &[Entry] = &[];
    let entries = match section.map(|section| &section.node.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        Some(Value::Null) | None => none,
        Some(_) => return None,
    };
    let inner = match entries.first() {
        Some(entry) => indent(text, entry)?.to_owned(),
        None => format!("{margin}  "),
    };
    // Below the last switch, else below the heading, else at the end of the fields.
    let last = entries.last().or(section).or(fields.last())?;
    let end = lines(text, last)?.end;
    let mut new = String::new();
    if !text.get(..end)?.ends_with('\n') {
        new.push('\n');
    }
    if section.is_none() {
        new.push_str(&format!("{margin}switches:\n"));
    }
    let mut added = false;
    for change in changes {
        let known = |entry: &&Entry| Key::parse(&entry.key).is_ok_and(|key| key == change.key);
        match (entries.iter().find(known), &change.value) {
            (Some(entry), Some(value)) if is_scalar(&entry.node) => {
                patches.replace(entry.node.span.clone(), value.clone());
            }
            (Some(entry), Some(value)) => {
                let line = format!("{inner}{}: {value}\n", change.key);
                patches.replace(lines(text, entry)?, line);
            }
            (Some(entry), None) => patches.replace(lines(text, entry)?, ""),
            (None, Some(value)) => {
                added = true;
                new.push_str(&format!("{inner}{}: {value}\n", change.key));
            }
            (None, None) => {}
        }
    }
    if added {
        patches.insert(end, new);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::Owner;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_456_800, 0).unwrap()
    }

    fn set(text: Option<&str>, arguments: &[&str]) -> Result<Edited, Vec<Problem>> {
        let changes: Vec<Assignment> =
            arguments.iter().map(|argument| Assignment::parse(argument).unwrap()).collect();
        edit(text, None, &changes, 0, now())
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "\
# The owners.
version: 7 # raised by hand
schema: 1
switches:
  # pulls
  ROUTE_OWNER_CAP_V2_PULL: 'python' # for now
  ROUTE_CANARY_ORGS:
    - mirror
    # - later
  WORKER_OWNER_GCWORKER: python
# the end
";
        let arguments = [
            "ROUTE_OWNER_CAP_V2_PULL=go",
            "ROUTE_CANARY_ORGS=b,a",
            "WORKER_OWNER_GCWORKER=",
            "WORKER_OWNER_BUILDER=off",
            "MIGRATION_FORCE_PYTHON=yes",
        ];
        let edited = set(Some(text), &arguments).unwrap();
        let expected = "\
# The owners.
updated_at: \"2026-11-23T18:00:00Z\"
version: 8 # raised by hand
schema: 1
switches:
  # pulls
  ROUTE_OWNER_CAP_V2_PULL: rust # for now
  ROUTE_CANARY_ORGS: [\"a\", \"b\"]
    # - later
  WORKER_OWNER_BUILDER: \"off\"
  MIGRATION_FORCE_PYTHON: true
# the end
...
";
        assert_eq!(edited.text, expected);
        assert_eq!(edited.snapshot.version, 8);
        let again = set(Some(expected), &["ROUTE_OWNER_ROUTE_ROUTE_0336=python"]).unwrap();
        assert!(again.text.contains("route_table: \"sha256:"), "{}", again.text);
        assert!(again.text.ends_with("ROUTE_0336: python\n# the end\n...\n"), "{}", again.text);
    }

    #[test]
    fn every_layout_ends_in_a_valid_file() {
        let wrapped = "\
MIGRATION_SWITCHES:
  switches:
    ROUTE_OWNER_CAP_V2_AUTH: rust
  version: 3
";
        let gated = "\
switches:
  \"ROUTE_OWNER_CAP_V2_PULL\": {owner: rust, gated: true}
version: 1
...
";
        let nested = "\
switches:
  ROUTE_OWNER_CAP_V2_PULL:
    owner: python
version: 1
";
        let texts = [
            (1, None),
            (1, Some("")),
            (1, Some("# mine\n")),
            (1, Some("switches:\n  ROUTE_OWNER_CAP_V2_AUTH: rust # mine\n")),
            (2, Some("version: 1\n")),
            (2, Some("version: 1")),
            (2, Some("version: 1\nswitches:\n")),
            (2, Some("version: 1\nswitches: {}\n")),
            (2, Some("{version: 1, switches: {ROUTE_OWNER_CAP_V2_BASE: rust}}")),
            (2, Some("version: 1\r\nswitches:\r\n  ROUTE_OWNER_CAP_V2_BASE: rust\r\n")),
            (2, Some("version: 1\nswitches:\n  ROUTE_OWNER_CAP_V2_PULL: rsut\n")),
            (2, Some(gated)),
            (2, Some(nested)),
            (4, Some(wrapped)),
        ];
        for (version, text) in texts {
            let Edited { text: new, snapshot, .. } =
                set(text, &["ROUTE_OWNER_CAP_V2_PULL=rust"]).unwrap();
            assert_eq!((snapshot.version, snapshot.complete), (version, true), "{new}");
            let pull = snapshot.switches.owners[&Key::Capability("V2_PULL")];
            assert_eq!((pull.owner, pull.gated), (Owner::Rust, None), "{new}");
            for kept in ["V2_BASE: rust", "V2_AUTH: rust", "# mine"] {
                let had = text.is_some_and(|text| text.contains(kept));
                assert_eq!(new.contains(kept), had, "{new}");
            }
        }
    }

    #[test]
    fn nothing_invalid_is_written() {
        let code = |text, argument: &str| {
            set(Some(text), &[argument])
                .map_err(|problems| problems[0].code)
                .map(|edited| edited.text)
        };
        let pull = "ROUTE_OWNER_CAP_V2_PULL=rust";
        assert_eq!(code("version: [", pull), Err(Code::BadYaml));
        assert_eq!(code("version: 1\nversion: 2\n", pull), Err(Code::DuplicateKey));
        let typo = "version: 1\nswitches:\n  ROUTE_OWNER_CAP_V2_PUSH: rsut\n";
        assert_eq!(code(typo, pull), Err(Code::UnknownOwner));
        let flow = "# kept\n{version: 1, switches: {ROUTE_OWNER_CAP_V2_BASE: rust}}\n";
        assert_eq!(code(flow, pull), Err(Code::BadYaml));
        for bad in ["X=1", "ROUTE_OWNER_CAP_V2_PULL", "ROUTE_OWNER_CAP_V2_PULL=off", "=", ""] {
            assert!(Assignment::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_file_takes_the_section_over() {
        let section = "\
version: 40
poll_seconds: 5
switches:
  ROUTE_OWNER_CAP_V2_PUSH: rust
";
        let section = set(Some(section), &[]);
        let below = section.unwrap().snapshot;
        let changes = [Assignment::parse("ROUTE_OWNER_CAP_V2_PULL=rust").unwrap()];
        let edited = edit(None, Some(&below), &changes, 50, now()).unwrap();
        assert_eq!((edited.snapshot.version, edited.snapshot.poll.as_secs()), (51, 5));
        assert_eq!(edited.snapshot.switches.owners.len(), 2);
    }
}
