//! The engine thread: inbox → [`Scheduler`] → [`Executor`] → outputs.
//!
//! Where the executor is asynchronous, all that need not wait for a step's result is done while it runs: the outputs of the
//! step before are sent, messages are taken, and the next step is planned. What is left between two steps, for which the
//! device waits: the drawn tokens are taken in and written into the next batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weirgate_types::{Finish, RejectReason, StepOutputs, StepStats};

use crate::adapters::Adapters;
use crate::deadlines::Deadlines;
use crate::handle::Message;
use crate::mask_pool::MaskPool;
use crate::stats::Shared;
use crate::validate::max_total_tokens;
use crate::{
    Batch, BurstRule, EngineHandle, Executor, ExecutorError, ExecutorLimits, Plan, RopeRule, Scheduler,
    SchedulerConfig, StepResult,
};

/// How long a step may be put off for masks that are not there yet: an eighth of the last forward pass, within these
/// bounds. Most masks take a fraction of the lower one; a sequence whose mask takes longer sits out the step.
const MASK_PATIENCE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(2));

/// How an engine is run.
pub struct EngineConfig {
    /// Most tokens in one step; lowered to the executor's limit.
    pub max_step_tokens: usize,
    /// Most sequences in one step; lowered to the executor's limit.
    pub max_seqs: usize,
    /// Most requests that wait to be scheduled; more are refused as [`RejectReason::Overloaded`].
    pub max_waiting: usize,
    pub prefix_cache: bool,
    pub rope: RopeRule,
    /// Most tokens guessed ahead per sequence and step, from what the sequence itself said before; 0 for none. Changes
    /// how soon tokens come, never which.
    pub speculate: usize,
    /// Most tokens of a step that decodes, where few sequences are live (see [`crate::Scheduler`]).
    pub mixed_step_tokens: usize,
    pub bursts: BurstRule,
    /// Fault injection: stop stepping after so many steps, as an engine that hangs would.
    pub stall_after_steps: Option<u64>,
    /// Fault injection: steps begin at least so far apart, as those of a slower device would.
    pub step_interval: Duration,
    /// Fault injection: nothing is computed, every draw repeats the token before it.
    pub echo: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_step_tokens: usize::MAX,
            max_seqs: usize::MAX,
            max_waiting: 4096,
            prefix_cache: true,
            rope: RopeRule::default(),
            speculate: 0,
            mixed_step_tokens: usize::MAX,
            bursts: BurstRule::NONE,
            stall_after_steps: None,
            step_interval: Duration::ZERO,
            echo: false,
        }
    }
}

/// Starts an engine thread. The receiver gets one message per step (and one where something happened without a step)
/// and is closed when the engine has ended. Whoever holds it must drain it: if it is dropped, everything in flight is
/// ended.
///
/// The output channel is unbounded: a bounded one would let a slow reader stop the engine for all or cost a request
/// its terminal. What is in it is bounded all the same, by the tokens that the accepted requests may generate.
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn(
    executor: Box<dyn Executor>,
    config: EngineConfig,
) -> std::io::Result<(EngineHandle, flume::Receiver<StepOutputs>)> {
    let mut limits = executor.limits();
    limits.max_step_tokens = limits.max_step_tokens.min(config.max_step_tokens).max(1);
    limits.max_seqs = limits.max_seqs.min(config.max_seqs).min(limits.max_step_tokens).max(1);
    limits.max_seq_len = max_total_tokens(&limits);
    let (inbox, messages) = flume::unbounded();
    let (outputs, receiver) = flume::unbounded();
    let shared = Arc::new(Shared::new(limits.blocks));
    let channels = Channels { inbox: inbox.downgrade(), messages, outputs, shared: Arc::clone(&shared) };
    let engine = Engine::new(executor, config, limits, channels);
    let max_waiting = engine.max_waiting;
    std::thread::Builder::new().name("engine".into()).spawn(move || engine.run())?;
    Ok((EngineHandle { inbox, shared, limits, max_waiting }, receiver))
}

