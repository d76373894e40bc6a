//! Whether the server takes requests.

use std::sync::Mutex;
use std::sync::PoisonError;

use super::error::Failure;

/// The server's state; it only ever moves downwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Ready,
    /// SIGTERM or SIGINT came: what is under way is finished, nothing new begins.
    Draining,
    /// The process is about to end.
    Failed(Failure),
}

#[derive(Debug)]
pub(crate) struct Health(Mutex<State>);

impl Health {
    pub fn ready() -> Self {
        Self(Mutex::new(State::Ready))
    }

    pub fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on to `state`, unless it is past it already.
    pub fn lower(&self, state: State) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (*current).max(state);
    }
}
