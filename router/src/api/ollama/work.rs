//! Work on the store, told line by line. It is done in a thread of its own; a client that goes away ends it.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::mpsc;
use weirgate_store::{Progress, Report, Store, StoreError};

use super::errors::Refusal;
use super::stream::ndjson;
use crate::api::AppState;
use crate::background;
use crate::residency::Models;

/// Lines that may wait for a client to read them.
const BACKLOG: usize = 16;

/// The store of our own.
///
/// # Errors
/// When this server has none.
pub(super) fn store(state: &AppState) -> Result<Arc<Store>, Refusal> {
    let own = state.store.as_ref().filter(|store| store.is_writable());
    own.cloned().ok_or(Refusal::NoStore)
}

/// Does short work on the store.
///
/// # Errors
/// Those of the work.
pub(super) async fn brief<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&Arc<Store>, &Models) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let (store, models) = (store(state)?, state.models.clone());
    let done = tokio::task::spawn_blocking(move || work(&store, &models)).await;
    Ok(done.map_err(|_| Refusal::broke_off())??)
}

/// Does long work on the store and answers with its lines of progress, or with the last one alone.
///
/// # Errors
/// What went wrong before there was a line, or, of an answer of one line, at all.
pub(super) async fn told(
    state: &AppState,
    streams: bool,
    work: impl FnOnce(&Arc<Store>, &Models, &mut Report<'_>) -> Result<(), StoreError> + Send + 'static,
) -> Result<Response, Refusal> {
    let (store, models) = (store(state)?, state.models.clone());
    let (tell, lines) = mpsc::channel(BACKLOG);
    let run = move || {
        let mut report = |progress| match tell.blocking_send(Line::Progress(progress)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        let end = work(&store, &models, &mut report);
        // Whoever asked may have gone.
        let _ = tell.blocking_send(Line::End(end));
    };
    background::spawn("store", run).map_err(|_| Refusal::broke_off())?;
    let mut lines = Lines { lines, ended: false };
    let first = lines.next().await.ok_or_else(Refusal::broke_off)??;
    if streams { Ok(lines.streamed(&first)) } else { lines.last(first).await }
}

enum Line {
    Progress(Progress),
    End(Result<(), StoreError>),
}

/// What is still to come. Dropping it ends the work.
struct Lines {
    lines: mpsc::Receiver<Line>,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Option<Result<Progress, Refusal>> {
        if self.ended {
            return None;
        }
        match self.lines.recv().await {
            Some(Line::Progress(progress)) => Some(Ok(progress)),
            Some(Line::End(Ok(()))) => {
                self.ended = true;
                None
            }
            Some(Line::End(Err(error))) => {
                self.ended = true;
                Some(Err(error.into()))
            }
            None => {
                self.ended = true;
                Some(Err(Refusal::broke_off()))
            }
        }
    }

    fn streamed(self, first: &Progress) -> Response {
        let first = stream::iter([Ok::<_, Infallible>(line(first))]);
        let rest = stream::unfold(self, |mut lines| async move {
            let bytes = match lines.next().await? {
                Ok(progress) => line(&progress),
                Err(error) => line(&error.body()),
            };
            Some((Ok(bytes), lines))
        });
        ndjson(Body::from_stream(futures_util::StreamExt::chain(first, rest)))
    }

    async fn last(mut self, mut last: Progress) -> Result<Response, Refusal> {
        while let Some(progress) = self.next().await {
            last = progress?;
        }
        Ok(Json(last).into_response())
    }
}

fn line(value: &impl serde::Serialize) -> Bytes {
    // Structs of strings and numbers always serialize.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
