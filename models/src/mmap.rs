//! The one place that maps files into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

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
