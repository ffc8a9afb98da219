//! From what was read to a snapshot, or to everything that is wrong with it.

use std::time::{Duration, SystemTime};

use chrono::DateTime;

use super::catalogue::catalogue;
use super::environment::assign;
use super::key::{FORCE, Key};
use super::problem::{Code, Origin, Place, Problem, Wrong};
use super::snapshot::{POLL, Snapshot, Switches};
use super::source::{Content, MOST_BYTES, Reading, SECTION};
use super::yaml::{self, Entry, Node, Value};
use super::{text, value};

/// How far clocks may differ.
const FUTURE: Duration = Duration::from_secs(5 * 60);

/// What a reading amounts to.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) found: Found,
    /// A version that could be read, be the rest as it may.
    pub(super) version: Option<u64>,
    /// A kill switch that is on, be the rest as it may (section 8.1).
    pub(super) force: Option<Place>,
    pub(super) problems: Vec<Problem>,
}

#[derive(Debug, Default)]
pub(super) enum Found {
    /// Neither file has switches.
    #[default]
    Absent,
    /// Something is there that cannot be used.
    Bad,
    Good(Box<Snapshot>),
}

/// Reads the switch file, or else the section of `config.yaml` (decision 3).
pub(super) fn parse(reading: &Reading) -> Parsed {
    let mut parsed = Parsed::default();
    let own = match &reading.switches.content {
        Content::Missing => false,
        content => {
            parsed.file(content);
            true
        }
    };
    parsed.config(&reading.config.content, own);
    let written = if own { &reading.switches } else { &reading.config };
    parsed.clock(written.modified);
    if parsed.problems.iter().any(Problem::is_error) {
        parsed.found = Found::Bad;
    }
    parsed
}

/// Reads the text of a switch file alone, and keeps what could be read of a bad one.
pub(super) fn draft(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.file(&Reading::switches(text).switches.content);
    parsed
}

impl Parsed {
    /// A document from the future tells of a clock that is wrong. When it was written is known
    /// from the file, so no clock of ours is asked.
    fn clock(&mut self, modified: Option<SystemTime>) {
        let Found::Good(snapshot) = &self.found else { return };
        let Some((updated, modified)) = snapshot.updated_at.zip(modified) else { return };
        if SystemTime::from(updated) <= modified + FUTURE {
            return;
        }
        let place = Place { origin: snapshot.origin, line: 0 };
        let wrong = Wrong::new(
            Code::UpdatedInFuture,
            format!("{updated} is later than the file itself"),
            "check the clock of the machine that wrote it",
        );
        self.wrong("updated_at", place, wrong);
    }

    fn wrong(&mut self, key: &str, place: Place, wrong: Wrong) {
        self.problems.push(wrong.at(key, place));
    }

    fn file(&mut self, content: &Content) {
        let origin = Origin::SwitchFile;
        let at = |line| Place { origin, line };
        let Some(text) = self.text(content, origin) else { return };
        match yaml::read(&text) {
            Ok(root) => {
                self.snapshot(unwrapped(root), origin, text::is_complete(&text));
            }
            Err(broken) => {
                self.scan(&text, origin);
                let remedy = "correct the file; `quay switch set` writes it for you";
                let wrong = Wrong::new(Code::BadYaml, broken.reason, remedy);
                self.wrong(super::SWITCH_FILE, at(broken.line), wrong);
            }
        }
    }

    /// What `config.yaml` says; its kill switch only, where it is `shadowed` by a switch file.
    fn config(&mut self, content: &Content, shadowed: bool) {
        let mut config = Self::default();
        config.config_alone(content, shadowed);
        self.force = self.force.or(config.force);
        if shadowed {
            config.problems.retain(|problem| problem.code == Code::BothPresent);
        } else {
            self.found = config.found;
            self.version = config.version;
        }
        self.problems.append(&mut config.problems);
    }

    fn config_alone(&mut self, content: &Content, shadowed: bool) {
        let origin = Origin::ConfigFile;
        let Some(text) = self.text(content, origin) else { return };
        match yaml::section(&text) {
            Ok(entries) => self.section(entries, shadowed, text::is_complete(&text)),
            // Broken, but not about us.
            Err(_) if !text.contains(SECTION) && !text.contains(FORCE) => {}
            Err(broken) => {
                self.scan(&text, origin);
                let remedy = "correct the file; Python Quay reads the same one";
                let wrong = Wrong::new(Code::BadYaml, broken.reason, remedy);
                self.wrong(super::CONFIG_FILE, Place { origin, line: broken.line }, wrong);
            }
        }
    }

