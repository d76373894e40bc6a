//! The one place that maps files into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Mmap, UncheckedAdvice};

/// Maps `file` read-only.
///
/// # Errors
/// The operating system's, for example when the file cannot be mapped or the address space is exhausted.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this process, and nothing here writes checkpoints. Another
    // process that overwrites or truncates the file while it is served can change the bytes or end this process
    // with SIGBUS; like every engine that maps weights we require that a served checkpoint is left alone. All
    // bytes are valid `u8`, and every offset into the mapping is checked against its length.
    unsafe { Mmap::map(file) }
}

/// Gives back the pages of `range`, where the system knows how. They come back from the file when they are read again.
pub(crate) fn release(map: &Mmap, range: Range<usize>) {
    if range.end <= map.len() && !range.is_empty() {
        // SAFETY: the mapping is of a file and read-only, so a page that is dropped is read from the file again, with
        // the same bytes. It is only advice: that it may fail is no matter.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}
