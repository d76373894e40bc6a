//! Work that goes on in a thread of its own while any number of callers watch.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreError;
use crate::entry::{Progress, Report, tell};
use crate::name::Digest;

/// Between two looks at the bytes moved.
const TICK: Duration = Duration::from_millis(60);
/// Where nothing changes for so long, the last line is told again: so a watcher that has gone is noticed within a second.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// What is known of one transfer.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    watchers: AtomicUsize,
    canceled: AtomicBool,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    done: Option<Result<(), Arc<StoreError>>>,
}

/// A line of progress; bytes change in place.
#[derive(Clone)]
struct Line {
    progress: Progress,
    completed: Arc<AtomicU64>,
}

impl Line {
    fn now(&self) -> Progress {
        Progress { completed: self.completed.load(Ordering::Relaxed), ..self.progress.clone() }
    }
}

impl Shared {
    /// A line whose bytes are what is stored in what this returns.
    pub fn add(&self, progress: Progress) -> Arc<AtomicU64> {
        let completed = Arc::new(AtomicU64::new(0));
        let line = Line { progress, completed: Arc::clone(&completed) };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
        self.changed.notify_all();
        completed
    }

    pub fn status(&self, status: &str) {
        self.add(Progress::status(status));
    }

    /// A line about content; the bytes that are moved are added to what this returns.
    pub fn content(&self, verb: &str, digest: &Digest, total: u64) -> Arc<AtomicU64> {
        let status = format!("{verb} {}", digest.short());
        self.add(Progress { status, digest: digest.to_string(), total, completed: 0 })
    }

    /// # Errors
    /// [`StoreError::Canceled`] once nobody watches any more.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.canceled.load(Ordering::Relaxed) { Err(StoreError::Canceled) } else { Ok(()) }
    }

    pub fn join(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it was the last watcher that left; then the work stops.
    pub fn leave(&self) -> bool {
        let last = self.watchers.fetch_sub(1, Ordering::Relaxed) == 1;
        if last {
            self.canceled.store(true, Ordering::Relaxed);
        }
        last
    }

    /// Does the work in a thread; all watchers learn how it ended, even if it panics.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(
        self: &Arc<Self>,
        work: impl FnOnce(&Shared) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let ending = Ending { shared: Arc::clone(self), result: None };
        let run = move || {
            let mut ending = ending;
            ending.result = Some(work(&ending.shared));
            drop(ending);
        };
        let thread = std::thread::Builder::new().name("transfer".to_owned());
        thread.spawn(run).map(drop).map_err(StoreError::io("a thread for the transfer"))
    }

    /// Reports every line as it changes, until the work ends.
    ///
    /// # Errors
    /// That of the work, or [`StoreError::Canceled`].
    pub fn watch(&self, report: &mut Report<'_>) -> Result<(), StoreError> {
        let mut sent: Vec<u64> = Vec::new();
        let mut told = Instant::now();
        loop {
            let (lines, done) = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let waits = |state: &mut State| state.done.is_none() && state.lines.len() == sent.len();
                let waited = self.changed.wait_timeout_while(state, TICK, waits);
                let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                (state.lines.clone(), state.done.clone())
            };
            for (index, line) in lines.iter().enumerate() {
                let progress = line.now();
                match sent.get_mut(index) {
                    Some(known) if *known == progress.completed => continue,
                    Some(known) => *known = progress.completed,
                    None => sent.push(progress.completed),
                }
                tell(report, progress)?;
                told = Instant::now();
            }
            if told.elapsed() >= HEARTBEAT
                && let Some(last) = lines.last()
            {
                tell(report, last.now())?;
                told = Instant::now();
            }
            match done {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(StoreError::Shared(error)),
                None => {}
            }
        }
    }
}

/// Tells the watchers, whatever happens.
struct Ending {
    shared: Arc<Shared>,
    result: Option<Result<(), StoreError>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(StoreError::invalid("the transfer broke off")));
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).done =
            Some(result.map_err(Arc::new));
        self.shared.changed.notify_all();
    }
}
