//! The emulation of the CUDA kernels: the host's C++ compiler builds every `.cu` file.

use std::path::PathBuf;

/// Compiles `sources` (all of `csrc/*.cu`) for the host, into a static library that no binary uses unless it refers to it.
pub fn build(sources: &[PathBuf]) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // Neither exceptions nor the standard library: nothing more is linked.
        .flags(["-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fno-stack-protector"])
        // Products and sums are fused where a kernel says so, and nowhere else.
        .flag("-ffp-contract=off")
        .flag_if_supported("-Wno-unknown-pragmas")
        .flags(["-x", "c++"])
        .cpp_link_stdlib(None)
        .opt_level(2)
        .include("csrc")
        .warnings(true)
        .extra_warnings(true)
        .files(["csrc/emulate/emulate.cpp", "csrc/emulate/hopper.cpp"])
        .files(sources);
    build.compile("weirgate_emulated_kernels");
}
