//! Sends spans in batches, away from the requests they are about.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::grpc::Channel;
use super::proto::{Span, export_request};
use super::{Message, TraceSettings};

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// A batch is sent once it has this many spans or is this old.
const BATCH: usize = 512;
const PERIOD: Duration = Duration::from_secs(1);

/// Runs until every [`super::Tracer`] is gone. Spans that cannot be sent are dropped; the log says so once per outage.
pub(super) async fn run(settings: TraceSettings, mut messages: mpsc::Receiver<Message>) {
    let mut channel = Channel::new(settings.endpoint.clone());
    let mut reachable = true;
    while let Some(batch) = collect(&mut messages).await {
        if !batch.spans.is_empty() {
            let request = export_request(&settings.service_name, &batch.spans);
            match channel.call(METHOD, &request).await {
                Ok(()) => reachable = true,
                Err(error) if reachable => {
                    tracing::warn!(%error, "traces are dropped while {} takes none", settings.endpoint);
                    reachable = false;
                }
                Err(_) => {}
            }
        }
        for done in batch.flushes {
            let _ = done.send(());
        }
    }
}

#[derive(Default)]
struct Batch {
    spans: Vec<Span>,
    flushes: Vec<oneshot::Sender<()>>,
}

/// The next batch; `None` when nothing more will come.
async fn collect(messages: &mut mpsc::Receiver<Message>) -> Option<Batch> {
    let mut batch = Batch::default();
    let mut next = messages.recv().await?;
    let until = Instant::now() + PERIOD;
    loop {
        match next {
            Message::Spans(spans) => batch.spans.extend(spans),
            Message::Flush(done) => batch.flushes.push(done),
        }
        if batch.spans.len() >= BATCH || !batch.flushes.is_empty() {
            return Some(batch);
        }
        match timeout_at(until, messages.recv()).await {
            Ok(Some(message)) => next = message,
            Ok(None) | Err(_) => return Some(batch),
        }
    }
}
