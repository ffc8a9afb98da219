//! systemd's unit files, and podman's quadlets, which are written alike: as much of them as tells
//! how a container is started (systemd.syntax(7), podman-systemd.unit(5)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{FileError, at};

/// A unit with its drop-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    settings: Vec<Setting>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    file: PathBuf,
    section: String,
    key: String,
    value: String,
}

impl Unit {
    /// Reads the unit and, in the order of their names, its drop-ins, but for one that is ours.
    pub fn read(path: &Path, ours: &Path) -> Result<Self, FileError> {
        let mut unit = Self::default();
        unit.add(path)?;
        let mut drop_ins = match fs::read_dir(drop_ins(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .map_err(at("read", &drop_ins(path)))?,
        };
        drop_ins.retain(|path| path.extension().is_some_and(|e| e == "conf") && path != ours);
        drop_ins.sort();
        drop_ins.iter().try_for_each(|path| unit.add(path))?;
        Ok(unit)
    }

    fn add(&mut self, path: &Path) -> Result<(), FileError> {
        let text = fs::read_to_string(path).map_err(at("read", path))?;
        self.settings.extend(settings(path, &text));
        Ok(())
    }

    /// The values of a setting that may be repeated: an empty one forgets those before it.
    pub fn values(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for setting in self.settings.iter().filter(|s| s.section == section && s.key == key) {
            match setting.value.as_str() {
                "" => values.clear(),
                value => values.push(value),
            }
        }
        values
    }

    /// The last file that has this setting.
    pub fn set_by(&self, section: &str, key: &str) -> Option<&Path> {
        let last = self.settings.iter().rfind(|s| s.section == section && s.key == key)?;
        Some(&last.file)
    }
}

/// The folder of a unit's drop-ins.
pub(super) fn drop_ins(unit: &Path) -> PathBuf {
    let mut folder = unit.as_os_str().to_owned();
    folder.push(".d");
    folder.into()
}

fn settings(file: &Path, text: &str) -> Vec<Setting> {
    let mut section = String::new();
    let mut settings = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let mut whole = line.to_owned();
        // A comment between continued lines belongs to none of them.
        while let Some(begun) = whole.strip_suffix('\\') {
            let next = lines.by_ref().find(|line| !line.trim_start().starts_with(['#', ';']));
            whole = format!("{begun} {}", next.unwrap_or_default());
            if next.is_none() {
                break;
            }
        }
        let whole = whole.trim();
        if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = whole.split_once('=') {
            settings.push(Setting {
                file: file.to_owned(),
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
    }
    settings
}

/// A command line's words; quotes hold blanks together.
pub(super) fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, '\\') if quote != Some('\'') => {
                word.get_or_insert_default().extend(characters.next());
            }
            (_, plain) => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_over_several_lines() {
        let text = "[Service]\nExecStart=/usr/bin/podman run \\\n  --name quay-app \\\n# why\n  \
                    -v '/a b:/c':Z \\\n  image registry\n\nExecStop=x\n";
        let unit = Unit { settings: settings(Path::new("u"), text) };
        let [command] = unit.values("Service", "ExecStart")[..] else { panic!("{unit:?}") };
        let expected = [
            "/usr/bin/podman",
            "run",
            "--name",
            "quay-app",
            "-v",
            "/a b:/c:Z",
            "image",
            "registry",
        ];
        assert_eq!(words(command), expected);
        assert_eq!(unit.values("Service", "ExecStop"), ["x"]);
        assert!(unit.values("Unit", "ExecStart").is_empty());
    }

    #[test]
    fn a_drop_in_may_forget_what_was_set() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("q.service");
        fs::write(&unit, "[Service]\nExecStart=one\n").unwrap();
        let drop_ins = drop_ins(&unit);
        fs::create_dir(&drop_ins).unwrap();
        let (other, ours) = (drop_ins.join("10-other.conf"), drop_ins.join("50-ours.conf"));
        fs::write(&other, "[Service]\nExecStart=\nExecStart=two\n").unwrap();
        fs::write(&ours, "[Service]\nExecStart=\n").unwrap();
        let read = Unit::read(&unit, &ours).unwrap();
        assert_eq!(read.values("Service", "ExecStart"), ["two"]);
        assert_eq!(read.set_by("Service", "ExecStart"), Some(other.as_path()));
    }
}
