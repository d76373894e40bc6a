//! Does the jobs of a table, each in a thread of its own.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::JobsError;
use crate::id::Id;
use crate::job::{Job, Kind, Status};
use crate::table::Table;

/// How often it is looked whether jobs were killed by other servers.
const WATCH: Duration = Duration::from_millis(250);
/// After a question that the database did not answer, before the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a job's progress is written at most.
const PROGRESS: Duration = Duration::from_millis(500);
/// How long the end of a job may take to be written before the job is begun again.
const ENDING: Duration = Duration::from_secs(60);
/// The same for work that insists, and at most after several.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How one kind of job is done.
pub trait Work: Send + Sync + 'static {
    fn kind(&self) -> Kind;

    /// Jobs of the kind that this process does side by side.
    fn places(&self) -> usize;

    /// Does the job, or goes on with one that was begun before. Blocks.
    ///
    /// # Errors
    /// [`WorkError::Stopped`] once [`Context::is_stopped`] says so; what is left over is cleared away where it was
    /// [`Stopped::Killed`], and kept to go on from otherwise.
    fn run(&self, job: &Job, context: &Context) -> Result<(), WorkError>;
}

/// Why work ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("stopped")]
    Stopped,
    /// The job cannot be done.
    #[error("{0}")]
    Failed(String),
}

impl From<JobsError> for WorkError {
    fn from(error: JobsError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Somebody interrupted it.
    Killed,
    /// This server ends; the job will be gone on with at its next start.
    ServerEnds,
}

/// Told once.
#[derive(Default)]
struct Stop {
    reason: Mutex<Option<Stopped>>,
    told: Condvar,
}

impl Stop {
    fn reason(&self) -> MutexGuard<'_, Option<Stopped>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, reason: Stopped) {
        self.reason().get_or_insert(reason);
        self.told.notify_all();
    }
}

/// What work knows of its job while it is done.
pub struct Context {
    id: Id,
    table: Arc<Table>,
    stop: Arc<Stop>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    written: Option<Instant>,
    /// Told, and not written yet.
    pending: Option<Value>,
}

impl Context {
    /// Whether the job is to stop, and why.
    pub fn is_stopped(&self) -> Option<Stopped> {
        *self.stop.reason()
    }

    /// Waits at most `patience` for the job to be stopped.
    pub fn wait_for_stop(&self, patience: Duration) -> Option<Stopped> {
        let running = |reason: &mut Option<Stopped>| reason.is_none();
        let waited = self.stop.told.wait_timeout_while(self.stop.reason(), patience, running);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks the table, again and again while the database fails: work that is done is not lost to an outage.
    ///
    /// # Errors
    /// [`WorkError::Stopped`] once the job is stopped; [`WorkError::Failed`] for any other error than the database's.
    pub fn insist<T>(&self, ask: impl Fn(&Table) -> Result<T, JobsError>) -> Result<T, WorkError> {
        let (mut pause, longest) = ASK_AGAIN;
        loop {
            match ask(&self.table) {
                Err(error @ JobsError::Database(_)) => {
                    tracing::warn!(job = %self.id, %error, "the database will be asked again");
                }
                answer => return Ok(answer?),
            }
            if self.wait_for_stop(pause).is_some() {
                return Err(WorkError::Stopped);
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// How far the job is. Not every call is written.
    pub fn progress(&self, value: Value) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.written.is_some_and(|written| written.elapsed() < PROGRESS) {
            progress.pending = Some(value);
            return;
        }
        progress.pending = None;
        progress.written = Some(Instant::now());
        self.note(self.table.progress(&self.id, &value));
    }

    fn flush(&self) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = progress.pending.take() {
            self.note(self.table.progress(&self.id, &value));
        }
    }

    /// A line for the job's log.
    pub fn log(&self, line: &str) {
        self.note(self.table.log(&self.id, line));
    }

    /// The job goes on without it.
    fn note(&self, written: Result<(), JobsError>) {
        if let Err(error) = written {
            tracing::warn!(job = %self.id, %error, "what a job told could not be written");
        }
    }
}

/// Does jobs until it is shut down.
pub struct Runner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    table: Arc<Table>,
    work: Vec<Box<dyn Work>>,
    state: Mutex<State>,
    /// Told when there is something to look at.
    nudged: Condvar,
}

#[derive(Default)]
struct State {
    active: HashMap<Id, Active>,
    nudge: bool,
    ending: bool,
}

struct Active {
    kind: Kind,
    stop: Arc<Stop>,
}

impl Runner {
    /// Begins to work, with what this server was at when it ended last.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(table: Arc<Table>, work: Vec<Box<dyn Work>>) -> Result<Self, JobsError> {
        let (state, nudged) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { table, work, state, nudged });
        let thread = std::thread::Builder::new().name("jobs".to_owned()).spawn({
            let shared = shared.clone();
            move || supervise(&shared)
        });
        let thread = thread.map_err(JobsError::io("the thread of jobs"))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// There may be a new job, or one that was killed.
    pub fn nudge(&self) {
        self.shared.state().nudge = true;
        self.shared.nudged.notify_all();
    }

