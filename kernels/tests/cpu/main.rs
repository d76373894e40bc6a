//! Every op of the CPU device, on every instruction set of this machine, against plain f64 loops.

mod attention;
mod common;
mod linear;
mod shapes;
mod small_ops;
