//! Every op of the CPU device, on every instruction set of this machine, against plain f64 loops.

// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod attention;
#[path = "../shared/common.rs"]
mod common;
mod devices;
#[path = "../shared/encoder.rs"]
mod encoder;
mod linear;
mod low_rank;
#[path = "../shared/paged.rs"]
mod paged;
#[path = "../shared/products.rs"]
mod products;
#[path = "../shared/references.rs"]
mod references;
mod shapes;
mod small_ops;
#[path = "../shared/stored.rs"]
mod stored;
