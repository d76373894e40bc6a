//! `POST /api/copy` and `DELETE /api/delete`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use weirgate_store::{ModelName, StoreError};

use super::errors::Refusal;
use super::types::{CopyRequest, DeleteRequest};
use super::{names, work};
use crate::api::extract::AnyType;
use crate::api::{Administrator, AppState};

/// Gives a model a second name.
#[utoipa::path(
    post,
    path = "/api/copy",
    tag = super::TAG,
    operation_id = "ollama_copy",
    request_body = CopyRequest,
    responses((status = 200, description = "Copied"), Refusal)
)]
pub(super) async fn copy(Administrator(state): Administrator, body: AnyType<CopyRequest>) -> Response {
    let answer = async { copied(&state, body.0?).await };
    done(answer.await)
}

async fn copied(state: &AppState, body: CopyRequest) -> Result<(), Refusal> {
    let invalid = |what: &str, name: &str| Refusal::bad(format!("{what} {name:?} is invalid"));
    let source = body.source.unwrap_or_default();
    if source.parse::<ModelName>().is_err() {
        return Err(invalid("source", &source));
    }
    let destination = body.destination.unwrap_or_default();
    if destination.parse::<ModelName>().is_err() {
        return Err(invalid("destination", &destination));
    }
    let destination = names::new(state, &destination)?;
    let asked = source.clone();
    let copied = work::brief(state, move |store, models| {
        store.copy(&asked, &destination)?;
        models.unload(&destination.to_string());
        Ok(())
    });
    copied.await.map_err(|error| match error {
        Refusal::Store(StoreError::ModelNotFound(_)) => {
            Refusal::Absent(format!("model {source:?} not found"))
        }
        other => other,
    })
}

/// Removes a model, and the content that no other one uses. Requests that it answers are answered to their end.
#[utoipa::path(
    delete,
    path = "/api/delete",
    tag = super::TAG,
    operation_id = "ollama_delete",
    request_body = DeleteRequest,
    responses((status = 200, description = "Deleted"), Refusal)
)]
pub(super) async fn delete(Administrator(state): Administrator, body: AnyType<DeleteRequest>) -> Response {
    let answer = async {
        let body = body.0?;
        let name = names::asked(body.model, body.name)?;
        names::not_pinned(&state, &name)?;
        if state.models.is_deployed(&name) {
            return Err(Refusal::Deployed(name));
        }
        let asked = name.clone();
        let deleted = work::brief(&state, move |store, models| {
            // One whose manifest is damaged can go, too.
            let known = store.find(&asked).map_or_else(|_| asked.clone(), |entry| entry.name);
            store.delete(&asked)?;
            models.unload(&known);
            Ok(())
        });
        deleted.await.map_err(|error| match error {
            Refusal::Store(StoreError::ModelNotFound(_) | StoreError::Name(_)) => {
                Refusal::ModelNotFound(name)
            }
            other => other,
        })
    };
    done(answer.await)
}

/// Clients take exactly 200 for success; there is nothing to say.
fn done(result: Result<(), Refusal>) -> Response {
    result.map_or_else(Refusal::into_response, |()| StatusCode::OK.into_response())
}
