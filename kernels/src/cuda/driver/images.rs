//! The kernels as they lie in the binary. `build.rs` writes the tables.

/// A file of `csrc` as text.
pub(super) struct Source {
    pub name: &'static str,
    pub text: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/cuda/images.rs"));
