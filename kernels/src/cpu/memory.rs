//! Device memory: zeroed, aligned, and in huge pages where it is large.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use half::{bf16, f16};

use crate::KernelError;

/// A cache line, and the widest vector.
const LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// Types for which any bit pattern, zero in particular, is a value.
///
/// # Safety
/// As said, and the type has no padding and needs no more alignment than a cache line.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: floating-point numbers; `half`'s are transparent over `u16`.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f16 {}
// SAFETY: as above.
unsafe impl Plain for bf16 {}
// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}

/// An owned array, zeroed at first, aligned to a cache line.
pub(crate) struct Memory<T> {
    allocation: Option<(NonNull<u8>, Layout)>,
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its allocation alone, as a `Vec` does.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T: Plain> Memory<T> {
    /// Memory for `len` elements; `what` names it in the error.
    pub(crate) fn zeroed(what: &'static str, len: usize) -> Result<Self, KernelError> {
        Self::zeroed_in(what, len, HUGE_PAGE)
    }

    /// As [`Memory::zeroed`], in huge pages where it is of so many bytes at least.
    fn zeroed_in(what: &'static str, len: usize, huge_from: usize) -> Result<Self, KernelError> {
        let bytes = len.saturating_mul(size_of::<T>());
        let out_of_memory = || KernelError::OutOfMemory { what, bytes };
        let align = if bytes >= huge_from { HUGE_PAGE } else { LINE };
        // The allocator is asked for no alignment of its own: only then does it take large blocks zeroed from the
        // kernel instead of touching every page before the huge-page advice below.
        let size = bytes.checked_add(align).ok_or_else(out_of_memory)?;
        let layout = Layout::from_size_align(size, align_of::<u64>()).map_err(|_| out_of_memory())?;
        // SAFETY: `size >= align > 0`.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        let skip = base.addr().get().next_multiple_of(align) - base.addr().get();
        // SAFETY: `skip < align`, so `start..start + bytes` lies in the allocation.
        let start = unsafe { base.add(skip) };
        if align == HUGE_PAGE {
            advise_huge_pages(start, bytes);
        }
        Ok(Self { allocation: Some((base, layout)), start: start.cast(), len, owns: PhantomData })
    }

    /// As [`Memory::zeroed`], and takes the pages now, so that running out of memory shows here and not under load.
    pub(crate) fn committed(what: &'static str, len: usize) -> Result<Self, KernelError> {
        let memory = Self::zeroed(what, len)?;
        for offset in (0..len * size_of::<T>()).step_by(PAGE) {
            // SAFETY: inside the allocation, which nobody else has and which still holds zeros. Volatile, or the store
            // of a zero over a zero would be left out.
            unsafe { memory.start.cast::<u8>().add(offset).write_volatile(0) };
        }
        Ok(memory)
    }
}

impl<T> Default for Memory<T> {
    /// No elements, no allocation.
    fn default() -> Self {
        Self { allocation: None, start: NonNull::dangling(), len: 0, owns: PhantomData }
    }
}

impl<T> std::ops::Deref for Memory<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned, and `len` elements follow it, initialised (zero is a value of a `Plain` type).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> std::ops::DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        if let Some((base, layout)) = self.allocation {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(base.as_ptr(), layout) }
        }
    }
}

/// Fewer, larger pages: streaming through weights then misses the TLB less. Only advice, so failure is fine.
fn advise_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: whole pages of our own allocation (`start` is aligned to a huge page, the length rounded down).
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes / PAGE * PAGE, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// Activations and parameters of the CPU device: f32.
pub struct CpuBuf(Memory<f32>);

impl CpuBuf {
    pub(crate) fn zeroed(len: usize) -> Result<Self, KernelError> {
        // Seldom used to the last row: a huge page would be there as a whole for its first few.
        Memory::zeroed_in("activations", len, 8 * HUGE_PAGE).map(Self)
    }
}

impl std::ops::Deref for CpuBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl std::ops::DerefMut for CpuBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_and_aligned() {
        for len in [0, 1, 1000, HUGE_PAGE / 4, HUGE_PAGE / 4 + 1, 3 * HUGE_PAGE] {
            for memory in [Memory::<f32>::zeroed("test", len), Memory::committed("test", len)] {
                let memory = memory.unwrap();
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|v| v.to_bits() == 0));
                let align = if len * 4 >= HUGE_PAGE { HUGE_PAGE } else { LINE };
                assert_eq!(memory.as_ptr().addr() % align, 0);
            }
        }
    }
}
