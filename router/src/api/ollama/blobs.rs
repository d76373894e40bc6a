//! `/api/blobs/{digest}`: content that models are made of.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use weirgate_store::{Digest, StoreError};

use super::errors::Refusal;
use super::work;
use crate::api::{Administrator, Caller};
use crate::background;

/// Pieces of a body that may wait to be written.
const BACKLOG: usize = 8;
/// A body of which nothing has come for so long will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether content is here; HEAD asks the same.
#[utoipa::path(
    get,
    path = "/api/blobs/{digest}",
    tag = super::TAG,
    operation_id = "ollama_has_blob",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "It is here"), Refusal)
)]
pub(super) async fn find(
    Caller(state): Caller,
    digest: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let digest = read(digest)?;
    let store = state.store;
    let look = move || store.is_some_and(|store| store.has_blob(&digest));
    match tokio::task::spawn_blocking(look).await {
        Ok(true) => Ok(StatusCode::OK),
        _ => Err(StoreError::BlobNotFound(digest).into()),
    }
}

/// Takes content in. What is not of this digest is not kept.
#[utoipa::path(
    post,
    path = "/api/blobs/{digest}",
    tag = super::TAG,
    operation_id = "ollama_add_blob",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "It was here"), (status = 201, description = "Taken in"), Refusal)
)]
pub(super) async fn add(
    Administrator(state): Administrator,
    digest: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let answer = async {
        let (digest, store) = (read(digest)?, work::store(&state)?);
        let (send, pieces) = mpsc::channel(BACKLOG);
        let take = move || {
            let mut source = Pieces { pieces, piece: Bytes::new() };
            let new = store.put_blob(&digest, &mut source)?;
            if !new {
                // Who still sends would otherwise see a broken connection rather than the answer.
                io::copy(&mut source, &mut io::sink()).map_err(|_| StoreError::Canceled)?;
            }
            Ok::<_, StoreError>(new)
        };
        let taken = background::spawn("blob", take).map_err(|_| Refusal::broke_off())?;
        pass_on(request.into_body(), send).await;
        match taken.await.map_err(|_| Refusal::broke_off())?? {
            true => Ok(StatusCode::CREATED),
            false => Ok(StatusCode::OK),
        }
    };
    answer.await.map_or_else(Refusal::into_response, IntoResponse::into_response)
}

fn read(digest: Result<Path<String>, PathRejection>) -> Result<Digest, Refusal> {
    let digest = digest.ok().and_then(|Path(digest)| digest.parse().ok());
    digest.ok_or_else(|| Refusal::bad("invalid digest format".to_owned()))
}

/// Hands the body on to a thread that may block, until that wants no more of it.
async fn pass_on(mut body: Body, send: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match tokio::time::timeout(PATIENCE, body.frame()).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => return,
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
        };
        let last = piece.is_err();
        if send.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The body as a thread reads it.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        let now = self.piece.split_to(n);
        buffer.get_mut(..n).unwrap_or_default().copy_from_slice(&now);
        Ok(n)
    }
}
