//! Room on the disk for what an upload is about to write. A file system that hands out blocks page by
//! page spends a third of a write's time on that; many at once cost next to nothing.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes of room ahead of an upload's end, at most.
const MOST: u64 = 16 * 1024 * 1024;

/// What one request has taken beyond the bytes that it has written. A request that breaks off leaves
/// it with the bytes, until the upload goes on or is removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Where it ends in the file.
    end: u64,
}

impl Room {
    /// Before `length` bytes at `from`, of a request that began at `start`: as much again as it has
    /// written, so that small uploads take none.
    pub(super) fn take(&mut self, file: &File, start: u64, from: u64, length: u64) {
        let written = from.saturating_sub(start);
        if written == 0 || from + length <= self.end {
            return;
        }
        let ahead = written.min(MOST).max(length);
        self.end = match fallocate(file, FallocateFlags::KEEP_SIZE, from, ahead) {
            Ok(()) => from + ahead,
            // The file system cannot, or is full: the write itself will tell.
            Err(_) => u64::MAX,
        };
    }

    /// What is left of it, at the end of a file of `length` bytes.
    pub(super) fn give_back(self, file: &File, length: u64) -> io::Result<()> {
        if self.end > length { file.set_len(length) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_taken_ahead_and_given_back() {
        let file = tempfile::tempfile().unwrap();
        let on_disk = || file.metadata().unwrap().blocks() * 512;
        let (mut room, start) = (Room::default(), 5);
        let mut taken = Vec::new();
        for number in 0..40 {
            let from = start + number * MIB;
            room.take(&file, start, from, MIB);
            file.write_all_at(&vec![1; MIB as usize], from).unwrap();
            taken.extend((taken.last() != Some(&room.end)).then_some(room.end));
        }
        let length = start + 40 * MIB;
        assert_eq!(file.metadata().unwrap().len(), length);
        let ends = [2, 4, 8, 16, 32, 48].map(|end| end * MIB + start);
        assert_eq!(taken, [&[0][..], &ends].concat());
        assert!(on_disk() >= 48 * MIB, "{}", on_disk());
        room.give_back(&file, length).unwrap();
        assert!(on_disk() < length + MIB, "{}", on_disk());
        assert_eq!(file.metadata().unwrap().len(), length);
    }

    #[test]
    fn no_room_where_there_is_none() {
        let (mut room, full) = (Room::default(), File::options().write(true).open("/dev/full"));
        room.take(&full.unwrap(), 0, 10, 10);
        assert_eq!(room.end, u64::MAX);
    }
}
