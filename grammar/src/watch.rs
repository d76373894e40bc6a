//! When a compilation shall end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{GrammarError, Limits};

/// How long the calling thread has computed. Beside busy engines a compilation waits more than it computes, and is not
/// to be refused for that.
pub(crate) fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// Looked at between the stages of a compilation, and within those that grow with more than the text.
pub(crate) struct Watch<'a> {
    begun: Duration,
    pub limits: &'a Limits,
    pub cancelled: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    pub fn new(limits: &'a Limits, cancelled: &'a AtomicBool) -> Self {
        Self { begun: computed(), limits, cancelled }
    }

    /// # Errors
    /// [`GrammarError::Cancelled`], or [`GrammarError::Limit`] when the time is over.
    pub fn check(&self) -> Result<(), GrammarError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(GrammarError::Cancelled);
        }
        let (spent, limit) = (computed().saturating_sub(self.begun), self.limits.time);
        if spent > limit {
            let (spent, limit) = (format!("{spent:.1?}"), format!("{limit:.1?}"));
            return Err(GrammarError::limit("compile time", spent, limit));
        }
        Ok(())
    }
}
