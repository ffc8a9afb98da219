//! Memory for what is on its way from clients to the storage, bounded for all uploads together. It is
//! asked of the kernel by the page, and given back: allocators keep what many at once have taken.

use std::io;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use crate::blobs::ALIGNMENT;

/// Bytes of one share.
pub(super) const SHARE: RangeInclusive<usize> = 64 * 1024..=LARGEST;
const LARGEST: usize = 1024 * 1024;

/// Bytes of all shares, beyond the smallest ones: each is this part of what is left of it.
const ALL: usize = 16 * 1024 * 1024;
const PART: usize = 8;

/// Bytes of the shares that there are.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The largest ones that nobody has.
static IDLE: Idle = Idle(Mutex::new(Vec::new()));

/// One share. Begins at a multiple of [`ALIGNMENT`], as pages do; what was there before is not wiped.
pub(super) struct Memory(Option<MmapMut>);

struct Idle(Mutex<Vec<MmapMut>>);

impl Memory {
    /// The smaller, the more there are.
    ///
    /// # Errors
    /// Where there is no memory.
    pub(super) fn share() -> io::Result<Self> {
        let more = |taken| taken + share(taken);
        let taken = TAKEN.update(Ordering::Relaxed, Ordering::Relaxed, more);
        let length = share(taken);
        let idle = if length == LARGEST { IDLE.take() } else { None };
        let pages = idle.map_or_else(|| MmapMut::map_anon(length), Ok);
        Ok(Self(Some(pages.inspect_err(|_| give_back(length))?)))
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        give_back(self.len());
        self.0.take().into_iter().for_each(|pages| IDLE.give(pages));
    }
}

fn give_back(length: usize) {
    TAKEN.fetch_sub(length, Ordering::Relaxed);
}

/// Bytes of the next share.
fn share(taken: usize) -> usize {
    let part = ALL.saturating_sub(taken) / PART;
    part.clamp(*SHARE.start(), *SHARE.end()) / ALIGNMENT * ALIGNMENT
}

impl Idle {
    /// How many are kept.
    const MOST: usize = 4;

    fn take(&self) -> Option<MmapMut> {
        self.all().pop()
    }

    fn give(&self, pages: MmapMut) {
        let mut all = self.all();
        if pages.len() == LARGEST && all.len() < Self::MOST {
            all.push(pages);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<MmapMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_shares_are_smaller_and_bounded() {
        let (mut taken, mut last) = (0, LARGEST);
        for number in 1..=1000 {
            let next = share(taken);
            assert!(SHARE.contains(&next) && next <= last && next.is_multiple_of(ALIGNMENT));
            (taken, last) = (taken + next, next);
            assert!(taken <= ALL + number * SHARE.start(), "{number} take {taken}");
        }
        assert_eq!((share(0), last), (LARGEST, *SHARE.start()));
    }

    #[test]
    fn some_of_the_largest_are_kept() {
        let (idle, pages) = (Idle(Mutex::default()), |length| MmapMut::map_anon(length).unwrap());
        assert!(idle.take().is_none());
        idle.give(pages(LARGEST / 2));
        assert!(idle.take().is_none(), "too small");
        (0..9).for_each(|_| idle.give(pages(LARGEST)));
        assert_eq!(idle.all().len(), Idle::MOST);
        assert_eq!(idle.take().map(|pages| pages.len()), Some(LARGEST));
    }

    #[test]
    fn a_share_is_whole_pages() {
        let mut share = Memory::share().unwrap();
        assert!(SHARE.contains(&share.len()));
        assert_eq!(share.as_ptr().align_offset(ALIGNMENT), 0);
        share.fill(1);
        assert!(share.iter().all(|byte| *byte == 1));
        // What nobody has any more is there for others.
        (0..1000).for_each(|_| drop(Memory::share().unwrap()));
        assert!(Memory::share().unwrap().len() > *SHARE.start());
    }
}
