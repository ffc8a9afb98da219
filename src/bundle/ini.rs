//! supervisord's configuration as supervisord reads it: Python's `RawConfigParser` with `;` and `#`
//! for comments and repeated sections merged (supervisor 4.2, `options.py`).

use std::collections::BTreeMap;

use super::supervisord::PYTHONS_MIRROR_WORKER;

/// Sections in the order of their first header, with the values as written: nothing interpolated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    sections: Vec<Section>,
}

/// A `[header]` and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `program:nginx`.
    pub name: String,
    /// Keys in lower case.
    pub values: BTreeMap<String, String>,
}

/// What supervisord would not start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct IniError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl Ini {
    /// Reads a file's text.
    ///
    /// # Errors
    /// When a line is neither header, value, continuation, comment nor empty.
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut current: Option<usize> = None;
        let mut key: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            let error = |what| IniError { line: index + 1, what };
            let content = without_comment(line);
            if content.is_empty() {
                continue;
            }
            let section = current.and_then(|at| ini.sections.get_mut(at));
            if line.starts_with([' ', '\t']) {
                // A continuation; before the first key an indented line stands for itself.
                if let (Some(section), Some(key)) = (section, &key) {
                    let value = section.values.entry(key.clone()).or_default();
                    value.push('\n');
                    value.push_str(content);
                    continue;
                }
            }
            if let Some(name) = content.strip_prefix('[') {
                let name = name.split(']').next().filter(|_| name.contains(']'));
                current = Some(ini.open(name.ok_or_else(|| error("a header without its ]"))?));
                key = None;
                continue;
            }
            let section = current.and_then(|at| ini.sections.get_mut(at));
            let section = section.ok_or_else(|| error("a value before the first header"))?;
            let at = content.find(['=', ':']).ok_or_else(|| error("neither header nor value"))?;
            let name = content[..at].trim().to_ascii_lowercase();
            section.values.insert(name.clone(), content[at + 1..].trim().to_owned());
            key = Some(name);
        }
        Ok(ini)
    }

    fn open(&mut self, name: &str) -> usize {
        let known = self.sections.iter().position(|section| section.name == name);
        known.unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), values: BTreeMap::new() });
            self.sections.len() - 1
        })
    }

    /// The names of programs, in order.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().filter_map(|section| section.name.strip_prefix("program:"))
    }

    /// A value of a program.
    pub fn program(&self, name: &str, key: &str) -> Option<&str> {
        let section = self.section(&format!("program:{name}"))?;
        section.values.get(key).map(String::as_str)
    }

    /// A section by its header.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Whether supervisord starts a program by itself: it does unless told not to.
    pub fn autostart(&self, program: &str) -> bool {
        let value = self.program(program, "autostart").unwrap_or("true");
        !["false", "no", "off", "0"].contains(&value.to_ascii_lowercase().as_str())
    }

    /// Whether supervisord starts a program by itself, and has one to start.
    pub fn starts(&self, program: &str) -> bool {
        self.autostart(program) && self.program(program, "command").is_some()
    }

    /// Whether this is a Quay that does nothing but mirror, as its mode `repomirror` has it.
    pub fn only_mirrors(&self) -> bool {
        !self.starts("nginx") && self.starts(PYTHONS_MIRROR_WORKER)
    }

    /// All sections.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }
}

/// A comment begins a line, or follows white space.
fn without_comment(line: &str) -> &str {
    let mut before = None;
    for (at, c) in line.char_indices() {
        let begins = before.is_none_or(char::is_whitespace);
        if begins && (c == ';' || c == '#') {
            return line[..at].trim();
        }
        before = Some(c);
    }
    line.trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_supervisord_reads() {
        let text = "[supervisord]\nnodaemon=true ; why\n;[program:x]\n[program:a]\n\
                    environment=\n  A=1,\n  B=2\nCommand = run a;b\nautostart = false\n# end";
        let ini = Ini::parse(text).unwrap();
        assert_eq!(ini.programs().collect::<Vec<_>>(), ["a"]);
        assert_eq!(ini.section("supervisord").unwrap().values["nodaemon"], "true");
        assert_eq!(ini.program("a", "environment"), Some("\nA=1,\nB=2"));
        assert_eq!(ini.program("a", "command"), Some("run a;b"));
        assert!(!ini.autostart("a"));
    }

    #[test]
    fn refuses_what_supervisord_refuses() {
        for (text, line) in [("a=1", 1), ("[a]\nb", 2), ("[a\nb=1", 1)] {
            assert_eq!(Ini::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a\\[\\]=:;# \n\u{e9}]{0,60}") {
            let _ = Ini::parse(&text);
        }
    }
}
