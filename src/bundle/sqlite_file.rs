//! Quay's SQLite file, and what a mirror-registry around it makes of our switches (contract §12.1).
//!
//! The file is read, and never opened with SQLite: that would leave files behind, and so change
//! what it looks at.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};

use super::ini::Ini;
use super::supervisord::PYTHONS_MIRROR_WORKER;
use crate::switches::{CONFIG_FILE, Content, Reading, SECTION, SWITCH_FILE};

/// What every SQLite database begins with (its file format, section 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";

/// File systems whose locks and shared memory end at this machine's border (statfs(2)).
const REMOTE: [(u32, &str); 10] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
];

/// That it is a database, and how it keeps its journal.
pub(super) fn header(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| {
        format!("{}: {error}; is it mounted, and is DB_URI right?", path.display())
    };
    let mut header = Vec::new();
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut header)).map_err(failed)?;
    let path = path.display();
    if header.is_empty() {
        return Err(format!("{path} is empty: start Quay, so that it makes its tables"));
    }
    // The versions of the format that writers and readers have to know: 1, or 2 with such a log.
    let versions = header.strip_prefix(MAGIC).and_then(|rest| rest.get(2..4));
    match versions {
        Some([2, 2]) => Ok(format!("{path}, with a write-ahead log")),
        Some([1, 1]) => Ok(format!(
            "{path}, without a write-ahead log: it works, but who writes keeps readers waiting; \
             releases of Quay that want the log switch it on themselves"
        )),
        Some([_, 1 | 2]) => {
            Err(format!("{path} is read-only by its own header: restore it from a backup"))
        }
        _ => Err(format!("{path} is no SQLite database that we can read: correct DB_URI")),
    }
}

/// That we may write: the file, what lies beside it, and the folder for what will.
pub(super) fn writable(path: &Path) -> Result<String, String> {
    let us = rustix::process::getuid().as_raw();
    let may = |path: &Path, wanted: Access| {
        access(path, wanted).map_err(|error| {
            format!(
                "uid {us} may not write {}: {error}; give it to that user (mirror-registry mounts \
                 /sqlite with :U), and mount it writable",
                path.display()
            )
        })
    };
    may(path, Access::READ_OK | Access::WRITE_OK)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    may(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    for suffix in ["-wal", "-shm"] {
        let beside = beside(path, suffix);
        // They come and go with those who have the database open.
        if beside.exists() {
            may(&beside, Access::READ_OK | Access::WRITE_OK)?;
        }
    }
    Ok(format!("by uid {us}; {} too, for its -wal and -shm", folder.display()))
}

/// That Python and we can lock it against each other.
pub(super) fn file_system(path: &Path) -> Result<String, String> {
    let found = statfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Its width differs from one architecture to the next; 32 bits are used.
    let kind = found.f_type as u32;
    match REMOTE.iter().find(|(remote, _)| *remote == kind) {
        None => Ok(format!("local (type {kind:#x})")),
        Some((_, name)) => Err(format!(
            "{} lies on {name}, where SQLite's locks cannot be relied upon: move it to a local disk",
            path.display()
        )),
    }
}

/// Whether Quay mirrors: said, not complained about.
pub(super) fn mirroring(programs: &Ini) -> String {
    match programs.autostart(PYTHONS_MIRROR_WORKER) {
        true => "Quay starts its repomirrorworker".to_owned(),
        false => "Quay does not start its repomirrorworker, as mirror-registry has it; \
                  WORKER_OWNER_REPOMIRRORWORKER=rust runs ours, \
                  QUAY_OVERRIDE_SERVICES=repomirrorworker=true Python's"
            .to_owned(),
    }
}

/// That switches are where neither `install` nor `upgrade` of a mirror-registry loses them.
pub(super) fn switches(config: &Path) -> Result<String, String> {
    let (file, reading) = (config.join(SWITCH_FILE), Reading::of(config));
    let file = file.display();
    let section = format!("{SECTION}:");
    let in_config = match &reading.config.content {
        Content::Bytes(text) => {
            text.split(|b| *b == b'\n').any(|l| l.starts_with(section.as_bytes()))
        }
        _ => false,
    };
    match reading.switches.content {
        Content::Missing if in_config => Err(format!(
            "{SECTION} is in {CONFIG_FILE}, which mirror-registry's install writes anew: \
             any `quay switch set` moves it to {file}"
        )),
        Content::Missing => Ok(match access(config, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => format!("none yet; `quay switch set` makes {file}"),
            Err(error) => format!("none yet; write {file} from outside ({error})"),
        }),
        _ => Ok(format!("in {file}, which survives install and upgrade")),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_tells_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quay.db");
        assert!(header(&path).unwrap_err().contains("is it mounted"));
        let with = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            header(&path)
        };
        assert!(with(b"").unwrap_err().contains("is empty"));
        assert!(with(b"something else, long enough to be one").unwrap_err().contains("DB_URI"));
        assert!(with(MAGIC).unwrap_err().contains("DB_URI"));
        let mut bytes = [MAGIC, &[16, 0, 2, 2], &[0; 80]].concat();
        assert!(with(&bytes).unwrap().contains("with a write-ahead log"));
        bytes[18..20].fill(1);
        assert!(with(&bytes).unwrap().contains("without a write-ahead log"));
        bytes[18] = 3;
        assert!(with(&bytes).unwrap_err().contains("read-only"));
        bytes[19] = 3;
        assert!(with(&bytes).unwrap_err().contains("DB_URI"));
        assert_eq!(file_system(&path).unwrap().split(' ').next(), Some("local"));
    }

    #[test]
    fn switches_belong_into_a_file_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name, text| fs::write(folder.path().join(name), text).unwrap();
        write(CONFIG_FILE, "SERVER_HOSTNAME: q\n");
        assert!(switches(folder.path()).unwrap().starts_with("none yet"));
        write(CONFIG_FILE, "SERVER_HOSTNAME: q\nMIGRATION_SWITCHES:\n  version: 1\n");
        assert!(switches(folder.path()).unwrap_err().contains("quay switch set"));
        write(SWITCH_FILE, "version: 1\n");
        assert!(switches(folder.path()).unwrap().contains("survives"));
    }
}
