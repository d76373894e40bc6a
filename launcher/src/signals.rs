//! Signals as events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::LauncherError;
use crate::supervise::Event;

/// What shells report for a process that ended by a signal.
const SIGNAL_EXIT_BASE: i32 = 128;

/// SIGTERM and SIGINT end this process at once until [`Self::into_events`]: before there is a router, nothing has to
/// be drained. Process 1 of a container would otherwise ignore both.
pub struct StartPhase {
    starting: Arc<AtomicBool>,
}

impl StartPhase {
    /// # Errors
    /// [`LauncherError::Signals`].
    pub fn begin() -> Result<Self, LauncherError> {
        let starting = Arc::new(AtomicBool::new(true));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(
                signal,
                SIGNAL_EXIT_BASE + signal,
                Arc::clone(&starting),
            )
            .map_err(LauncherError::Signals)?;
        }
        Ok(Self { starting })
    }

    /// From here on signals arrive in the returned channel.
    ///
    /// # Errors
    /// [`LauncherError::Signals`].
    pub fn into_events(self) -> Result<Receiver<Event>, LauncherError> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD]).map_err(LauncherError::Signals)?;
        self.starting.store(false, Ordering::SeqCst);
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let event = match signal {
                    SIGTERM => Event::Terminate,
                    SIGINT => Event::Interrupt,
                    _ => Event::ChildChanged,
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(events)
    }
}
