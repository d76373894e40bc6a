//! `POST /rerank` and `POST /v1/rerank`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::errors::{Refusal, serving};
use super::types::{Document, Rank, RerankAnswer, RerankRequest, RerankResponse, RerankResult, RerankUsage};
use crate::api::Caller;
use crate::api::extract::Body;
use crate::service::random;

/// Texts by how well they answer a query; in Cohere's and Jina's form, or in text-embeddings-inference's.
#[utoipa::path(
    post,
    path = "/rerank",
    tag = super::TAG,
    operation_id = "rerank",
    request_body = RerankRequest,
    responses((status = 200, description = "The scores, best first", body = RerankAnswer), Refusal)
)]
pub(super) async fn rerank(caller: Caller, body: Body<RerankRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => answer(caller, body).await,
        Err(error) => Err(error.into()),
    };
    answered.map_or_else(Refusal::into_response, |answer| Json(answer).into_response())
}

/// The same under the path that OpenAI's clients begin with.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = super::TAG,
    operation_id = "rerank_v1",
    request_body = RerankRequest,
    responses((status = 200, description = "The scores, best first", body = RerankAnswer), Refusal)
)]
pub(super) async fn rerank_v1(caller: Caller, body: Body<RerankRequest>) -> Response {
    rerank(caller, body).await
}

async fn answer(caller: Caller, body: RerankRequest) -> Result<RerankAnswer, Refusal> {
    let state = serving(caller, body.model.as_deref()).await?;
    let invalid = |field, message: &str| Refusal::invalid(&state, field, message.to_owned());
    let (field, texts) = match (body.documents, body.texts) {
        (Some(documents), None) => {
            let texts: Option<Vec<String>> = documents.iter().map(text_of).collect();
            (
                "documents",
                texts.ok_or_else(|| invalid("documents", "must be texts, or objects with a `text`"))?,
            )
        }
        (None, Some(texts)) => ("texts", texts),
        _ => return Err(invalid("documents", "either `documents` or `texts` is needed, not both")),
    };
    if texts.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    if body.top_n == Some(0) {
        return Err(invalid("top_n", "0 is not allowed; at least 1"));
    }
    let tei = field == "texts";
    let (truncate, raw) = (body.truncate.unwrap_or(!tei), body.raw_scores.unwrap_or(false));
    let returned = if tei { body.return_text } else { body.return_documents }.unwrap_or(false);
    let kept = if returned { texts.clone() } else { Vec::new() };
    let (scores, embedded) = state.service.rank(field, &body.query, texts, (truncate, raw)).await?;
    let mut order: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.truncate(body.top_n.unwrap_or(usize::MAX));
    let text = |index: usize| kept.get(index).cloned();
    if tei {
        let rank = |(index, score)| Rank { index, text: text(index), score };
        return Ok(RerankAnswer::Ranks(order.into_iter().map(rank).collect()));
    }
    let result = |(index, relevance_score)| RerankResult {
        index,
        relevance_score,
        document: text(index).map(|text| Document { text }),
    };
    Ok(RerankAnswer::Results(RerankResponse {
        id: random::id("rerank"),
        model: state.settings.model_id.clone(),
        results: order.into_iter().map(result).collect(),
        usage: RerankUsage { prompt_tokens: embedded.tokens, total_tokens: embedded.tokens },
    }))
}

fn text_of(document: &Value) -> Option<String> {
    document.as_str().or_else(|| document.get("text")?.as_str()).map(str::to_owned)
}
