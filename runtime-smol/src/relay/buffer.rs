//! Buffers that are borrowed while bytes are in hand and given back before waiting.
//!
//! Each thread keeps the one that was given back last: a relay that moves bytes borrows, gives back
//! and borrows again. A buffer may be given back on another thread than the one it came from.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The size of a buffer that is kept, in bytes. A datagram and its frame fit.
pub(crate) const STANDARD: usize = 64 * 1024;

/// The largest buffer, in bytes.
const LARGEST: usize = 1024 * 1024;

#[derive(Default)]
struct Cache {
    free: Option<Box<[u8]>>,
    #[cfg(test)]
    lent: isize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// A borrowed buffer; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// A buffer of `size` bytes with unspecified contents. Only those of [`STANDARD`] size are kept.
    pub(crate) fn borrow(size: usize) -> Self {
        let size = size.clamp(1, LARGEST);
        let kept = with_cache(|cache| {
            #[cfg(test)]
            {
                cache.lent += 1;
            }
            if size == STANDARD {
                cache.free.take()
            } else {
                None
            }
        });
        Self(kept.unwrap_or_else(|| vec![0; size].into_boxed_slice()))
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        #[cfg(test)]
        with_cache(|cache| cache.lent += 1);
        Self(bytes.into_boxed_slice())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        with_cache(|cache| {
            #[cfg(test)]
            {
                cache.lent -= 1;
            }
            if bytes.len() == STANDARD {
                cache.free = Some(bytes);
            }
        });
    }
}

/// The default when the thread is ending and its cache is gone.
fn with_cache<T: Default>(with: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE
        .try_with(|cache| with(&mut cache.borrow_mut()))
        .unwrap_or_default()
}

/// Buffers borrowed on this thread and not given back on it.
#[cfg(test)]
pub(crate) fn lent() -> isize {
    with_cache(|cache| cache.lent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps() -> bool {
        with_cache(|cache| cache.free.is_some())
    }

    #[test]
    fn one_standard_buffer_is_kept_and_used_again() {
        let many: Vec<_> = (0..3).map(|_| Buffer::borrow(STANDARD)).collect();
        assert_eq!((lent(), keeps()), (3, false));
        drop(many);
        assert_eq!((lent(), keeps()), (0, true));
        let again = Buffer::borrow(STANDARD);
        assert_eq!((again.len(), keeps()), (STANDARD, false));
    }

    #[test]
    fn other_sizes_are_bounded_and_not_kept() {
        assert_eq!(Buffer::borrow(usize::MAX).len(), LARGEST);
        assert_eq!(Buffer::borrow(0).len(), 1);
        drop(Buffer::from(vec![1, 2, 3]));
        assert!(!keeps());
    }
}