    fn section(&mut self, entries: Vec<Entry>, shadowed: bool, complete: bool) {
        let origin = Origin::ConfigFile;
        let (ours, kills): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.key == SECTION);
        for entry in kills {
            self.kill(&entry.node.value, Place { origin, line: entry.line });
        }
        for (index, entry) in ours.into_iter().enumerate() {
            let place = Place { origin, line: entry.line };
            if shadowed {
                self.kill_within(&entry.node, origin);
                let reason = format!("not used: {} is there", super::SWITCH_FILE);
                let wrong = Wrong::new(Code::BothPresent, reason, "remove one of the two");
                self.wrong(SECTION, place, wrong);
            } else if index > 0 {
                self.kill_within(&entry.node, origin);
                self.wrong(SECTION, place, duplicate());
            } else {
                self.snapshot(entry.node, origin, complete);
            }
        }
    }

    /// The text, or `None` and the reason why there is none.
    fn text(&mut self, content: &Content, origin: Origin) -> Option<String> {
        let place = Place { origin, line: 0 };
        let (bytes, wrong) = match content {
            Content::Missing => return None,
            Content::Unreadable(reason) => {
                let reason = format!("cannot be read: {reason}");
                let remedy = "let the user that Quay runs as read it";
                (&[][..], Some(Wrong::new(Code::Unreadable, reason, remedy)))
            }
            Content::TooLarge(bytes) => {
                let reason = format!("larger than {} KiB", MOST_BYTES >> 10);
                let remedy = "list fewer names; ROUTE_CANARY_ORGS covers whole organisations";
                (&bytes[..], Some(Wrong::new(Code::TooLarge, reason, remedy)))
            }
            Content::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => return Some(text.to_owned()),
                Err(error) => {
                    let reason = format!("not UTF-8 at byte {}", error.valid_up_to());
                    (&bytes[..], Some(Wrong::new(Code::BadYaml, reason, "save it as UTF-8")))
                }
            },
        };
        self.scan(&String::from_utf8_lossy(bytes), origin);
        if let Some(wrong) = wrong {
            self.wrong(origin.as_str(), place, wrong);
        }
        None
    }

    /// Looks for the kill switch in what is no YAML: a line that sets it is readable enough.
    fn scan(&mut self, text: &str, origin: Origin) {
        for (line, value) in text::values_of(FORCE, text) {
            self.kill(&Value::Text(value.into()), Place { origin, line });
        }
    }

    fn kill(&mut self, value: &Value, place: Place) {
        if value::force(value).0 {
            self.force.get_or_insert(place);
        }
    }

    fn kill_within(&mut self, node: &Node, origin: Origin) {
        let Value::Map(entries) = &node.value else { return };
        for entry in entries {
            match entry.key.as_str() {
                FORCE => self.kill(&entry.node.value, Place { origin, line: entry.line }),
                "switches" => self.kill_within(&entry.node, origin),
                _ => {}
            }
        }
    }

    fn snapshot(&mut self, root: Node, origin: Origin, complete: bool) {
        self.kill_within(&root, origin);
        let at = |line| Place { origin, line };
        let Value::Map(entries) = root.value else {
            let reason = format!("expected a map, found {}", root.value.kind());
            let remedy = "write version: and switches:, or let `quay switch set` do it";
            let wrong = Wrong::new(Code::MissingVersion, reason, remedy);
            return self.wrong("version", at(root.line), wrong);
        };
        let mut snapshot = Snapshot {
            version: 0,
            updated_at: None,
            route_table: None,
            poll: POLL,
            switches: Switches::default(),
            complete,
            origin,
        };
        for (index, entry) in entries.iter().enumerate() {
            if entries[..index].iter().any(|other| other.key == entry.key) {
                self.wrong(&entry.key, at(entry.line), duplicate());
            } else {
                self.field(&mut snapshot, entry, origin);
            }
        }
        self.version = Some(snapshot.version).filter(|version| *version > 0);
        if !entries.iter().any(|entry| entry.key == "version") {
            let remedy = "write version: and a whole number, larger with every change";
            let wrong = Wrong::new(Code::MissingVersion, "there is no version", remedy);
            self.wrong("version", at(root.line), wrong);
        }
        self.whole(&snapshot);
        self.found = Found::Good(Box::new(snapshot));
    }

    fn field(&mut self, snapshot: &mut Snapshot, entry: &Entry, origin: Origin) {
        let place = Place { origin, line: entry.line };
        let bad = |code, remedy: &str| {
            let reason = format!("cannot be {}", described(&entry.node.value));
            Some(Wrong::new(code, reason, remedy))
        };
        let wrong = match (entry.key.as_str(), &entry.node.value) {
            ("schema", Value::Integer(1)) => None,
            ("schema", _) => bad(Code::BadSchema, "this binary reads schema: 1"),
            ("version", Value::Integer(number @ 1..)) => {
                snapshot.version = number.unsigned_abs();
                None
            }
            ("version", _) => bad(Code::BadVersion, "write a whole number from 1, without quotes"),
            ("updated_at", Value::Text(time)) if DateTime::parse_from_rfc3339(time).is_ok() => {
                snapshot.updated_at = DateTime::parse_from_rfc3339(time).ok();
                None
            }
            ("updated_at", _) => {
                bad(Code::BadUpdatedAt, "write a time with its zone: \"2026-11-23T18:00:00Z\"")
            }
            ("route_table", Value::Text(hash)) => {
                snapshot.route_table = Some(hash.clone());
                None
            }
            ("route_table", _) => {
                bad(Code::BadType, "write the text that `quay switch show` prints")
            }
            ("poll_seconds", Value::Integer(seconds @ 5..=15)) => {
                snapshot.poll = Duration::from_secs(seconds.unsigned_abs());
                None
            }
            ("poll_seconds", _) => bad(Code::BadPoll, "write a whole number from 5 to 15"),
            ("default", Value::Text(owner)) if owner == "python" => None,
            ("default", _) => bad(Code::UnknownOwner, "python is the only default"),
            ("switches", Value::Null) => None,
            ("switches", Value::Map(entries)) => {
                self.switches(&mut snapshot.switches, entries, origin);
                None
            }
            ("switches", _) => bad(Code::BadType, "write one KEY: value a line below it"),
            (name, _) => {
                let remedy = match name {
                    _ if Key::is_ours(name) => "put it under switches:",
                    "families" | "capabilities" | "routes" | "workers" | "canary"
                    | "force_python" => "write the names of the environment under switches:",
                    _ => {
                        "remove it; known are version, updated_at, switches, schema, \
                          route_table and poll_seconds"
                    }
                };
                Some(Wrong::new(Code::UnknownKey, "does not belong here", remedy))
            }
        };
        if let Some(wrong) = wrong {
            self.wrong(&entry.key, place, wrong);
        }
    }

    fn switches(&mut self, switches: &mut Switches, entries: &[Entry], origin: Origin) {
        let mut seen = Vec::new();
        for entry in entries {
            let place = Place { origin, line: entry.line };
            let result = match Key::parse(&entry.key) {
                // Two spellings of a route are one key.
                Ok(key) if seen.contains(&key) => Err(vec![duplicate()]),
                Ok(key) => {
                    seen.push(key);
                    assign(switches, key, &entry.node.value, place)
                }
                Err(wrong) => Err(vec![wrong]),
            };
            for wrong in result.err().unwrap_or_default() {
                self.wrong(&entry.key, place, wrong);
            }
        }
    }

    /// What only shows in the whole.
    fn whole(&mut self, snapshot: &Snapshot) {
        let switches = &snapshot.switches;
        let origin = snapshot.origin;
        let place = Place { origin, line: 0 };
        let own = &catalogue().route_table;
        let route = switches.owners.iter().find(|(key, _)| matches!(key, Key::Route(_)));
        match (route, &snapshot.route_table) {
            (Some((key, found)), Some(table)) if table != own => {
                let reason = format!("the numbers of routes are those of another table than {own}");
                let remedy = "look the routes up again with `quay switch explain`";
                let wrong = Wrong::new(Code::RouteTableMismatch, reason, remedy);
                self.wrong(&key.to_string(), found.place, wrong);
            }
            (Some((key, found)), None) => {
                let reason = "numbers of routes may change with the table they are from";
                let remedy = format!("write route_table: \"{own}\" beside version");
                let wrong = Wrong::new(Code::MissingRouteTable, reason, remedy);
                self.wrong(&key.to_string(), found.place, wrong);
            }
            _ => {}
        }
        let gated = switches.owners.iter().find(|(_, found)| switches.is_gated(found));
        if let Some((key, found)) = gated
            && switches.canary.is_empty()
        {
            let reason = "for a canary that selects nobody: everything stays with Python";
            let remedy = "list somebody in ROUTE_CANARY_*, or remove those keys";
            let wrong = Wrong::new(Code::EmptyCanary, reason, remedy);
            self.wrong(&key.to_string(), found.place, wrong);
        }
        let owner = |name| switches.of_capability(name).map(|(_, found)| found.owner);
        if let Some((_, found)) =
            switches.of_capability("V2_AUTH").or(switches.of_capability("V2_BASE"))
            && owner("V2_AUTH").unwrap_or(super::Owner::Python)
                != owner("V2_BASE").unwrap_or(super::Owner::Python)
        {
            let reason = "/v2/ names the address that /v2/auth answers: they should move together";
            let remedy = "give V2_AUTH and V2_BASE one owner";
            let wrong = Wrong::new(Code::AuthBaseSplit, reason, remedy);
            self.wrong(&Key::Capability("V2_AUTH").to_string(), found.place, wrong);
        }
        if !snapshot.complete && origin == Origin::SwitchFile {
            let reason = "without an end it may be half of a file, so it is read twice before use";
            let wrong = Wrong::new(Code::NoEndMark, reason, "end the file with a line: ...");
            self.wrong(super::SWITCH_FILE, place, wrong);
        }
    }
}

fn duplicate() -> Wrong {
    Wrong::new(Code::DuplicateKey, "it is there twice", "remove one of the two")
}

fn described(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => format!("{:?}", super::problem::shown(text)),
        other => other.kind().to_owned(),
    }
}

/// The file may hold the section as `config.yaml` does, under its name.
fn unwrapped(root: Node) -> Node {
    match root.value {
        Value::Map(mut entries) if entries.len() == 1 && entries[0].key == SECTION => {
            entries.pop().map_or_else(
                || Node { value: Value::Null, line: root.line, span: 0..0 },
                |entry| entry.node,
            )
        }
        value => Node { value, ..root },
    }
}
