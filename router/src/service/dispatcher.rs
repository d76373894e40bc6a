//! Carries the engine's outputs to the requests that wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::mpsc;
use weirgate_engine::Ticket;
use weirgate_types::{RequestId, SeqUpdate, StepOutputs};

use super::error::Failure;
use crate::metrics::Metrics;

/// Steps' worth of output that may wait for one reader, beyond what the socket holds. A reader that falls further
/// behind is dropped; nobody else notices.
const BACKLOG: usize = 1024;

/// What one step did for one request: updates and the sequences they belong to.
pub(crate) type Updates = Vec<(u32, SeqUpdate)>;

/// Where each request's outputs go, and the tickets that keep the requests alive.
#[derive(Default)]
pub(crate) struct Dispatcher {
    routes: Mutex<HashMap<RequestId, Route>>,
}

struct Route {
    updates: mpsc::Sender<Updates>,
    /// Set before the channel is closed early.
    failure: Arc<OnceLock<Failure>>,
    /// Dropping it cancels the request in the engine.
    ticket: Option<Ticket>,
}

/// The receiving end of one request. Dropping it cancels the request: its blocks are free by the next step.
pub(crate) struct Mailbox {
    id: RequestId,
    updates: mpsc::Receiver<Updates>,
    failure: Arc<OnceLock<Failure>>,
    dispatcher: Arc<Dispatcher>,
}

impl Dispatcher {
    /// Opens a mailbox for a request that is about to be submitted.
    pub fn open(self: &Arc<Self>, id: RequestId) -> Mailbox {
        let (sender, updates) = mpsc::channel(BACKLOG);
        let failure = Arc::new(OnceLock::new());
        self.routes().insert(id, Route { updates: sender, failure: failure.clone(), ticket: None });
        Mailbox { id, updates, failure, dispatcher: self.clone() }
    }

    /// Keeps the ticket until the mailbox is dropped or its reader has fallen behind.
    pub fn attach(&self, ticket: Ticket) {
        match self.routes().get_mut(&ticket.id()) {
            Some(route) => route.ticket = Some(ticket),
            None => drop(ticket),
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.routes().len()
    }

    /// Ends every request under way with `failure`.
    pub fn fail_all(&self, failure: Failure) {
        let routes = std::mem::take(&mut *self.routes());
        for route in routes.into_values() {
            let _ = route.failure.set(failure);
        }
    }

    /// Runs until the engine has ended.
    pub async fn run(self: Arc<Self>, outputs: flume::Receiver<StepOutputs>, metrics: Arc<Metrics>) {
        while let Ok(step) = outputs.recv_async().await {
            metrics.observe_step(&step);
            self.deliver(step);
        }
    }

    fn deliver(&self, step: StepOutputs) {
        let mut by_request: Vec<(RequestId, Updates)> = Vec::new();
        for output in step.outputs {
            let entry = (output.index, output.update);
            match by_request.last_mut() {
                Some((id, updates)) if *id == output.request => updates.push(entry),
                _ => by_request.push((output.request, vec![entry])),
            }
        }
        let mut routes = self.routes();
        let mut behind = Vec::new();
        for (id, updates) in by_request {
            let Some(route) = routes.get(&id) else { continue };
            if let Err(mpsc::error::TrySendError::Full(_)) = route.updates.try_send(updates) {
                let _ = route.failure.set(Failure::SlowReader);
                behind.extend(routes.remove(&id));
            }
        }
        drop(routes);
        drop(behind);
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<RequestId, Route>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    /// The next step's updates; `None` when there will be none, with [`Mailbox::failure`] saying why.
    pub async fn recv(&mut self) -> Option<Updates> {
        self.updates.recv().await
    }

    /// Tells the engine that sequence `index` is not wanted any more.
    pub fn cancel_sequence(&self, index: u32) {
        if let Some(ticket) = self.dispatcher.routes().get(&self.id).and_then(|route| route.ticket.as_ref()) {
            ticket.cancel_sequence(index);
        }
    }

    /// Why the mailbox was closed before the request ended.
    pub fn failure(&self) -> Failure {
        self.failure.get().copied().unwrap_or(Failure::Engine)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let route = self.dispatcher.routes().remove(&self.id);
        drop(route);
    }
}

#[cfg(test)]
mod tests {
    use weirgate_types::{SeqOutput, TokenOut};

    use super::*;

    fn step(requests: &[u64]) -> StepOutputs {
        let token = |id| SeqOutput {
            request: RequestId(id),
            index: 0,
            update: SeqUpdate::Token(TokenOut { id: 1, logprob: 0.0, top: Vec::new() }),
        };
        StepOutputs { outputs: requests.iter().map(|id| token(*id)).collect(), ..StepOutputs::default() }
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_dropped_alone() {
        let dispatcher = Arc::new(Dispatcher::default());
        let (mut slow, mut quick) = (dispatcher.open(RequestId(1)), dispatcher.open(RequestId(2)));
        for _ in 0..=BACKLOG {
            dispatcher.deliver(step(&[1, 2]));
            assert_eq!(quick.recv().await.unwrap().len(), 1);
        }
        assert_eq!(dispatcher.in_flight(), 1);
        for _ in 0..BACKLOG {
            assert!(slow.recv().await.is_some());
        }
        assert!(slow.recv().await.is_none());
        assert_eq!(slow.failure(), Failure::SlowReader);
        dispatcher.deliver(step(&[2]));
        assert!(quick.recv().await.is_some());
    }

    #[tokio::test]
    async fn one_step_is_one_message_and_a_dropped_mailbox_is_closed() {
        let dispatcher = Arc::new(Dispatcher::default());
        let mut mailbox = dispatcher.open(RequestId(3));
        dispatcher.deliver(step(&[3, 3, 4]));
        assert_eq!(mailbox.recv().await.unwrap().len(), 2);
        drop(mailbox);
        assert_eq!(dispatcher.in_flight(), 0);
        dispatcher.deliver(step(&[3]));
    }

    #[tokio::test]
    async fn failing_all_says_why() {
        let dispatcher = Arc::new(Dispatcher::default());
        let mut mailbox = dispatcher.open(RequestId(5));
        dispatcher.fail_all(Failure::Stalled);
        assert!(mailbox.recv().await.is_none());
        assert_eq!(mailbox.failure(), Failure::Stalled);
    }
}