    /// Ends: work is stopped, to be gone on with at the next start. Waits at most `patience` for it.
    pub fn shut_down(&self, patience: Duration) {
        self.shared.state().ending = true;
        self.shared.nudged.notify_all();
        let begun = Instant::now();
        while !self.shared.state().active.is_empty() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of jobs panicked");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that this process is at.
    fn under_way(&self, which: impl Fn(&Active) -> bool) -> Vec<Id> {
        self.state().active.iter().filter(|(_, active)| which(active)).map(|(id, _)| id.clone()).collect()
    }

    /// Waits for something to look at; whether there was a nudge, or `None` at the end.
    fn wait(&self) -> Option<bool> {
        let idle = |state: &mut State| !state.nudge && !state.ending;
        let waited = self.nudged.wait_timeout_while(self.state(), WATCH, idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let nudged = std::mem::take(&mut state.nudge);
        (!state.ending).then_some(nudged)
    }

    fn stop_all(&self) {
        self.state().active.values().for_each(|active| active.stop.tell(Stopped::ServerEnds));
    }
}

fn supervise(shared: &Arc<Shared>) {
    // Whether there may be something to do. Jobs come from this process, which says so; of a shared database they may be
    // ended by others, who do not.
    let mut look = true;
    loop {
        let watches = shared.table.is_shared() && !shared.state().active.is_empty();
        let mut failed = false;
        let mut done = |what: &str, result: Result<(), JobsError>| {
            failed |= result.inspect_err(|error| tracing::warn!(%error, "{what}")).is_err();
        };
        if look || watches {
            done("the jobs under way could not be looked at", watch(shared));
        }
        if look {
            done("no jobs could be begun", seek(shared));
        }
        if failed {
            std::thread::sleep(PAUSE);
        }
        match shared.wait() {
            Some(nudged) => look = nudged || failed,
            None => return shared.stop_all(),
        }
    }
}

/// Stops the jobs that somebody has ended.
fn watch(shared: &Shared) -> Result<(), JobsError> {
    let known = shared.under_way(|_| true);
    let running = shared.table.running()?;
    let ended = known.iter().filter(|id| !running.contains(id));
    let state = shared.state();
    ended.filter_map(|id| state.active.get(id)).for_each(|active| active.stop.tell(Stopped::Killed));
    Ok(())
}

/// Begins jobs as long as there are any and places for them.
fn seek(shared: &Arc<Shared>) -> Result<(), JobsError> {
    for (at, work) in shared.work.iter().enumerate() {
        loop {
            let active = shared.under_way(|active| active.kind == work.kind());
            if active.len() >= work.places() {
                break;
            }
            let Some(job) = shared.table.claim(work.kind(), &active)? else { break };
            begin(shared, at, job)?;
        }
    }
    Ok(())
}

fn begin(shared: &Arc<Shared>, work: usize, job: Job) -> Result<(), JobsError> {
    let stop = Arc::new(Stop::default());
    let active = Active { kind: job.kind, stop: stop.clone() };
    let id = job.id.clone();
    shared.state().active.insert(id.clone(), active);
    let own = shared.clone();
    let run = move || {
        let context =
            Context { id: job.id.clone(), table: own.table.clone(), stop, progress: Mutex::default() };
        do_one(&own, work, &job, &context);
        let mut state = own.state();
        state.active.remove(&job.id);
        state.nudge = true;
        drop(state);
        own.nudged.notify_all();
    };
    let started = std::thread::Builder::new().name("job".to_owned()).spawn(run);
    started.map(drop).map_err(|error| {
        shared.state().active.remove(&id);
        JobsError::io("a job's thread")(error)
    })
}

fn do_one(shared: &Shared, work: usize, job: &Job, context: &Context) {
    let Some(work) = shared.work.get(work) else { return };
    tracing::info!(job = %job.id, name = job.name, "begins");
    let done = catch_unwind(AssertUnwindSafe(|| work.run(job, context)));
    let done = done
        .unwrap_or_else(|_| Err(WorkError::Failed("the work broke off; the server's log says why".into())));
    context.flush();
    let (status, error) = match (done, context.is_stopped()) {
        (Ok(()), _) => (Some(Status::Finished), None),
        // What goes wrong while it stops is of no interest.
        (Err(WorkError::Failed(reason)), None) => (Some(Status::Failed), Some(reason)),
        (Err(_), _) => (None, None),
    };
    tracing::info!(job = %job.id, name = job.name, status = status.map(Status::name), error, "ends");
    if let Some(reason) = &error {
        context.log(reason);
    }
    let Some(status) = status else { return };
    let begun = Instant::now();
    while let Err(error) = shared.table.end(&job.id, status, error.as_deref()) {
        tracing::warn!(job = %job.id, %error, "the end of a job could not be written");
        if begun.elapsed() >= ENDING {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