struct Channels {
    /// For the answers of mask jobs; weak, so that the engine ends with its last handle and ticket.
    inbox: flume::WeakSender<Message>,
    messages: flume::Receiver<Message>,
    outputs: flume::Sender<StepOutputs>,
    shared: Arc<Shared>,
}

/// What the engine is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Finish what was accepted.
    Stopping,
    /// End everything.
    Aborting,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    #[error("the executor panicked: {0}")]
    Panic(String),
    #[error("nothing can be scheduled although sequences are live")]
    Stuck,
}

struct Engine {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    channels: Channels,
    mode: Mode,
    max_waiting: usize,
    stall_after_steps: Option<u64>,
    step_interval: Duration,
    /// When the next step may begin.
    next_step: Instant,
    echo: bool,
    /// The executor computes while the engine goes on.
    overlaps: bool,
    deadlines: Deadlines,
    adapters: Adapters,
    /// A message for when no step runs.
    held: Option<Message>,
    batch: Batch,
    result: StepResult,
    /// Started with the first constrained request.
    mask_pool: Option<MaskPool>,
    forward_time: Duration,
    /// Figures of the last step, not reported yet.
    unreported: Option<StepStats>,
    steps: u64,
    /// Requests received so far, and how many of them were known to have ended and to have started.
    received: usize,
    ended: usize,
    started: usize,
}

impl Engine {
    fn new(
        executor: Box<dyn Executor>,
        config: EngineConfig,
        limits: ExecutorLimits,
        channels: Channels,
    ) -> Self {
        let scheduler = Scheduler::new(SchedulerConfig {
            limits,
            prefix_cache: config.prefix_cache,
            rope: config.rope,
            speculate: config.speculate,
            mixed_step_tokens: config.mixed_step_tokens,
            bursts: config.bursts,
        });
        let overlaps = executor.is_asynchronous() && !config.echo;
        Self {
            executor,
            scheduler,
            channels,
            mode: Mode::Serving,
            max_waiting: config.max_waiting,
            stall_after_steps: config.stall_after_steps,
            step_interval: config.step_interval,
            next_step: Instant::now(),
            echo: config.echo,
            overlaps,
            deadlines: Deadlines::default(),
            adapters: Adapters::default(),
            held: None,
            batch: Batch::default(),
            result: StepResult::default(),
            mask_pool: None,
            forward_time: Duration::ZERO,
            unreported: None,
            steps: 0,
            received: 0,
            ended: 0,
            started: 0,
        }
    }

    fn run(mut self) {
        // Also when this thread panics, so that later requests are refused rather than lost.
        let _guard = StopGuard(Arc::clone(&self.channels.shared));
        while self.receive() {
            self.expire_deadlines();
            self.await_masks();
            if let Err(error) = self.step() {
                tracing::error!(%error, "the engine failed");
                break;
            }
            // Else that waits until the device has its next step.
            if !self.overlaps {
                self.report();
            }
        }
        self.shut_down();
    }

    /// Reads the inbox, blocking while there is nothing to do; false when the engine shall end.
    fn receive(&mut self) -> bool {
        loop {
            self.take_messages(false);
            self.dispatch_masks();
            self.adapters.retire(&self.scheduler, self.executor.as_mut());
            match self.mode {
                Mode::Aborting => return false,
                Mode::Stopping if self.scheduler.is_idle() => return false,
                _ => {}
            }
            let stalled = self.stall_after_steps.is_some_and(|after| self.steps >= after);
            if !self.scheduler.is_idle() && !stalled {
                return true;
            }
            self.check_books();
            self.report();
            if self.mode == Mode::Aborting {
                return false;
            }
            // Nobody is left to send anything once this fails: no handle, no ticket.
            match self.channels.messages.recv() {
                Ok(message) => self.handle(message),
                Err(_) => return false,
            }
        }
    }

