//! What the outside sees of the engine without asking it: counters that the engine thread publishes.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::SchedulerStats;

/// The engine at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences.
    pub running: u64,
    /// Sequences in the engine's queue.
    pub waiting: u64,
    /// Messages that the engine has not read yet.
    pub inbox: u64,
    /// Requests that were accepted and have not ended.
    pub live_requests: u64,
    /// Of those, requests of which nothing was scheduled yet.
    pub queued_requests: u64,
    pub used_blocks: u64,
    pub cached_blocks: u64,
    pub total_blocks: u64,
    pub steps: u64,
    pub preemptions: u64,
    /// Prompt tokens found in the prefix cache, of so many looked up.
    pub prefix_hits: u64,
    pub prefix_queries: u64,
    /// Tokens guessed by speculation, and how many of them came true.
    pub drafted_tokens: u64,
    pub accepted_tokens: u64,
    /// Steps planned while the one before ran.
    pub planned_ahead: u64,
    /// How long live requests have seen no step; zero when there are none.
    pub since_last_step: Duration,
    /// Contradictions found in the books when idle; anything but 0 is a defect.
    pub integrity_errors: u64,
}

/// What the handles and the engine thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    started: Instant,
    /// Set once no more requests are accepted.
    pub stopping: AtomicBool,
    /// Accepted requests that have not ended; the engine thread stays until it is 0.
    pub live: AtomicUsize,
    /// Accepted requests of which nothing was scheduled; bounded by the configuration.
    pub queued: AtomicUsize,
    running: AtomicU64,
    waiting: AtomicU64,
    used_blocks: AtomicU64,
    cached_blocks: AtomicU64,
    total_blocks: AtomicU64,
    steps: AtomicU64,
    preemptions: AtomicU64,
    prefix_hits: AtomicU64,
    prefix_queries: AtomicU64,
    drafted_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    planned_ahead: AtomicU64,
    integrity_errors: AtomicU64,
    /// When the last step ended or the engine last got work while it had none, in nanoseconds after `started`.
    progress: AtomicU64,
}

impl Shared {
    pub fn new(total_blocks: usize) -> Self {
        Self {
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            running: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            used_blocks: AtomicU64::new(0),
            cached_blocks: AtomicU64::new(0),
            total_blocks: AtomicU64::new(total_blocks as u64),
            steps: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            prefix_hits: AtomicU64::new(0),
            prefix_queries: AtomicU64::new(0),
            drafted_tokens: AtomicU64::new(0),
            accepted_tokens: AtomicU64::new(0),
            planned_ahead: AtomicU64::new(0),
            integrity_errors: AtomicU64::new(0),
            progress: AtomicU64::new(0),
        }
    }

    /// Counts one more live request, unless `max_queued` wait already.
    pub fn enter(&self, max_queued: usize) -> bool {
        let room = |queued| (queued < max_queued).then_some(queued + 1);
        if self.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_err() {
            return false;
        }
        if self.live.load(Ordering::SeqCst) == 0 {
            self.mark_progress();
        }
        self.live.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Takes back an [`enter`](Self::enter) that led to nothing.
    pub fn leave(&self) {
        self.queued.fetch_sub(1, Ordering::SeqCst);
        self.live.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn mark_progress(&self) {
        self.progress.store(self.started.elapsed().as_nanos() as u64, Ordering::SeqCst);
    }

    pub fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.mark_progress();
    }

    pub fn count_integrity_error(&self) {
        self.integrity_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn publish(&self, stats: &SchedulerStats) {
        self.running.store(stats.running as u64, Ordering::Relaxed);
        self.waiting.store(stats.waiting as u64, Ordering::Relaxed);
        self.used_blocks.store(stats.blocks.used as u64, Ordering::Relaxed);
        self.cached_blocks.store(stats.blocks.cached as u64, Ordering::Relaxed);
        self.preemptions.store(stats.preemptions, Ordering::Relaxed);
        self.prefix_hits.store(stats.prefix_hits, Ordering::Relaxed);
        self.prefix_queries.store(stats.prefix_queries, Ordering::Relaxed);
        self.drafted_tokens.store(stats.drafted, Ordering::Relaxed);
        self.accepted_tokens.store(stats.accepted, Ordering::Relaxed);
        self.planned_ahead.store(stats.planned_ahead, Ordering::Relaxed);
    }

    /// Of an engine that keeps no cache.
    pub fn publish_sequences(&self, running: u64, waiting: u64) {
        self.running.store(running, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    pub fn snapshot(&self, inbox: usize) -> EngineStats {
        let live = self.live.load(Ordering::SeqCst);
        let progress = Duration::from_nanos(self.progress.load(Ordering::SeqCst));
        let since = self.started.elapsed().saturating_sub(progress);
        EngineStats {
            running: self.running.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            inbox: inbox as u64,
            live_requests: live as u64,
            queued_requests: self.queued.load(Ordering::SeqCst) as u64,
            used_blocks: self.used_blocks.load(Ordering::Relaxed),
            cached_blocks: self.cached_blocks.load(Ordering::Relaxed),
            total_blocks: self.total_blocks.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed),
            preemptions: self.preemptions.load(Ordering::Relaxed),
            prefix_hits: self.prefix_hits.load(Ordering::Relaxed),
            prefix_queries: self.prefix_queries.load(Ordering::Relaxed),
            drafted_tokens: self.drafted_tokens.load(Ordering::Relaxed),
            accepted_tokens: self.accepted_tokens.load(Ordering::Relaxed),
            planned_ahead: self.planned_ahead.load(Ordering::Relaxed),
            since_last_step: if live == 0 { Duration::ZERO } else { since },
            integrity_errors: self.integrity_errors.load(Ordering::Relaxed),
        }
    }
}
