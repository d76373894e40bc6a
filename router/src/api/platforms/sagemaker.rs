use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::api::docs::schemas;
use crate::api::extract::Body;
use crate::api::openai::{ChatRequest, CompletionRequest};
use crate::api::tgi::GenerateRequest;
use crate::api::{Caller, openai, tgi};

/// One of three requests, told apart by what they must have: `inputs`, `messages`, `prompt`, asked for in this order.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum SagemakerRequest {
    Generate(Box<GenerateRequest>),
    Chat(Box<ChatRequest>),
    Completion(Box<CompletionRequest>),
}

/// Answered as on the route whose request it is: `/`, `/v1/chat/completions` or `/v1/completions`.
#[utoipa::path(
    post,
    path = "/invocations",
    tag = super::TAG,
    operation_id = "sagemaker_compatibility",
    request_body = schemas::SagemakerRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (schemas::SagemakerResponse = "application/json"),
            (schemas::SagemakerStreamResponse = "text/event-stream")
        )),
        openai::Refusal,
    )
)]
pub(super) async fn invocations(caller: Caller, body: Body<SagemakerRequest>) -> Response {
    match body.0 {
        Ok(SagemakerRequest::Generate(body)) => tgi::handlers::compatible(caller, Body(Ok(*body))).await,
        Ok(SagemakerRequest::Chat(body)) => openai::chat::completions(caller, Body(Ok(*body))).await,
        Ok(SagemakerRequest::Completion(body)) => {
            openai::completions::completions(caller, Body(Ok(*body))).await
        }
        Err(error) => error.into_response(),
    }
}