    /// Handles what is in the inbox, in order. What concerns the executor waits until no step runs, and whatever came
    /// behind it, too.
    fn take_messages(&mut self, step_runs: bool) {
        while let Some(message) = self.held.take().or_else(|| self.channels.messages.try_recv().ok()) {
            if step_runs && matches!(message, Message::Adapter(_)) {
                self.held = Some(message);
                return;
            }
            self.handle(message);
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit(request, grammar) => {
                self.received += 1;
                if self.mode != Mode::Serving {
                    self.scheduler.reject(request.id(), RejectReason::EngineStopped);
                    return;
                }
                if request.get().adapter.is_some_and(|adapter| !self.adapters.contains(adapter)) {
                    self.scheduler.reject(request.id(), RejectReason::UnknownAdapter);
                    return;
                }
                if let Some(deadline) = request.get().deadline {
                    let scheduler = &self.scheduler;
                    let live = scheduler.live_requests();
                    self.deadlines.add(deadline, request.id(), live, |id| scheduler.is_live(id));
                }
                match grammar {
                    Some(grammar) => self.scheduler.submit_constrained(&request, &grammar),
                    None => self.scheduler.submit(&request),
                }
            }
            Message::Adapter(message) => self.adapters.handle(message, self.executor.as_mut()),
            Message::Mask(answer) => self.scheduler.take_mask(*answer),
            Message::Cancel(id) => self.scheduler.finish(id, Finish::Cancelled),
            Message::CancelSequence(id, index) => {
                self.scheduler.finish_sequence(id, index, Finish::Cancelled);
            }
            Message::Stop if self.mode == Mode::Serving => self.mode = Mode::Stopping,
            Message::Stop => {}
            Message::Abort => self.mode = Mode::Aborting,
        }
    }

    fn expire_deadlines(&mut self) {
        if self.deadlines.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(id) = self.deadlines.expired(now) {
            self.scheduler.finish(id, Finish::Deadline);
        }
    }

    /// One step, if anything is live.
    fn step(&mut self) -> Result<(), StepError> {
        if self.scheduler.is_idle() {
            return Ok(());
        }
        if !self.step_interval.is_zero() {
            self.report();
            std::thread::sleep(self.next_step.saturating_duration_since(Instant::now()));
            self.next_step = Instant::now() + self.step_interval;
        }
        let begun = Instant::now();
        let mut plan = self.scheduler.plan(&mut self.batch);
        if plan.is_empty() {
            if !self.scheduler.draws_blocked() {
                return Err(StepError::Stuck);
            }
            self.pause();
            return Ok(());
        }
        let launched = Instant::now();
        let schedule_time = launched - begun;
        let executed = self.execute(&mut plan);
        let forward_time = launched.elapsed();
        self.forward_time = forward_time;
        let mut stats = step_stats(&plan, schedule_time, forward_time);
        if let Err(error) = executed {
            // What is unreported is of the step before.
            if self.unreported.is_some() {
                self.report();
            }
            self.unreported = Some(StepStats { failed: true, ..stats });
            return Err(error);
        }
        let committing = Instant::now();
        stats.accepted_tokens = self.scheduler.commit(plan, &mut self.result)?;
        stats.commit_time = committing.elapsed();
        self.unreported = Some(stats);
        self.dispatch_masks();
        self.steps += 1;
        self.channels.shared.count_step();
        Ok(())
    }

    /// Has the masks computed that the last messages and the last step made necessary.
    fn dispatch_masks(&mut self) {
        for job in self.scheduler.take_mask_jobs() {
            if self.mask_pool.is_none() {
                self.mask_pool = MaskPool::start(&self.channels.inbox)
                    .inspect_err(|error| tracing::error!(%error, "no threads for grammars"))
                    .ok();
            }
            let refused = match &self.mask_pool {
                Some(pool) => pool.submit(job).err(),
                None => Some(job),
            };
            if let Some(job) = refused {
                self.scheduler.take_mask(job.run());
            }
        }
    }

    /// Waits a little for the masks without which a sequence would sit out the next step.
    fn await_masks(&mut self) {
        if !self.scheduler.draws_blocked() {
            return;
        }
        self.report();
        let patience = (self.forward_time / 8).clamp(MASK_PATIENCE.0, MASK_PATIENCE.1);
        let until = Instant::now() + patience;
        while self.scheduler.draws_blocked()
            && let Ok(message) = self.channels.messages.recv_deadline(until)
        {
            self.handle(message);
        }
    }

