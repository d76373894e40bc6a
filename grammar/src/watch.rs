//! When a compilation shall end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::{GrammarError, Limits};

/// Looked at between the stages of a compilation, and within those that grow with more than the text.
pub(crate) struct Watch<'a> {
    pub begun: Instant,
    pub limits: &'a Limits,
    pub cancelled: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    pub fn new(limits: &'a Limits, cancelled: &'a AtomicBool) -> Self {
        Self { begun: Instant::now(), limits, cancelled }
    }

    /// # Errors
    /// [`GrammarError::Cancelled`], or [`GrammarError::Limit`] when the time is over.
    pub fn check(&self) -> Result<(), GrammarError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(GrammarError::Cancelled);
        }
        let (spent, limit) = (self.begun.elapsed(), self.limits.time);
        if spent > limit {
            let (spent, limit) = (format!("{spent:.1?}"), format!("{limit:.1?}"));
            return Err(GrammarError::limit("compile time", spent, limit));
        }
        Ok(())
    }
}
