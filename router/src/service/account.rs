//! The metrics and the trace of one request: counted once when it comes and once when it ends, however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::error::ServiceError;
use crate::metrics::{FailureKind, Metrics, RequestFigures};
use crate::telemetry::{Phases, RequestTrace, Summary, Tracer};

/// Holds a request's place and its times. Dropped before its end, the request counts as dropped by its client.
pub(crate) struct Account {
    metrics: Arc<Metrics>,
    trace: RequestTrace,
    started: Instant,
    validated: Option<Instant>,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    ended: Option<Instant>,
    input_tokens: usize,
    /// Of all sequences.
    generated_tokens: u32,
    /// Given back when the request is over.
    _permit: OwnedSemaphorePermit,
}

impl Account {
    /// A request that got a place.
    pub fn open(metrics: Arc<Metrics>, tracer: &Tracer, permit: OwnedSemaphorePermit) -> Self {
        metrics.request_started();
        Self {
            metrics,
            trace: tracer.begin(),
            started: Instant::now(),
            validated: None,
            scheduled: None,
            first_token: None,
            ended: None,
            input_tokens: 0,
            generated_tokens: 0,
            _permit: permit,
        }
    }

    /// Books a request that never got a place.
    pub fn refuse(metrics: &Metrics, tracer: &Tracer, error: &ServiceError) {
        metrics.request_started();
        let kind = kind(error);
        metrics.request_refused(kind);
        let now = Instant::now();
        let phases = Phases { started: now, validated: None, scheduled: None, first_token: None, ended: now };
        let error = Some((kind.label(), error.to_string()));
        tracer.begin().finish(&phases, Summary { input_tokens: 0, generated_tokens: 0, error });
    }

    pub fn validated(&mut self, input_tokens: usize, max_new_tokens: u32) {
        self.validated = Some(Instant::now());
        self.input_tokens = input_tokens;
        self.metrics.request_validated(input_tokens, max_new_tokens);
    }

    /// The first sequence left the queue.
    pub fn scheduled(&mut self) {
        self.scheduled.get_or_insert_with(Instant::now);
    }

    /// A token came, the one before it in its sequence at `previous`.
    pub fn token(&mut self, previous: Option<Instant>) {
        self.generated_tokens += 1;
        self.metrics.token();
        if let Some(previous) = previous {
            self.metrics.next_token(previous.elapsed());
        } else if self.first_token.is_none() {
            self.first_token = Some(Instant::now());
            self.metrics.first_token(self.started.elapsed());
        }
    }

    pub fn succeed(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let ended = self.end();
        let figures = self.figures();
        self.trace.log(|| tracing::debug!(?figures, "a request ended well"));
        self.metrics.request_succeeded(&figures);
        self.finish_trace(ended, None);
    }

    pub fn fail(&mut self, error: &ServiceError) {
        if self.ended.is_some() {
            return;
        }
        let (ended, kind) = (self.end(), kind(error));
        self.trace.log(|| tracing::debug!(%error, "a request failed"));
        self.metrics.request_failed(kind, ended.saturating_duration_since(self.started));
        self.finish_trace(ended, Some((kind.label(), error.to_string())));
    }

    fn end(&mut self) -> Instant {
        *self.ended.insert(Instant::now())
    }

    fn finish_trace(&self, ended: Instant, error: Option<(&'static str, String)>) {
        let phases = Phases {
            started: self.started,
            validated: self.validated,
            scheduled: self.scheduled,
            first_token: self.first_token,
            ended,
        };
        let (input_tokens, generated_tokens) = (self.input_tokens, self.generated_tokens);
        self.trace.finish(&phases, Summary { input_tokens, generated_tokens, error });
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
            prefill: between(scheduled, self.first_token.unwrap_or(end)),
            total: between(self.started, end),
            generated_tokens: self.generated_tokens,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let (ended, kind) = (self.end(), FailureKind::Dropped);
            self.trace.log(|| tracing::debug!("a request's client went away"));
            self.metrics.request_failed(kind, ended.saturating_duration_since(self.started));
            self.finish_trace(ended, Some((kind.label(), "the client went away".to_owned())));
        }
    }
}

fn kind(error: &ServiceError) -> FailureKind {
    match error {
        ServiceError::Overloaded | ServiceError::Unavailable(_) => FailureKind::Overloaded,
        ServiceError::Validation(_) | ServiceError::Tool(_) => FailureKind::Validation,
        ServiceError::Template(_) => FailureKind::Template,
        ServiceError::Generation(_) => FailureKind::Generation,
        ServiceError::Incomplete => FailureKind::Incomplete,
    }
}
