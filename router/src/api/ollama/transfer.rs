//! `POST /api/pull` and `POST /api/push`.

use axum::response::Response;
use weirgate_store::Transfer;

use super::errors::Refusal;
use super::types::{ProgressLine, TransferRequest};
use super::{names, work};
use crate::api::Administrator;
use crate::api::extract::AnyType;

/// Brings a model here. Who pulls the same at the same time shares one download, which ends with the last of them.
#[utoipa::path(
    post,
    path = "/api/pull",
    tag = super::TAG,
    operation_id = "ollama_pull",
    request_body = TransferRequest,
    responses(
        (status = 200, description = "Lines of progress, the last one `success`", content_type = "application/x-ndjson", body = ProgressLine),
        Refusal
    )
)]
pub(super) async fn pull(
    Administrator(state): Administrator,
    body: AnyType<TransferRequest>,
) -> Result<Response, Refusal> {
    let (name, transfer, streams) = read(body.0?)?;
    work::told(&state, streams, move |store, models, report| {
        let full = name.strip_prefix("http://").unwrap_or(&name);
        let known = store.find(full).ok();
        store.pull(&name, transfer, report)?;
        if let (Some(known), Ok(now)) = (known, store.find(full))
            && known.digest != now.digest
        {
            models.unload(&now.name);
        }
        Ok(())
    })
    .await
}

/// Sends a model to the registry that its name says.
#[utoipa::path(
    post,
    path = "/api/push",
    tag = super::TAG,
    operation_id = "ollama_push",
    request_body = TransferRequest,
    responses(
        (status = 200, description = "Lines of progress, the last one `success`", content_type = "application/x-ndjson", body = ProgressLine),
        Refusal
    )
)]
pub(super) async fn push(
    Administrator(state): Administrator,
    body: AnyType<TransferRequest>,
) -> Result<Response, Refusal> {
    let (name, transfer, streams) = read(body.0?)?;
    work::told(&state, streams, move |store, _, report| store.push(&name, transfer, report)).await
}

fn read(body: TransferRequest) -> Result<(String, Transfer, bool), Refusal> {
    let name = names::asked(body.model, body.name)?;
    let transfer = Transfer { insecure: body.insecure.unwrap_or(false) };
    Ok((name, transfer, body.stream.unwrap_or(true)))
}
