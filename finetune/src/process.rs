//! The worker as a process: its priority, its memory, and how it is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::FinetuneError;

/// Niceness that an unprivileged process may give itself.
const NICE: std::ops::RangeInclusive<i32> = 0..=19;
/// Below this not even the dataset could be read.
const LEAST_MEMORY: u64 = 64 << 20;
/// What a shell reports for a process that SIGINT ended.
const INTERRUPTED: i32 = 128 + SIGINT;

/// Lowers this process's priority and bounds its memory: what it allocates, not the files that it maps. An allocation beyond
/// the bound ends the process.
///
/// # Errors
/// A niceness or a bound out of range, or what the system says.
pub fn confine(nice: i32, memory_bytes: Option<u64>) -> Result<(), FinetuneError> {
    if !NICE.contains(&nice) {
        return Err(FinetuneError::field("nice", format!("is {nice}, expected 0 to {}", NICE.end())));
    }
    setpriority_process(None, nice).map_err(std::io::Error::from)?;
    if let Some(bytes) = memory_bytes {
        if bytes < LEAST_MEMORY {
            let message = format!("is {bytes}, expected at least {LEAST_MEMORY}");
            return Err(FinetuneError::field("memory_limit_bytes", message));
        }
        let bytes = getrlimit(Resource::Data).maximum.map_or(bytes, |hard| hard.min(bytes));
        setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })
            .map_err(std::io::Error::from)?;
    }
    Ok(())
}

/// Bytes that this machine can give without swapping; `None` where it does not say.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether the training was asked to stop. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asked by SIGTERM and SIGINT; a second SIGINT ends the process at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn on_signals() -> Result<Self, FinetuneError> {
        let stop = Self::default();
        signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&stop.0))?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`FinetuneError::Interrupted`] once asked.
    pub fn check(&self) -> Result<(), FinetuneError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(FinetuneError::Interrupted),
            false => Ok(()),
        }
    }
}
