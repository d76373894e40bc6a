//! Keeps one child process alive: restarts it when it crashes, gives up when it crashes without ever getting ready,
//! and ends it in an orderly way when asked to.

mod output;
mod policy;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use policy::{Policy, Verdict};

use output::Tail;
use policy::History;

/// What is kept alive.
pub trait Service {
    /// Starts the process; its stdout and stderr, where piped, are passed through.
    ///
    /// # Errors
    /// Whatever keeps the process from starting.
    fn spawn(&mut self) -> io::Result<Child>;

    /// Whether the process that was last spawned serves. Asked until it first says yes.
    fn is_ready(&mut self) -> bool;
}

/// What happens to the launcher while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM: let the child finish what it has.
    Terminate,
    /// SIGINT: the same, and the second one ends the child at once.
    Interrupt,
    /// SIGCHLD: look at the child.
    ChildChanged,
}

const POLL_UNTIL_READY: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(500);

/// How one life of the child ended.
enum Ended {
    Exited { status: ExitStatus, was_ready: bool },
    StopAsked,
}

/// Runs `service` until it is stopped, ends by itself or is given up.
///
/// Returns the exit status for the launcher: 0 after an orderly end, else what the child said, or 1.
pub fn supervise(service: &mut dyn Service, events: &Receiver<Event>, policy: &Policy) -> u8 {
    let mut history = History::default();
    loop {
        let mut child = match service.spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::error!("Cannot start the router: {error}");
                return 1;
            }
        };
        let tail = Tail::follow(&mut child);
        let started = Instant::now();
        let (status, was_ready) = match watch(service, &mut child, events) {
            Ok(Ended::StopAsked) => return drain(&mut child, events, policy),
            Ok(Ended::Exited { status, was_ready }) => (status, was_ready),
            Err(error) => {
                tracing::error!("Cannot wait for the router: {error}");
                kill(&mut child);
                return 1;
            }
        };
        tail.finish();
        match history.judge(status, was_ready, started.elapsed(), policy) {
            Verdict::Done => {
                tracing::info!("Router exited");
                return 0;
            }
            Verdict::Refused { code } => {
                tracing::error!("Router exited with status {code} before it was ready; not restarting it");
                return code;
            }
            Verdict::GiveUp { crashes } => {
                tracing::error!(
                    "Router crashed {crashes} times in a row without getting ready ({status}); giving up. \
                     Its last log lines:\n{}",
                    tail.last_lines()
                );
                return 1;
            }
            Verdict::Restart { after } => {
                tracing::error!("Router crashed ({status}); restarting in {:.1} s", after.as_secs_f32());
                if stop_asked_within(events, after) {
                    return 0;
                }
            }
        }
    }
}

fn watch(service: &mut dyn Service, child: &mut Child, events: &Receiver<Event>) -> io::Result<Ended> {
    let mut ready = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Exited { status, was_ready: ready });
        }
        if !ready && service.is_ready() {
            ready = true;
            tracing::info!("Router is ready (process {})", child.id());
        }
        match next_event(events, if ready { POLL } else { POLL_UNTIL_READY }) {
            Some(Event::Terminate | Event::Interrupt) => return Ok(Ended::StopAsked),
            Some(Event::ChildChanged) | None => {}
        }
    }
}

fn next_event(events: &Receiver<Event>, timeout: Duration) -> Option<Event> {
    match events.recv_timeout(timeout) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(timeout);
            None
        }
    }
}

fn stop_asked_within(events: &Receiver<Event>, duration: Duration) -> bool {
    let deadline = Instant::now() + duration;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        if matches!(next_event(events, left), Some(Event::Terminate | Event::Interrupt)) {
            return true;
        }
    }
}

/// SIGTERM, then patience, then SIGKILL.
fn drain(child: &mut Child, events: &Receiver<Event>, policy: &Policy) -> u8 {
    tracing::info!("Terminating the router; requests in flight get {} s", policy.drain.as_secs());
    signal(child, Signal::TERM);
    let deadline = Instant::now() + policy.drain + policy.margin;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return drained(status),
            Ok(None) => {}
            Err(error) => {
                tracing::error!("Cannot wait for the router: {error}");
                return 1;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::error!("Router did not end in time; killing it");
            kill(child);
            return 1;
        }
        if next_event(events, left.min(POLL)) == Some(Event::Interrupt) {
            tracing::warn!("Interrupted; killing the router");
            kill(child);
            return 1;
        }
    }
}

fn drained(status: ExitStatus) -> u8 {
    match status.code() {
        Some(0) => {
            tracing::info!("Router terminated");
            0
        }
        // Nothing was under way: until it is ready it has no handler of its own.
        None if status.signal() == Some(Signal::TERM.as_raw()) => {
            tracing::info!("Router terminated while it was starting");
            0
        }
        code => {
            tracing::error!("Router ended with {status} when asked to terminate");
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        }
    }
}

/// The child was not waited for yet, so the process id is still its own.
fn signal(child: &Child, signal: Signal) {
    if let Err(error) = kill_process(Pid::from_child(child), signal) {
        tracing::warn!("Cannot signal the router: {error}");
    }
}

fn kill(child: &mut Child) {
    signal(child, Signal::KILL);
    if let Err(error) = child.wait() {
        tracing::warn!("Cannot wait for the router: {error}");
    }
}
