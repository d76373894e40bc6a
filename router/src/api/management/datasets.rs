//! `datasets/` and what is below it.

use std::io::Read;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, multipart::MultipartRejection};
use axum::extract::{Multipart, Query, Request};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::errors::Refusal;
use super::types::{Dataset, Describe, UploadForm};
use super::{Named, blocking, management, upload};
use crate::api::Administrator;
use crate::background;

const PIECE: usize = 256 << 10;
/// Pieces of a file that may wait to be sent.
const BACKLOG: usize = 4;

/// All data sets, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/datasets/",
    tag = super::TAG,
    operation_id = "management_datasets",
    responses((status = 200, description = "All of them", body = Vec<Dataset>), Refusal)
)]
pub(super) async fn list(Administrator(state): Administrator) -> Result<Json<Vec<Dataset>>, Refusal> {
    let rows = blocking(&state, |management| management.datasets()).await?;
    Ok(Json(rows.iter().map(Dataset::from).collect()))
}

/// Takes a data set in: JSON lines, each a conversation of `messages` with `role` and `content`, or of `conversations` with
/// `from` and `value`. What is not valid is not kept; the first errors are told by their lines.
#[utoipa::path(
    post,
    path = "/api/v1/datasets/upload/",
    tag = super::TAG,
    operation_id = "management_upload_dataset",
    params(Describe),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The data set", body = Dataset), Refusal)
)]
pub(super) async fn upload(
    Administrator(state): Administrator,
    query: Result<Query<Describe>, QueryRejection>,
    request: Request,
) -> Result<Json<Dataset>, Refusal> {
    let management = management(&state)?;
    let wrong = |reason| Refusal::Field { place: "query", field: "description", reason };
    let Query(Describe { description }) = query.map_err(|error| wrong(error.body_text()))?;
    let form: Result<Multipart, MultipartRejection> = Multipart::from_request(request, &()).await;
    let form = form.map_err(|error| upload::refused(error.body_text()))?;
    let row = upload::take(management, form, description).await?;
    Ok(Json((&row).into()))
}

/// The file of a data set, as it was uploaded.
#[utoipa::path(
    get,
    path = "/api/v1/datasets/{dataset_id}/",
    tag = super::TAG,
    operation_id = "management_dataset",
    params(("dataset_id" = String, Path, description = "The data set's id")),
    responses((status = 200, description = "The file", content_type = "application/jsonl", body = Vec<u8>), Refusal)
)]
pub(super) async fn download(
    Administrator(state): Administrator,
    Named(dataset): Named,
) -> Result<Response, Refusal> {
    let (row, mut content) = blocking(&state, move |management| management.dataset(&dataset)).await?;
    let (send, pieces) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(BACKLOG);
    let read = move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match content.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default())),
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if send.blocking_send(piece).is_err() || last {
                return;
            }
        }
    };
    background::spawn("data set", read).map_err(|_| Refusal::BrokeOff)?;
    let pieces = stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' };
    let name: String = row.name.chars().map(plain).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
