//! Requests that wait, for whichever model and whatever for.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many wait, and how many may.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    most: usize,
}

/// A request among those that wait.
pub(crate) struct Waiting<'a>(&'a Queue);

impl Queue {
    pub fn new(most: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), most }
    }

    /// A place among those that wait; `None` where all are taken.
    pub fn enter(&self) -> Option<Waiting<'_>> {
        let place = Waiting(self);
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        (before < self.most).then_some(place)
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may() {
        let queue = Queue::new(2);
        let (first, second) = (queue.enter(), queue.enter());
        assert!(first.is_some() && second.is_some() && queue.enter().is_none());
        assert_eq!(queue.waiting(), 2);
        drop(first);
        assert!(queue.enter().is_some());
        assert_eq!(queue.waiting(), 1);
    }
}
