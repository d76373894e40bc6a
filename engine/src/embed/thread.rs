//! The thread of an embedder: requests in, steps, vectors out.
//!
//! A step takes one text of each waiting request in turn until its tokens or its places are used up, so that a request
//! of one text passes those of thousands.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use weirgate_types::{RejectReason, StepOutputs, StepStats};

use super::{EmbedInput, EmbedLimits, Embedder};
use crate::stats::Shared;
use crate::{EngineStats, ExecutorError};

/// How an embedder is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedConfig {
    /// Most requests of which nothing was computed yet; more are refused as [`RejectReason::Overloaded`].
    pub max_waiting: usize,
}

impl Default for EmbedConfig {
    fn default() -> Self {
        Self { max_waiting: 4096 }
    }
}

/// Why a request that was accepted gets no vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbedFailure {
    /// The step that its texts were in failed.
    #[error("the step failed")]
    Step,
    /// The embedder has ended.
    #[error("the embedder has ended")]
    Ended,
}

/// The vector of a request's `n`-th text.
type Reply = Result<(usize, Vec<f32>), EmbedFailure>;

enum Message {
    Submit(Job),
    /// Finish what was accepted, then end.
    Stop,
    /// End now.
    Abort,
}

/// What is left of a request.
struct Job {
    texts: VecDeque<(usize, EmbedInput)>,
    reply: flume::Sender<Reply>,
    /// Whether a step took one of its texts.
    started: bool,
}

/// Submits requests to an embedder's thread. Clones share it.
#[derive(Clone)]
pub struct EmbedHandle {
    inbox: flume::Sender<Message>,
    shared: Arc<Shared>,
    limits: EmbedLimits,
    max_waiting: usize,
}

/// A submitted request, and the end of it that its vectors come out of. Dropping it cancels what is left.
#[derive(Debug)]
#[must_use = "dropping the ticket cancels the request"]
pub struct EmbedTicket {
    replies: flume::Receiver<Reply>,
    expected: usize,
}

impl EmbedTicket {
    /// The vectors in the order of the texts.
    ///
    /// # Errors
    /// [`EmbedFailure`].
    pub async fn vectors(self) -> Result<Vec<Vec<f32>>, EmbedFailure> {
        let mut vectors = vec![Vec::new(); self.expected];
        for _ in 0..self.expected {
            place(&mut vectors, self.replies.recv_async().await.ok())?;
        }
        Ok(vectors)
    }

    /// As [`EmbedTicket::vectors`], for a thread that may wait.
    ///
    /// # Errors
    /// [`EmbedFailure`].
    pub fn wait(self) -> Result<Vec<Vec<f32>>, EmbedFailure> {
        let mut vectors = vec![Vec::new(); self.expected];
        for _ in 0..self.expected {
            place(&mut vectors, self.replies.recv().ok())?;
        }
        Ok(vectors)
    }
}

/// Puts a vector where it belongs; no reply means that the embedder is gone.
fn place(vectors: &mut [Vec<f32>], reply: Option<Reply>) -> Result<(), EmbedFailure> {
    let (index, vector) = reply.unwrap_or(Err(EmbedFailure::Ended))?;
    if let Some(place) = vectors.get_mut(index) {
        *place = vector;
    }
    Ok(())
}

impl EmbedHandle {
    /// Hands over a request's texts. Never blocks.
    ///
    /// # Errors
    /// The [`RejectReason`]: a text that is empty, too long or has tokens that are none; too many requests; the end.
    pub fn submit(&self, texts: Vec<EmbedInput>) -> Result<EmbedTicket, RejectReason> {
        texts.iter().try_for_each(|text| check(text, &self.limits))?;
        let expected = texts.len();
        let (reply, replies) = flume::bounded(expected);
        let ticket = EmbedTicket { replies, expected };
        if texts.is_empty() {
            return Ok(ticket);
        }
        if !self.shared.enter(self.max_waiting) {
            return Err(RejectReason::Overloaded);
        }
        let job = Job { texts: texts.into_iter().enumerate().collect(), reply, started: false };
        // Counted first, checked second, as with the other engine: nobody is missed by a thread that ends.
        if self.shared.stopping.load(Ordering::SeqCst) || self.inbox.send(Message::Submit(job)).is_err() {
            self.shared.leave();
            return Err(RejectReason::EngineStopped);
        }
        Ok(ticket)
    }

