//! How a unit starts Quay's container: which podman, under which name, with which volumes.

use std::path::{Path, PathBuf};

use super::command;
use super::files::FileError;
use super::target::Target;
use super::unit::{Unit, words};
use super::{Error, Refusal};

/// The folders in the container that Quay's configuration is mounted at.
const STACK: [&str; 2] = ["/quay-registry/conf/stack", "/conf/stack"];

/// A container of Quay's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Podman {
    /// The program.
    pub program: PathBuf,
    /// The container's name.
    pub name: String,
    /// Where Quay's configuration is on this machine, if that is a folder.
    pub config: Option<PathBuf>,
    /// The other file that has the whole command, where the unit's own is not used.
    pub restated_by: Option<PathBuf>,
}

impl Podman {
    /// Reads it from the unit and its drop-ins.
    ///
    /// # Errors
    /// When there is no such unit, or it runs no Quay that we can be mounted into.
    pub fn of(target: &Target) -> Result<Option<Self>, Error> {
        let (unit, quadlet) = match target {
            Target::Tree(_) => return Ok(None),
            Target::Service(unit) => (unit, false),
            Target::Quadlet(unit) => (unit, true),
        };
        if !unit.is_file() {
            return Err(Refusal::new(
                format!("{} is not there", unit.display()),
                "name Quay's unit with --unit, and its folder with --units where it is another \
                 one; --user looks among the units of a user",
            )
            .into());
        }
        let read = read(target, unit)?;
        if quadlet { of_quadlet(unit, &read) } else { of_service(unit, &read) }.map(Some)
    }

    /// What podman says of its release.
    ///
    /// # Errors
    /// When it cannot be run.
    pub(super) fn version(&self) -> Result<(u32, u32), String> {
        let said = self.ask(&["--version"])?;
        let version = said.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        version.ok_or_else(|| format!("{} says {said:?}", self.program.display()))
    }

    /// Whether the container runs now.
    pub fn is_running(&self) -> bool {
        self.ask(&["container", "inspect", "--format", "{{.State.Running}}", &self.name])
            .is_ok_and(|said| said.trim() == "true")
    }

    /// Runs a command in the container, as its user. Returns what it printed.
    ///
    /// # Errors
    /// When there is no such container, or the command fails.
    pub fn exec(&self, arguments: &[&str]) -> Result<String, String> {
        self.ask(&[&["exec", self.name.as_str()], arguments].concat())
    }

    /// Copies a file or folder out of the container; nothing runs in it for that.
    pub(super) fn copy(&self, from: &str, to: &Path) -> Result<(), String> {
        let from = format!("{}:{from}", self.name);
        self.ask(&["cp", &from, &to.to_string_lossy()]).map(|_| ())
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let program = self.program.to_string_lossy().into_owned();
        let words: Vec<String> =
            [program].into_iter().chain(arguments.iter().map(|word| (*word).to_owned())).collect();
        command::run(&words, None)
    }
}

fn read(target: &Target, unit: &Path) -> Result<Unit, FileError> {
    Unit::read(unit, &target.drop_in().unwrap_or_default())
}

fn of_service(unit: &Path, read: &Unit) -> Result<Podman, Error> {
    let commands = read.values("Service", "ExecStart");
    let words = commands.last().map(|command| words(command)).unwrap_or_default();
    // The signs say how systemd is to run it.
    let program = words.first().map(|word| word.trim_start_matches(['-', '@', ':', '+', '!']));
    let program = PathBuf::from(program.unwrap_or_default());
    let runs = words.get(1..).is_some_and(|words| words.iter().any(|word| word == "run"));
    if program.file_name().is_none_or(|name| name != "podman") || !runs {
        return Err(Refusal::new(
            format!("{}: its ExecStart is no `podman run`", unit.display()),
            "name the unit that runs Quay's container with --unit",
        )
        .into());
    }
    if let Some(file) = overridden(read) {
        return Err(Refusal::new(
            format!("{}: sets CONTAINERS_CONF_OVERRIDE, which we would take over", file.display()),
            "add the two volumes of a dry run to the file that it names, by hand",
        )
        .into());
    }
    let name = option(&words, "--name").next();
    let volumes = option(&words, "-v").chain(option(&words, "--volume"));
    let config = config(unit, volumes.chain(option(&words, "--mount")), &words.join(" "))?;
    let restated_by = read.set_by("Service", "ExecStart").filter(|file| *file != unit);
    Ok(Podman {
        program,
        name: name.unwrap_or_else(|| stem(unit)),
        config,
        restated_by: restated_by.map(Path::to_owned),
    })
}

