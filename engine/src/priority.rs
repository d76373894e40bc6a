//! Threads that must not hold up the forward pass.

/// Lowers the calling thread's priority by so many steps of niceness. Where the system has no priorities of threads,
/// nothing happens.
pub fn lower_priority(steps: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, steps) {
        tracing::debug!(%error, "the priority of a thread stays as it is");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = steps;
}