    pub fn limits(&self) -> EmbedLimits {
        self.limits
    }

    pub fn stats(&self) -> EngineStats {
        self.shared.snapshot(self.inbox.len())
    }

    /// Accepts no more requests; what was accepted is finished, then the thread ends and the output channel closes.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A thread that has ended needs no telling.
        let _ = self.inbox.send(Message::Stop);
    }

    /// Like [`EmbedHandle::stop`], but ends what is in flight.
    pub fn abort(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = self.inbox.send(Message::Abort);
    }
}

fn check(text: &EmbedInput, limits: &EmbedLimits) -> Result<(), RejectReason> {
    if text.tokens.is_empty() {
        return Err(RejectReason::EmptyPrompt);
    }
    if text.tokens.len() > limits.max_tokens {
        let (needed, limit) = (text.tokens.len() as u64, limits.max_tokens as u64);
        return Err(RejectReason::TooLong { needed, limit });
    }
    match text.tokens.iter().find(|&&token| token as usize >= limits.vocab_size) {
        Some(&token) => Err(RejectReason::TokenOutOfRange {
            token,
            vocab: u32::try_from(limits.vocab_size).unwrap_or(u32::MAX),
        }),
        None => Ok(()),
    }
}

/// Starts an embedder's thread. The receiver gets the figures of every step and is closed when the thread has ended.
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn_embedder(
    embedder: Box<dyn Embedder>,
    config: EmbedConfig,
) -> std::io::Result<(EmbedHandle, flume::Receiver<StepOutputs>)> {
    let limits = embedder.limits();
    let (inbox, messages) = flume::unbounded();
    let (outputs, receiver) = flume::unbounded();
    let shared = Arc::new(Shared::new(0));
    let worker = Worker {
        embedder,
        limits,
        messages,
        outputs,
        shared: Arc::clone(&shared),
        jobs: VecDeque::new(),
        ending: Ending::No,
    };
    std::thread::Builder::new().name("embedder".into()).spawn(move || worker.run())?;
    Ok((EmbedHandle { inbox, shared, limits, max_waiting: config.max_waiting }, receiver))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    WhenDone,
    Now,
}

struct Worker {
    embedder: Box<dyn Embedder>,
    limits: EmbedLimits,
    messages: flume::Receiver<Message>,
    outputs: flume::Sender<StepOutputs>,
    shared: Arc<Shared>,
    jobs: VecDeque<Job>,
    ending: Ending,
}

/// The texts of a step, and whose they are.
#[derive(Default)]
struct Step {
    texts: Vec<EmbedInput>,
    places: Vec<(flume::Sender<Reply>, usize)>,
    tokens: usize,
    /// Requests whose last texts these are.
    ending: usize,
}

impl Worker {
    fn run(mut self) {
        while self.receive() {
            if !self.step() {
                break;
            }
        }
        self.shut_down();
    }

