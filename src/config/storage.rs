//! Where the blobs are: `DISTRIBUTED_STORAGE_CONFIG` and the preference (contract 5.2, 5.3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::ValueKind;

use super::reader::{Parsed, Reader, Show, Wrong, feature, names};
use super::report::Severity;
use super::s3::{self, NotRead, S3};

/// Where the blobs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// `DISTRIBUTED_STORAGE_CONFIG`: every location by its name.
    pub locations: BTreeMap<String, Location>,
    /// The order in which locations are read, the first one being written to; never empty, and
    /// every name is one of `locations` (contract 5.3).
    pub preference: Vec<String>,
    /// `FEATURE_PROXY_STORAGE`, default false: downloads go through Quay's nginx (contract 5.6).
    pub proxy_storage: bool,
}

impl Storage {
    /// The folders among the locations, each with the number that nginx and registryd both know
    /// it by.
    pub fn local_roots(&self) -> impl Iterator<Item = (usize, &Path)> {
        self.locations.values().enumerate().filter_map(|(index, location)| match location {
            Location::Local { path } => Some((index, path.as_path())),
            Location::S3(_) | Location::Unsupported { .. } => None,
        })
    }
}

/// One storage location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `LocalStorage`: a folder of this machine.
    Local {
        /// `storage_path`; a relative one is relative to the working directory, as in Python.
        path: PathBuf,
    },
    /// A bucket of the S3 family: clients are sent there with a signed URL.
    S3(Box<S3>),
    /// A driver that we do not serve; requests that land there go to Python.
    Unsupported {
        /// The driver's class name in Quay.
        driver: String,
    },
}

const CONFIG: &str = "DISTRIBUTED_STORAGE_CONFIG";
const PREFERENCE: &str = "DISTRIBUTED_STORAGE_PREFERENCE";
const PREFERENCE_VARIABLE: &str = "QUAY_DISTRIBUTED_STORAGE_PREFERENCE";

/// Locations in the order of the file, which is the preference when none is configured.
#[derive(Default)]
struct Locations(Vec<(String, Location)>);

impl Show for Locations {
    fn show(&self) -> String {
        let one = |(name, location): &(String, Location)| match location {
            Location::Local { path } => format!("{}: {}", name.show(), path.show()),
            Location::S3(s3) => {
                format!("{}: {} at {}", name.show(), s3.bucket.show(), s3.endpoint.show())
            }
            Location::Unsupported { driver } => {
                format!("{}: {} (Python)", name.show(), driver.show())
            }
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Storage {
    let Locations(locations) = r.required(CONFIG, parse_locations);
    for (name, location) in &locations {
        let name = name.show();
        match location {
            Location::Local { path } if path.is_relative() => r.warn(
                CONFIG,
                format!("the storage_path of {name} is relative to the working directory"),
                "write it as an absolute path, so that Python and this program agree on it",
            ),
            Location::Local { .. } | Location::S3(_) => {}
            Location::Unsupported { driver } => r.warn(
                CONFIG,
                format!("the driver {} of {name} is not served by this program yet", driver.show()),
                "nothing to do: Python keeps serving what is stored there",
            ),
        }
    }
    let proxy_storage = r.setting("FEATURE_PROXY_STORAGE", false, feature);
    let preference = preference(r, &locations);
    Storage { locations: locations.into_iter().collect(), preference, proxy_storage }
}

fn parse_locations(value: &ValueKind) -> Parsed<Locations> {
    const FORM: &str = "write each location as NAME: [DRIVER, {parameters}], such as [LocalStorage, {storage_path: /path}]";
    let ValueKind::Table(table) = value else {
        return Err(Wrong::kind("a map of locations", value));
    };
    if table.is_empty() {
        return Err(Wrong::new("holds no location", FORM));
    }
    let mut locations = Vec::new();
    for (name, value) in table {
        let wrong = |reason: &str| Wrong::new(format!("{}: {reason}", name.show()), FORM);
        let ValueKind::Array(items) = &value.kind else {
            return Err(wrong("not a list of a driver and its parameters"));
        };
        let Some(ValueKind::String(driver)) = items.first().map(|item| &item.kind) else {
            return Err(wrong("starts with no driver name"));
        };
        let location = if driver == "LocalStorage" {
            let params = items.get(1).map(|item| &item.kind);
            let path = match params {
                Some(ValueKind::Table(params)) => params.get("storage_path").map(|path| &path.kind),
                _ => None,
            };
            match path {
                Some(ValueKind::String(path)) if !path.is_empty() => {
                    Location::Local { path: path.into() }
                }
                _ => return Err(wrong("LocalStorage without a storage_path")),
            }
        } else if s3::DRIVERS.contains(&driver.as_str()) {
            let Some(ValueKind::Table(params)) = items.get(1).map(|item| &item.kind) else {
                return Err(wrong(&format!("{} without parameters", driver.show())));
            };
            match s3::read(driver, params) {
                Ok(s3) => Location::S3(Box::new(s3)),
                Err(NotRead::Python(why)) => {
                    Location::Unsupported { driver: format!("{driver} ({why})") }
                }
                Err(NotRead::Wrong(why)) => {
                    return Err(wrong(&format!(
                        "{} cannot be used: {}",
                        driver.show(),
                        why.show()
                    )));
                }
            }
        } else {
            Location::Unsupported { driver: driver.clone() }
        };
        locations.push((name.clone(), location));
    }
    Ok(Locations(locations))
}

/// The variable over the setting over the order of the file.
fn preference(r: &mut Reader<'_>, locations: &[(String, Location)]) -> Vec<String> {
    let variable: Vec<String> = match r.env.var(PREFERENCE_VARIABLE) {
        Some(text) => text.split_whitespace().map(String::from).collect(),
        None => Vec::new(),
    };
    let (mut wanted, place) = if variable.is_empty() {
        let setting = r.source.get(PREFERENCE).map(names).transpose();
        let wanted = setting.unwrap_or_else(|wrong| {
            r.error(PREFERENCE, wrong);
            None
        });
        (wanted.unwrap_or_default(), r.source.place(PREFERENCE))
    } else {
        (variable, format!("environment {PREFERENCE_VARIABLE}"))
    };
    // Without any location everything would be unknown; the missing locations are reported already.
    for name in wanted.iter().filter(|_| !locations.is_empty()) {
        if !locations.iter().any(|(known, _)| known == name) {
            let reason = format!("{} is not a location of {CONFIG}", name.show());
            let wrong = Wrong::new(reason, "name only locations that are configured");
            r.problem(Severity::Error, PREFERENCE, place.clone(), wrong);
        }
    }
    if wanted.is_empty() {
        wanted = locations.iter().map(|(name, _)| name.clone()).collect();
    }
    r.show(PREFERENCE, wanted.show(), place);
    wanted
}
