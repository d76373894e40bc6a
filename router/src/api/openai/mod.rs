//! OpenAI's routes, in OpenAI's own shape or in TGI's ([`quirks`]).
//!
//! A request's way: `types` → `chat` or `completions` (with `parameters`, `messages`) → [`crate::service`] → `collect`
//! or `stream` → `types`; what goes wrong on it is in `errors`.

mod adapters;
mod answer;
pub(crate) mod chat;
mod collect;
pub(crate) mod completions;
mod constraints;
pub(crate) mod embeddings;
mod errors;
mod logprobs;
mod messages;
mod models;
mod parameters;
mod quirks;
mod reading;
mod stream;
mod tools;
mod types;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
pub(crate) use errors::{Refusal, forbidden, unauthorized};
pub(crate) use logprobs::chat as chat_logprobs;
#[cfg(test)]
pub(crate) use messages::for_template;
pub(crate) use parameters::field;
pub(crate) use types::{
    ChatChoice, ChatChunkChoice, ChatLogprob, ChatRequest, Common, CompletionRequest, Content, Delta,
    EmbeddingsRequest, EmbeddingsResponse, ErrorObject, Message, Stop, TextChoice, Usage,
};

/// How the document groups these routes.
const TAG: &str = "OpenAI";

/// This dialect's routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(chat::completions))
        .routes(routes!(completions::completions))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(adapters::load))
        .routes(routes!(adapters::unload))
}
