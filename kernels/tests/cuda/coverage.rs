//! Whether the tests of this program, all together, ran every kernel.
//!
//! Tests run in any order and at once, so only the end of the process knows: this is no test of its own, but makes the
//! program fail.
#![allow(unsafe_code)]

use std::sync::Once;

use weirgate_kernels::cuda::Emulator;

/// What libtest's own exit status is when a test fails.
const FAILED: i32 = 101;

/// From here on, the end of the process looks at what ran, if all tests were asked for.
pub fn watch() {
    static WATCH: Once = Once::new();
    let names = |arg: String| !arg.starts_with('-') || arg.starts_with("--skip") || arg == "--exact";
    if !std::env::args().skip(1).any(names) {
        // SAFETY: the function may run at any time.
        WATCH.call_once(|| assert_eq!(unsafe { libc::atexit(check) }, 0));
    }
}

extern "C" fn check() {
    let never: Vec<&str> = Emulator::never_run().map(|kernel| kernel.name()).collect();
    if !never.is_empty() {
        eprintln!("no test runs these kernels: {never:?}");
        // SAFETY: ends the process, whose output was flushed before this was called.
        unsafe { libc::_exit(FAILED) }
    }
}