    /// Waits for a message, but not past the next deadline by much: all that is live waits for masks.
    fn pause(&mut self) {
        self.report();
        if let Ok(message) = self.channels.messages.recv_timeout(Duration::from_millis(10)) {
            self.handle(message);
        }
    }

    fn execute(&mut self, plan: &mut Plan) -> Result<(), StepError> {
        if self.echo {
            self.result.echo(&self.batch);
            return Ok(());
        }
        unless_panicked(|| self.executor.launch(&self.batch))?;
        if self.overlaps {
            self.work_meanwhile(plan);
        }
        unless_panicked(|| self.executor.collect(&mut self.result))
    }

    /// All that need not wait for the result of the step that runs.
    fn work_meanwhile(&mut self, running: &mut Plan) {
        self.report();
        self.take_messages(true);
        self.dispatch_masks();
        self.expire_deadlines();
        self.scheduler.plan_ahead(running, &mut self.batch);
    }

    /// Publishes the figures and sends what happened. The engine ends when nobody listens any more.
    fn report(&mut self) {
        let shared = &self.channels.shared;
        let stats = self.scheduler.stats();
        shared.publish(&stats);
        self.count_requests();
        let outputs = self.scheduler.take_outputs();
        let step = self.unreported.take();
        if step.is_none() && outputs.is_empty() {
            return;
        }
        let stats = StepStats {
            running: stats.running as u32,
            waiting: stats.waiting as u32,
            used_blocks: stats.blocks.used as u32,
            cached_blocks: stats.blocks.cached as u32,
            total_blocks: (stats.blocks.used + stats.blocks.cached + stats.blocks.free) as u32,
            ..step.unwrap_or_default()
        };
        if self.channels.outputs.send(StepOutputs { outputs, stats }).is_err() {
            self.mode = Mode::Aborting;
        }
    }

    fn check_books(&self) {
        if let Err(error) = self.scheduler.check_integrity() {
            tracing::error!(%error, "the waiting engine's books do not balance");
            self.channels.shared.count_integrity_error();
        }
    }

    /// Lets the handles know how many requests have started and ended since the last time.
    fn count_requests(&mut self) {
        let shared = &self.channels.shared;
        let started = self.received - self.scheduler.unstarted_requests();
        shared.queued.fetch_sub(started - self.started, Ordering::SeqCst);
        self.started = started;
        let ended = self.received - self.scheduler.live_requests();
        shared.live.fetch_sub(ended - self.ended, Ordering::SeqCst);
        self.ended = ended;
    }

    /// Ends what is in flight and waits for the requests that were being submitted meanwhile, so that every accepted
    /// request has its terminal before the output channel closes.
    fn shut_down(mut self) {
        self.channels.shared.stopping.store(true, Ordering::SeqCst);
        self.take_messages(false);
        self.scheduler.finish_all(Finish::EngineFailed);
        self.mode = Mode::Aborting;
        self.check_books();
        let broken = self.unreported.is_some_and(|stats| stats.failed);
        self.report();
        while self.channels.shared.live.load(Ordering::SeqCst) > 0 {
            match self.channels.messages.recv_timeout(Duration::from_millis(1)) {
                Ok(message) => self.handle(message),
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => break,
            }
            self.report();
        }
        if broken {
            // All has been said. A device that went wrong may not come back when its memory is given back.
            drop(self.channels);
        }
    }
}

/// Refuses further requests when the engine thread ends, however it ends.
struct StopGuard(Arc<Shared>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stopping.store(true, Ordering::SeqCst);
    }
}

fn step_stats(plan: &Plan, schedule_time: Duration, forward_time: Duration) -> StepStats {
    StepStats {
        prefill_tokens: plan.prefill_tokens,
        decode_tokens: plan.decode_tokens,
        draft_tokens: plan.draft_tokens,
        preemptions: plan.preemptions,
        schedule_time,
        forward_time,
        ..StepStats::default()
    }
}

/// What an executor does; its panics are errors.
fn unless_panicked(work: impl FnOnce() -> Result<(), ExecutorError>) -> Result<(), StepError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Ok(done?),
        Err(payload) => Err(StepError::Panic(panic_text(payload.as_ref()))),
    }
}

pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}
