//! The spans of one request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::error::TrySendError;

use super::context::{SpanId, TraceContext};
use super::proto::{Kind, Span, Value};
use super::{Message, Recorder, Tracer, layer};

/// When a request entered each of its phases, as far as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub started: Instant,
    pub validated: Option<Instant>,
    pub scheduled: Option<Instant>,
    pub first_token: Option<Instant>,
    pub ended: Instant,
}

/// How a request went.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub input_tokens: usize,
    pub generated_tokens: u32,
    /// The kind of failure and what is to be said of it.
    pub error: Option<(&'static str, String)>,
}

/// One request's part in its trace.
pub(crate) struct RequestTrace {
    /// The log's span, for lines written after the handler returned.
    log: tracing::Span,
    recording: Option<Box<(Arc<Recorder>, TraceContext)>>,
}

impl Tracer {
    /// Within a handler: the trace of its request.
    pub fn begin(&self) -> RequestTrace {
        self.begin_in(layer::current())
    }

    pub(super) fn begin_in(&self, context: Option<TraceContext>) -> RequestTrace {
        let context = context.filter(|context| context.sampled);
        RequestTrace { log: tracing::Span::current(), recording: self.0.clone().zip(context).map(Box::new) }
    }
}

impl RequestTrace {
    /// Writes log lines on behalf of the request.
    pub fn log(&self, write: impl FnOnce()) {
        self.log.in_scope(write);
    }

    /// Records the request's span and one for each phase it entered.
    pub fn finish(&self, phases: &Phases, summary: Summary) {
        let Some((recorder, context)) = self.recording.as_deref() else { return };
        let spans = spans(context, &recorder.model, phases, summary);
        if let Err(TrySendError::Full(_)) = recorder.spans.try_send(Message::Spans(spans)) {
            tracing::warn!("a request's trace was dropped: the collector does not keep up");
        }
    }
}

fn spans(context: &TraceContext, model: &str, phases: &Phases, summary: Summary) -> Vec<Span> {
    let (instant, now) = (Instant::now(), SystemTime::now());
    let wall = |moment: Instant| now - instant.saturating_duration_since(moment);
    let id = SpanId::random();
    let span = |name: Cow<'static, str>, id, parent, (start, end)| Span {
        trace: context.trace,
        id,
        parent,
        state: context.state.clone(),
        name,
        kind: Kind::Internal,
        start: wall(start),
        end: wall(end),
        attributes: Vec::new(),
        error: None,
    };
    let whole = (phases.started, phases.ended);
    let mut request = span(context.name.to_string().into(), id, context.parent, whole);
    request.kind = Kind::Server;
    request.attributes = vec![
        ("gen_ai.request.model", Value::Text(model.to_owned())),
        ("gen_ai.usage.input_tokens", Value::Number(summary.input_tokens as i64)),
        ("gen_ai.usage.output_tokens", Value::Number(i64::from(summary.generated_tokens))),
    ];
    if let Some((kind, message)) = summary.error {
        request.attributes.push(("error.type", Value::Text(kind.to_owned())));
        request.error = Some(message);
    }
    let entered = [
        ("validation", Some(phases.started)),
        ("queue", phases.validated),
        ("prefill", phases.scheduled),
        ("decode", phases.first_token),
    ];
    let mut spans = vec![request];
    for (at, (name, start)) in entered.into_iter().enumerate() {
        let Some(start) = start else { continue };
        let next = entered.get(at + 1).and_then(|(_, next)| *next);
        let times = (start, next.unwrap_or(phases.ended));
        spans.push(span(name.into(), SpanId::random(), Some(id), times));
    }
    spans
}
