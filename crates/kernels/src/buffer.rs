//! Zeroed memory for weights and caches: aligned to cache lines, mapped lazily.
//!
//! A plain `Vec<[f32; 16]>` starts at 16 bytes past a page, and then every 64-byte load crosses a
//! line; asking the allocator for 64-byte alignment makes it write the zeros, and then the whole KV
//! cache is resident from the start. So: zeroed bytes from `calloc`, and the first aligned one of
//! them. Must not hold anything that has a destructor or an invalid bit pattern.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

/// Types for which every bit pattern is a value, zero included, and whose alignment is at most 64.
///
/// # Safety
/// Exactly that; and no destructor, no padding, no references.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers and arrays of them have no padding and no invalid bit pattern.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

const LINE: usize = 64;

/// `len` values of `T`, zero at first, the first on a cache line's start.
pub(crate) struct Buffer<T> {
    bytes: Vec<u8>,
    offset: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros. Pages are touched only when written.
    ///
    /// # Panics
    /// When the size in bytes overflows.
    #[allow(clippy::expect_used)] // an allocation past `usize` is the caller's fault, as for `Vec`
    pub(crate) fn zeroed(len: usize) -> Self {
        let size = len
            .checked_mul(size_of::<T>())
            .and_then(|n| n.checked_add(LINE))
            .expect("buffer size overflows usize");
        let bytes = vec![0u8; size];
        let offset = bytes.as_ptr().align_offset(LINE);
        assert!(offset < LINE && align_of::<T>() <= LINE);
        Self { bytes, offset, len, of: PhantomData }
    }

    /// [`Buffer::zeroed`], which will all be written, and then read over and over: of pages as large as
    /// the system has, if it grants them (Linux' transparent huge pages).
    ///
    /// # Panics
    /// As [`Buffer::zeroed`].
    pub(crate) fn in_huge_pages(len: usize) -> Self {
        let buffer = Self::zeroed(len);
        advise_huge_pages(&buffer.bytes);
        buffer
    }

    /// Sees to `len` values at least. What the buffer held is lost when it grows.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeroed(len);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

/// Asks the system for pages as large as it has for `buffer`'s memory, before that is touched.
fn advise_huge_pages<T>(buffer: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        let page = rustix::param::page_size();
        let start = buffer.as_ptr().cast::<u8>();
        let skip = start.align_offset(page);
        let size = (buffer.capacity() * size_of::<T>()).saturating_sub(skip) / page * page;
        if size > 0 {
            let start = start.wrapping_add(skip).cast_mut();
            // SAFETY: the range is within the vector's memory, and the advice changes nothing that it
            // holds. A refusal is no error: small pages do.
            let _ = unsafe {
                rustix::mm::madvise(start.cast(), size, rustix::mm::Advice::LinuxHugepage)
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// `Vec::resize` with zeros, in huge pages where the system grants them: for activations, of which a step
/// writes every row, each of them pages away from the next.
pub fn resize_in_huge_pages<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.capacity() < len {
        let mut larger = Vec::with_capacity(len);
        advise_huge_pages(&larger);
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.resize(len, T::default());
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `offset + len * size_of::<T>() <= bytes.len()` by `zeroed`, which also made the
        // start aligned for `T`; the bytes are initialised, and `T: Plain` takes any of them.
        // `bytes` is never resized, so its storage does not move.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(self.offset).cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the view unique.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.bytes.as_mut_ptr().add(self.offset).cast(),
                self.len,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_is_zero() {
        let ways = [Buffer::<[f32; 16]>::zeroed, Buffer::in_huge_pages];
        for (len, way) in
            [0, 1, 7, 1000, 100_000].into_iter().flat_map(|len| ways.map(|way| (len, way)))
        {
            let mut buffer = way(len);
            assert_eq!(buffer.as_ptr() as usize % LINE, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().flatten().all(|&x| x == 0.0));
            buffer.iter_mut().for_each(|lanes| lanes[3] = 1.0);
            assert_eq!(buffer.bytes(), len * 64);
        }
    }

    #[test]
    fn a_vector_grows_and_keeps_what_it_has() {
        let mut buffer = vec![1.0f32, 2.0];
        for len in [2, 3, 5_000_000, 7] {
            resize_in_huge_pages(&mut buffer, len);
            assert_eq!(buffer.len(), len);
            assert!(buffer[..2] == [1.0, 2.0] && buffer[2..].iter().all(|&x| x == 0.0));
        }
    }
}
