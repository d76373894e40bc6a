//! When to restart, how long to wait before it, and when to stop trying. Pure: time comes in as a duration.

use std::process::ExitStatus;
use std::time::Duration;

use weirgate_router::EXIT_STALLED;

/// Exit status of a Rust program whose main thread panicked.
const EXIT_PANIC: i32 = 101;

/// How patient the supervisor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Time that requests in flight get after SIGTERM.
    pub drain: Duration,
    /// Time on top of `drain` before SIGKILL, for the child's own shutdown.
    pub margin: Duration,
    /// Crashes in a row without getting ready after which to give up.
    pub give_up_after: u32,
    /// A child that lived this long starts a new count for the back-off.
    pub settled: Duration,
    /// Wait before the second restart; doubled for each further one.
    pub backoff: Duration,
    pub longest_backoff: Duration,
}

impl Policy {
    /// The launcher's own, for a drain time of `drain`.
    pub fn with_drain(drain: Duration) -> Self {
        Self {
            drain,
            margin: Duration::from_secs(5),
            give_up_after: 5,
            settled: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(10),
        }
    }
}

/// What to do about a child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ended on its own account with status 0.
    Done,
    /// It never got ready and says that its settings or its model are wrong: a restart would say the same.
    Refused {
        code: u8,
    },
    Restart {
        after: Duration,
    },
    GiveUp {
        crashes: u32,
    },
}

/// The crashes so far.
#[derive(Debug, Default)]
pub struct History {
    was_ever_ready: bool,
    /// Crashes in a row of children that never got ready.
    unready_crashes: u32,
    /// Crashes in a row of children that lived for less than [`Policy::settled`].
    fast_crashes: u32,
}

impl History {
    /// Judges a child that ended with `status` after `lived`.
    pub fn judge(
        &mut self,
        status: ExitStatus,
        was_ready: bool,
        lived: Duration,
        policy: &Policy,
    ) -> Verdict {
        self.was_ever_ready |= was_ready;
        match status.code() {
            Some(0) => return Verdict::Done,
            Some(code) if !self.was_ever_ready && code != EXIT_STALLED && code != EXIT_PANIC => {
                return Verdict::Refused { code: u8::try_from(code).unwrap_or(1) };
            }
            _ => {}
        }
        self.unready_crashes = if was_ready { 0 } else { self.unready_crashes + 1 };
        if self.unready_crashes >= policy.give_up_after {
            return Verdict::GiveUp { crashes: self.unready_crashes };
        }
        self.fast_crashes = if lived >= policy.settled { 0 } else { self.fast_crashes + 1 };
        Verdict::Restart { after: backoff(self.fast_crashes, policy) }
    }
}

/// Nothing before the first restart, so that one crash costs clients as little as can be.
fn backoff(fast_crashes: u32, policy: &Policy) -> Duration {
    match fast_crashes {
        0 | 1 => Duration::ZERO,
        n => policy.backoff.saturating_mul(1 << (n - 2).min(16)).min(policy.longest_backoff),
    }
}
