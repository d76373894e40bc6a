//! The metrics of one request: counted once when it comes and once when it ends, however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::error::ServiceError;
use crate::metrics::{FailureKind, Metrics, RequestFigures};

/// Holds a request's place and its times. Dropped before its end, the request counts as dropped by its client.
pub(crate) struct Account {
    metrics: Arc<Metrics>,
    started: Instant,
    validated: Option<Instant>,
    scheduled: Option<Instant>,
    ended: Option<Instant>,
    generated_tokens: u32,
    /// Given back when the request is over.
    _permit: OwnedSemaphorePermit,
}

impl Account {
    /// A request that got a place.
    pub fn open(metrics: Arc<Metrics>, permit: OwnedSemaphorePermit) -> Self {
        metrics.request_started();
        Self {
            metrics,
            started: Instant::now(),
            validated: None,
            scheduled: None,
            ended: None,
            generated_tokens: 0,
            _permit: permit,
        }
    }

    pub fn validated(&mut self, input_tokens: usize, max_new_tokens: u32) {
        self.validated = Some(Instant::now());
        self.metrics.request_validated(input_tokens, max_new_tokens);
    }

    /// The first sequence left the queue.
    pub fn scheduled(&mut self) {
        self.scheduled.get_or_insert_with(Instant::now);
    }

    /// A token came, the one before it in its sequence at `previous`.
    pub fn token(&mut self, previous: Option<Instant>) {
        match previous {
            Some(previous) => self.metrics.next_token(previous.elapsed()),
            None => self.metrics.first_token(self.started.elapsed()),
        }
    }

    pub fn succeed(&mut self, generated_tokens: u32) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(Instant::now());
        self.generated_tokens = generated_tokens;
        let figures = self.figures();
        tracing::debug!(?figures, "a request ended well");
        self.metrics.request_succeeded(&figures);
    }

    pub fn fail(&mut self, error: &ServiceError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(Instant::now());
        tracing::debug!(%error, "a request failed");
        self.metrics.request_failed(kind(error));
    }

    pub fn figures(&self) -> RequestFigures {
        let end = self.ended.unwrap_or_else(Instant::now);
        let validated = self.validated.unwrap_or(end);
        let scheduled = self.scheduled.unwrap_or(validated);
        let between = |from: Instant, to: Instant| -> Duration { to.saturating_duration_since(from) };
        RequestFigures {
            validation: between(self.started, validated),
            queue: between(validated, scheduled),
            inference: between(scheduled, end),
            total: between(self.started, end),
            generated_tokens: self.generated_tokens,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.metrics.request_failed(FailureKind::Dropped);
        }
    }
}

pub(super) fn kind(error: &ServiceError) -> FailureKind {
    match error {
        ServiceError::Overloaded | ServiceError::Unavailable(_) => FailureKind::Overloaded,
        ServiceError::Validation(_) => FailureKind::Validation,
        ServiceError::Template(_) => FailureKind::Template,
        ServiceError::Generation(_) => FailureKind::Generation,
        ServiceError::Incomplete => FailureKind::Incomplete,
    }
}
