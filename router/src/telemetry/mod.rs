//! Traces: one span per request with one per phase under it, sent to an OpenTelemetry collector (OTLP over gRPC).
//!
//! A request belongs to the trace that its `traceparent` header names, or begins one. Log lines written on its behalf
//! carry the trace's id. Spans hold names, times and counts, never prompts or answers.

mod context;
mod export;
mod grpc;
mod layer;
mod proto;
mod request;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub(crate) use layer::trace;
pub(crate) use request::{Phases, RequestTrace, Summary};

/// Requests whose spans may wait to be sent; those of more are dropped.
const BACKLOG: usize = 2048;
/// How long the last spans may take when the server ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSettings {
    pub endpoint: OtlpEndpoint,
    /// `service.name` of the spans' resource.
    pub service_name: String,
}

/// `http://host[:port]` of a collector that speaks OTLP over gRPC; port 4317 if none is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OtlpEndpoint {
    host: String,
    port: u16,
}

/// The endpoint cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form http://host:port (a collector's gRPC port; TLS is not supported)")]
pub struct OtlpEndpointError(String);

impl FromStr for OtlpEndpoint {
    type Err = OtlpEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || OtlpEndpointError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let plain =
            uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        match uri.host() {
            Some(host) if plain && !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self { host, port: uri.port_u16().unwrap_or(4317) })
            }
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for OtlpEndpoint {
    type Error = OtlpEndpointError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OtlpEndpoint> for String {
    fn from(endpoint: OtlpEndpoint) -> Self {
        endpoint.to_string()
    }
}

/// What the exporter is told.
enum Message {
    Spans(Vec<proto::Span>),
    /// Answer once everything before this was sent.
    Flush(oneshot::Sender<()>),
}

/// Takes finished spans; without settings it records nothing. Clones share the exporter.
#[derive(Clone)]
pub(crate) struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    model: String,
    spans: mpsc::Sender<Message>,
}

impl Tracer {
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the exporter on the current runtime; it ends with the last clone.
    pub fn start(settings: &TraceSettings, model_id: &str) -> Self {
        let (spans, messages) = mpsc::channel(BACKLOG);
        tokio::spawn(export::run(settings.clone(), messages));
        Self(Some(Arc::new(Recorder { model: model_id.to_owned(), spans })))
    }

    fn records(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until what was recorded is sent, or has had its time.
    pub async fn flush(&self) {
        let Some(recorder) = &self.0 else { return };
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if recorder.spans.send(Message::Flush(done)).await.is_ok() {
                let _ = sent.await;
            }
        };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::warn!("the last trace spans were not sent in time");
        }
    }
}
