//! Bytes of a body in one piece: copied once as they come, while the processor has them at hand, into
//! memory that is used again for the next ones.

use std::io;

use bytes::Bytes;

use super::memory::Memory;
use crate::blobs::ALIGNMENT;

/// A batch that is being filled.
pub(super) struct Batch {
    memory: Memory,
    filled: usize,
    /// Bytes that it takes.
    length: usize,
}

impl Batch {
    /// Whose bytes come to lie at `at` in the upload: it ends at a multiple of [`ALIGNMENT`] there.
    ///
    /// # Errors
    /// Where there is no memory.
    pub(super) fn new(at: u64) -> io::Result<Self> {
        let memory = Memory::share()?;
        let length = memory.len() - (at % ALIGNMENT as u64) as usize;
        Ok(Self { memory, filled: 0, length })
    }

    /// Takes as much of `piece` as there is room for.
    pub(super) fn take(&mut self, piece: &mut Bytes) {
        let end = self.length.min(self.filled + piece.len());
        if let Some(room) = self.memory.get_mut(self.filled..end) {
            // An empty piece that is left keeps nothing of what it was a part of.
            room.copy_from_slice(&piece.split_to(room.len()));
            self.filled = end;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.length
    }

    /// What it holds. Its memory is free again when nobody has it any more.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Batch {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_what_it_has_room_for() {
        let mut piece = Bytes::from(vec![7; 3000]);
        for at in [0, 5, 2 * ALIGNMENT as u64 - 1] {
            let mut batch = Batch::new(at).unwrap();
            let length = batch.length;
            assert_eq!((at + length as u64) % ALIGNMENT as u64, 0);
            while !batch.is_full() {
                piece = Bytes::from(vec![7; 3000]);
                batch.take(&mut piece);
            }
            assert_eq!(piece.len(), 2999 - (length - 1) % 3000);
            assert!(batch.freeze() == vec![7; length]);
        }
    }
}
