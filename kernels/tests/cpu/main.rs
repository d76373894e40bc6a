//! Every op of the CPU device, on every instruction set of this machine, against plain f64 loops.

// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attention;
mod common;
mod linear;
mod shapes;
mod small_ops;