fn of_quadlet(unit: &Path, read: &Unit) -> Result<Podman, Error> {
    let of = |key| read.values("Container", key);
    let volumes = of("Volume").into_iter().chain(of("Mount")).map(str::to_owned);
    let what = [of("Image"), of("Exec")].concat().join(" ");
    let name = of("ContainerName").last().map(|name| (*name).to_owned());
    Ok(Podman {
        program: "podman".into(),
        name: name.unwrap_or_else(|| format!("systemd-{}", stem(unit))),
        config: config(unit, volumes, &what)?,
        restated_by: None,
    })
}

/// The values of an option, however it is written: `--name x`, `--name=x`, `-v x`.
fn option<'w>(words: &'w [String], name: &'w str) -> impl Iterator<Item = String> + 'w {
    words.iter().enumerate().filter_map(move |(index, word)| match word.strip_prefix(name)? {
        "" => words.get(index + 1).cloned(),
        joined => joined.strip_prefix('=').map(str::to_owned),
    })
}

/// The folder of config.yaml. Quay's image of the mirror in Go, which has nothing that we could go
/// into, has no such mount (contract §12.2).
fn config(
    unit: &Path,
    volumes: impl Iterator<Item = String>,
    what: &str,
) -> Result<Option<PathBuf>, Refusal> {
    let mounted = volumes.filter_map(|volume| mount(&volume));
    let found = mounted.into_iter().find(|(_, to)| STACK.contains(&to.trim_end_matches('/')));
    let unit = unit.display();
    let Some((from, _)) = found else {
        let reason = match what.contains("quay-mirror") || what.contains("serve --") {
            true => format!("{unit} runs Quay's mirror, a program in Go: no nginx, no Python"),
            false => format!("{unit}: nothing is mounted at {}", STACK[0]),
        };
        let remedy = "only a Quay with nginx and Python can be served beside; name its unit with \
                      --unit";
        return Err(Refusal::new(reason, remedy));
    };
    let home = std::env::var("HOME").unwrap_or_default();
    let from = PathBuf::from(from.replace("%h", &home));
    Ok(Some(from).filter(|from| from.is_absolute() && !from.to_string_lossy().contains('%')))
}

/// `FROM:TO[:OPTIONS]`, or the words of `--mount`.
fn mount(volume: &str) -> Option<(String, String)> {
    if volume.contains("type=") {
        let value = |names: [&str; 3]| {
            volume.split(',').find_map(|word| {
                let (key, value) = word.split_once('=')?;
                names.contains(&key).then(|| value.to_owned())
            })
        };
        return value(["source", "src", "src"]).zip(value(["destination", "dst", "target"]));
    }
    let mut parts = volume.split(':');
    parts.next().map(str::to_owned).zip(parts.next().map(str::to_owned))
}

fn overridden(read: &Unit) -> Option<PathBuf> {
    let sets = read.values("Service", "Environment").join(" ");
    let file = read.set_by("Service", "Environment")?;
    sets.contains("CONTAINERS_CONF_OVERRIDE").then(|| file.to_owned())
}

fn stem(unit: &Path) -> String {
    unit.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_volumes_however_they_are_written() {
        let command =
            "podman run --name q -v /a:/x:Z --volume=/b:/y -v=/c:/z:ro --rm image registry";
        let words = words(command);
        let volumes: Vec<String> = option(&words, "-v").chain(option(&words, "--volume")).collect();
        assert_eq!(volumes, ["/a:/x:Z", "/c:/z:ro", "/b:/y"]);
        assert_eq!(option(&words, "--name").collect::<Vec<_>>(), ["q"]);
        let pair = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        assert_eq!(mount("/a:/x:Z,U"), pair("/a", "/x"));
        assert_eq!(mount("type=bind,source=/a,destination=/x,ro"), pair("/a", "/x"));
        assert_eq!(mount("type=bind,src=/a,target=/x"), pair("/a", "/x"));
        assert_eq!(mount("/anonymous"), None);
    }

    #[test]
    fn the_folder_of_the_configuration() {
        let of = |volume: &str, what: &str| {
            config(Path::new("u.service"), [volume.to_owned()].into_iter(), what)
        };
        let folder = of("/root/quay-config:/quay-registry/conf/stack:Z", "").unwrap();
        assert_eq!(folder, Some("/root/quay-config".into()));
        assert_eq!(of("/c:/conf/stack/", "").unwrap(), Some("/c".into()));
        // A named volume, or a place that only systemd knows.
        for volume in ["config:/conf/stack", "%t/c:/conf/stack"] {
            assert_eq!(of(volume, "").unwrap(), None, "{volume}");
        }
        let refused = |what| of("/d:/data:Z", what).unwrap_err().reason;
        assert!(
            refused("quay.io/quay/quay-mirror:latest serve --data-dir /data").contains("in Go")
        );
        assert!(refused("quay registry").contains("nothing is mounted"));
    }
}