    /// Reads the inbox, blocking while there is nothing to do; false when the thread shall end.
    fn receive(&mut self) -> bool {
        loop {
            while let Ok(message) = self.messages.try_recv() {
                self.handle(message);
            }
            self.drop_cancelled();
            match self.ending {
                Ending::Now => return false,
                Ending::WhenDone if self.jobs.is_empty() => return false,
                _ => {}
            }
            if !self.jobs.is_empty() {
                return true;
            }
            self.publish(0);
            match self.messages.recv() {
                Ok(message) => self.handle(message),
                // Every handle is gone.
                Err(_) => return false,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Submit(job) => self.jobs.push_back(job),
            Message::Stop if self.ending == Ending::No => self.ending = Ending::WhenDone,
            Message::Stop => {}
            Message::Abort => self.ending = Ending::Now,
        }
    }

    /// Forgets the requests that nobody waits for any more.
    fn drop_cancelled(&mut self) {
        let shared = &self.shared;
        self.jobs.retain(|job| {
            let wanted = !job.reply.is_disconnected();
            if !wanted {
                leave(shared, job);
            }
            wanted
        });
    }

    /// One step; false when nobody reads the figures any more.
    fn step(&mut self) -> bool {
        let begun = Instant::now();
        let step = self.gather();
        let schedule_time = begun.elapsed();
        self.publish(step.texts.len());
        let launched = Instant::now();
        let outcome = self.compute(&step.texts);
        let forward_time = launched.elapsed();
        self.shared.count_step();
        self.shared.live.fetch_sub(step.ending, Ordering::SeqCst);
        let failed = outcome.is_err();
        match outcome {
            Ok(vectors) => {
                let vectors = vectors.chunks_exact(self.limits.dimensions.max(1));
                for ((reply, index), vector) in step.places.into_iter().zip(vectors) {
                    // Nobody may wait for it any more.
                    let _ = reply.send(Ok((index, vector.to_vec())));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a step of texts failed");
                for (reply, _) in step.places {
                    let _ = reply.try_send(Err(EmbedFailure::Step));
                    self.forget(&reply);
                }
            }
        }
        let stats = StepStats {
            prefill_tokens: u32::try_from(step.tokens).unwrap_or(u32::MAX),
            running: u32::try_from(step.texts.len()).unwrap_or(u32::MAX),
            waiting: self.waiting(),
            schedule_time,
            forward_time,
            failed,
            ..StepStats::default()
        };
        self.outputs.send(StepOutputs { outputs: Vec::new(), stats }).is_ok()
    }

    /// One text of each request in turn, as many as fit.
    fn gather(&mut self) -> Step {
        let mut step = Step::default();
        while step.texts.len() < self.limits.max_seqs {
            let Some(mut job) = self.jobs.pop_front() else { break };
            let next = job.texts.front().map_or(0, |(_, text)| text.tokens.len());
            if step.tokens + next > self.limits.max_step_tokens {
                self.jobs.push_front(job);
                break;
            }
            if let Some((index, text)) = job.texts.pop_front() {
                step.tokens += next;
                step.texts.push(text);
                step.places.push((job.reply.clone(), index));
            }
            if !std::mem::replace(&mut job.started, true) {
                self.shared.queued.fetch_sub(1, Ordering::SeqCst);
            }
            if job.texts.is_empty() {
                step.ending += 1;
            } else {
                self.jobs.push_back(job);
            }
        }
        step
    }

    fn compute(&mut self, texts: &[EmbedInput]) -> Result<Vec<f32>, ExecutorError> {
        let mut vectors = Vec::new();
        let embedder = &mut self.embedder;
        match catch_unwind(AssertUnwindSafe(|| embedder.embed(texts, &mut vectors))) {
            Ok(Ok(())) => Ok(vectors),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ExecutorError::Batch("the embedder panicked".to_owned())),
        }
    }

    /// Drops what is left of the request behind `reply`.
    fn forget(&mut self, reply: &flume::Sender<Reply>) {
        let shared = &self.shared;
        self.jobs.retain(|job| {
            let same = job.reply.same_channel(reply);
            if same {
                leave(shared, job);
            }
            !same
        });
    }

    fn waiting(&self) -> u32 {
        let texts = self.jobs.iter().map(|job| job.texts.len()).sum::<usize>();
        u32::try_from(texts).unwrap_or(u32::MAX)
    }

    fn publish(&self, running: usize) {
        self.shared.publish_sequences(running as u64, u64::from(self.waiting()));
    }

    /// Refuses what comes while the thread ends, so that every accepted request hears of it.
    fn shut_down(mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        loop {
            while let Ok(message) = self.messages.try_recv() {
                self.handle(message);
            }
            for job in self.jobs.drain(..) {
                let _ = job.reply.try_send(Err(EmbedFailure::Ended));
                leave(&self.shared, &job);
            }
            if self.shared.live.load(Ordering::SeqCst) == 0 {
                return;
            }
            match self.messages.recv_timeout(std::time::Duration::from_millis(1)) {
                Ok(message) => self.handle(message),
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// A request is over before all of it was computed.
fn leave(shared: &Shared, job: &Job) {
    if !job.started {
        shared.queued.fetch_sub(1, Ordering::SeqCst);
    }
    shared.live.fetch_sub(1, Ordering::SeqCst);
}
