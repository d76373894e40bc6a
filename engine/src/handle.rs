//! The engine's edge: plain data in, plain data out, no waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weirgate_kernels::KernelError;
use weirgate_models::Adapter;
use weirgate_types::{AdapterId, GenerateRequest, RejectReason, RequestId};

use crate::adapters::{self, AdapterMessage};
use crate::stats::Shared;
use crate::{EngineStats, ExecutorLimits, GrammarSource, MaskAnswer, ValidRequest};

/// Request ids are unique within the process, over all engines.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// How often it is looked whether an engine that has not answered has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What the engine thread is told. One channel for everything, so a cancellation never overtakes its request. It is
/// unbounded, but what is in it is not: requests are counted on entry and refused above the bound, and every other
/// message belongs to a request or a stop. So a cancellation never waits and is never refused.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Box<ValidRequest>, Option<Arc<dyn GrammarSource>>),
    /// A mask is ready.
    Mask(Box<MaskAnswer>),
    Cancel(RequestId),
    CancelSequence(RequestId, u32),
    Adapter(AdapterMessage),
    /// Finish what was accepted, then end.
    Stop,
    /// End everything now.
    Abort,
}

/// Submits requests to an engine thread. Clones share the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    pub(crate) inbox: flume::Sender<Message>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: ExecutorLimits,
    pub(crate) max_waiting: usize,
}

impl EngineHandle {
    /// A request id that was never given out before.
    pub fn next_id(&self) -> RequestId {
        RequestId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a request to the engine; its outputs come through the engine's output channel. Never blocks.
    ///
    /// # Errors
    /// The [`RejectReason`]; then no output will name the request.
    pub fn submit(&self, request: GenerateRequest) -> Result<Ticket, RejectReason> {
        self.enqueue(request, None)
    }

    /// Like [`EngineHandle::submit`], with a grammar that every sequence of the request obeys. It ends with
    /// [`Finish::StopToken`](weirgate_types::Finish::StopToken) where the grammar is final and a stop token is drawn,
    /// with `GrammarEnd` where it is complete and no stop token can be drawn, and with `GrammarFailed` if it fails.
    ///
    /// # Errors
    /// As for [`EngineHandle::submit`].
    pub fn submit_constrained(
        &self,
        request: GenerateRequest,
        grammar: Arc<dyn GrammarSource>,
    ) -> Result<Ticket, RejectReason> {
        self.enqueue(request, Some(grammar))
    }

    fn enqueue(
        &self,
        request: GenerateRequest,
        grammar: Option<Arc<dyn GrammarSource>>,
    ) -> Result<Ticket, RejectReason> {
        let request = ValidRequest::check(request, &self.limits)?;
        let id = request.id();
        if !self.shared.enter(self.max_waiting) {
            let stopping = self.shared.stopping.load(Ordering::SeqCst);
            return Err(if stopping { RejectReason::EngineStopped } else { RejectReason::Overloaded });
        }
        // Counted first, checked second: an engine thread that sees no live request after it has set `stopping` has
        // missed nobody.
        if self.shared.stopping.load(Ordering::SeqCst)
            || self.inbox.send(Message::Submit(Box::new(request), grammar)).is_err()
        {
            self.shared.leave();
            return Err(RejectReason::EngineStopped);
        }
        Ok(Ticket { id, inbox: self.inbox.clone() })
    }

    /// Brings an adapter of the engine's model onto its device; requests may name it from the answer on, which
    /// [`EngineHandle::wait_for`] waits for.
    pub fn load_adapter(&self, adapter: Arc<Adapter>) -> flume::Receiver<Result<AdapterId, KernelError>> {
        let (answer, loaded) = flume::bounded(1);
        self.send(Message::Adapter(AdapterMessage::Load(adapters::next_id(), adapter, answer)));
        loaded
    }

    /// No request may name the adapter from now on; the answer comes when those that did have ended and its memory is
    /// free.
    pub fn unload_adapter(&self, id: AdapterId) -> flume::Receiver<()> {
        let (answer, gone) = flume::bounded(1);
        self.send(Message::Adapter(AdapterMessage::Unload(id, answer)));
        gone
    }

    /// Waits for an answer to [`EngineHandle::load_adapter`] or [`EngineHandle::unload_adapter`]; `None` where the engine
    /// ends without one. Blocks. The channel alone does not tell: a message that an engine left unread stays in the inbox.
    pub fn wait_for<T>(&self, answer: &flume::Receiver<T>) -> Option<T> {
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Some(answer),
                Err(flume::RecvTimeoutError::Disconnected) => return None,
                // It may have answered just before it ended.
                Err(flume::RecvTimeoutError::Timeout) if self.inbox.is_disconnected() => {
                    return answer.try_recv().ok();
                }
                Err(flume::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What the engine can hold and do; `max_seq_len` is the longest prompt plus `max_new_tokens` it accepts.
    pub fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    pub fn stats(&self) -> EngineStats {
        self.shared.snapshot(self.inbox.len())
    }

    /// Accepts no more requests; what was accepted is finished, then the engine thread ends and the output channel
    /// closes.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.send(Message::Stop);
    }

    /// Like [`EngineHandle::stop`], but ends what is in flight with [`weirgate_types::Finish::EngineFailed`].
    pub fn abort(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.send(Message::Abort);
    }

    fn send(&self, message: Message) {
        if self.inbox.send(message).is_err() {
            tracing::debug!("the engine has ended already");
        }
    }
}

/// A submitted request. Dropping it cancels the request, at any time: it is free of effect after the request's end.
#[derive(Debug)]
#[must_use = "dropping the ticket cancels the request"]
pub struct Ticket {
    id: RequestId,
    inbox: flume::Sender<Message>,
}

impl Ticket {
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Ends sequence `index` of the request with [`weirgate_types::Finish::Cancelled`], by the next step; its siblings go
    /// on. Free of effect if it has ended or never was.
    pub fn cancel_sequence(&self, index: u32) {
        // An engine that has ended has nothing left to cancel.
        let _ = self.inbox.send(Message::CancelSequence(self.id, index));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // An engine that has ended has nothing left to cancel.
        let _ = self.inbox.send(Message::Cancel(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_an_engine_that_has_ended() {
        let (inbox, messages) = flume::unbounded();
        let limits = ExecutorLimits {
            blocks: 1,
            block_size: 1,
            max_step_tokens: 1,
            max_seqs: 1,
            vocab_size: 1,
            max_seq_len: 1,
        };
        let handle = EngineHandle { inbox, shared: Arc::new(Shared::new(1)), limits, max_waiting: 1 };
        let unread = handle.unload_adapter(AdapterId(1));
        let read = handle.unload_adapter(AdapterId(2));
        let answered = handle.unload_adapter(AdapterId(3));
        let first = messages.recv().unwrap();
        // The first one stays unread in the inbox, the second goes with the engine, the third is answered.
        handle.send(first);
        drop(messages.recv());
        if let Ok(Message::Adapter(AdapterMessage::Unload(_, answer))) = messages.recv() {
            answer.send(()).unwrap();
        }
        drop(messages);
        assert_eq!(handle.wait_for(&answered), Some(()));
        assert_eq!(handle.wait_for(&read), None);
        assert_eq!(handle.wait_for(&unread), None);
        assert_eq!(handle.wait_for(&handle.unload_adapter(AdapterId(4))), None);
    }
}
