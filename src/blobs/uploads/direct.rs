//! Writes past the page cache. Bytes of a large upload are not asked for at once: so they are not
//! copied once more, push nothing out that is asked for, and leave nothing for the end to flush.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{OFlags, fcntl_setfl, fstatfs};
use rustix::io::{Errno, pwrite};

/// What such a write begins and ends at multiples of, in bytes, in memory and in the file: few disks
/// have longer blocks, and those refuse (open(2), `O_DIRECT`).
pub const ALIGNMENT: usize = 4096;

/// Bytes in such a write, at least: each waits for the disk, which puts shorter ones of many uploads
/// together when it can take its time.
const SHORTEST: usize = 256 * 1024;

/// `statfs.f_type` of ext4 and XFS (statfs(2)). Others take such writes and copy all the same, or
/// wait for a server's disk each time.
const BUILT_FOR: [u64; 2] = [0xef53, 0x5846_5342];

/// Writes all of `bytes` at `at`, by way of the page cache where it has to.
pub(super) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let written = write(file, bytes, at)?;
    file.write_all_at(bytes.get(written..).unwrap_or_default(), at + written as u64)
}

fn is_built_for(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| BUILT_FOR.contains(&(found.f_type as u64)))
}

/// Returns how many of the bytes were written.
fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    let can = suits(bytes, at) && is_built_for(file);
    if !can || fcntl_setfl(file, OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let written = pwrite(file, bytes, at);
    // It is the only flag that can be on: the file is our own, and opened without others.
    fcntl_setfl(file, OFlags::empty())?;
    match written {
        Err(Errno::INVAL | Errno::INTR) => Ok(0),
        written => Ok(written?),
    }
}

fn suits(bytes: &[u8], at: u64) -> bool {
    bytes.len() >= SHORTEST
        && bytes.as_ptr().align_offset(ALIGNMENT) == 0
        && bytes.len().is_multiple_of(ALIGNMENT)
        && at.is_multiple_of(ALIGNMENT as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fcntl_getfl;

    /// Bytes that begin at a multiple of [`ALIGNMENT`].
    fn with_aligned(test: impl Fn(&[u8])) {
        let noise: Vec<u8> = (0..2 * SHORTEST).map(|number| (number % 251) as u8).collect();
        test(&noise[noise.as_ptr().align_offset(ALIGNMENT)..]);
    }

    #[test]
    fn whatever_is_written_is_there() {
        with_aligned(|noise| {
            for (bytes, at) in [
                (&noise[..SHORTEST], 0),
                (&noise[..SHORTEST + ALIGNMENT], ALIGNMENT as u64),
                (&noise[..SHORTEST + 1], 0),
                (&noise[1..SHORTEST + 1], 0),
                (&noise[..SHORTEST], 7),
                (&noise[..ALIGNMENT], 0),
                (&noise[..0], 9),
            ] {
                let file = tempfile::tempfile().unwrap();
                write_all_at(&file, bytes, at).unwrap();
                let mut found = vec![0; bytes.len()];
                file.read_exact_at(&mut found, at).unwrap();
                assert!(found == bytes, "{} at {at}", bytes.len());
                assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
            }
        });
    }

    #[test]
    fn long_writes_go_past_the_page_cache() {
        let file = tempfile::tempfile().unwrap();
        let kind = fstatfs(&file).unwrap().f_type;
        let (ext4, xfs) = (kind == 0xef53, kind == 0x5846_5342);
        assert_eq!(is_built_for(&file), ext4 || xfs);
        with_aligned(|noise| {
            let long = &noise[..SHORTEST + ALIGNMENT];
            if ext4 || xfs {
                assert_eq!(write(&file, long, 0).unwrap(), long.len());
            }
            if ext4 {
                let error = write(&file, long, 1 << 60).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            }
            for (bytes, at) in
                [(&long[..SHORTEST - ALIGNMENT], 0), (&long[..SHORTEST + 1], 0), (long, 1)]
            {
                assert_eq!(write(&file, bytes, at).unwrap(), 0, "{} at {at}", bytes.len());
            }
        });
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        with_aligned(|noise| {
            let error = write_all_at(&full, &noise[..SHORTEST], 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        });
    }
}
