//! `/generate_stream`: one event per token, index from 1, no `[DONE]`.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::convert::{finish_reason, token, top_tokens};
use super::errors::ApiError;
use super::types::{StreamDetails, StreamResponse};
use crate::api::AppState;
use crate::api::events::{self, json_event};
use crate::service::{Account, Facts, Generation, Request, SequenceEnd, Service, ServiceError, Token};

/// What a stream adds to the tokens at its end.
pub(super) struct StreamOptions {
    pub details: bool,
    /// Put before the generated text (`return_full_text`).
    pub prefix: String,
}

/// The stream's state; dropping it (the client went away) cancels the request.
enum Stage {
    Validate { service: Arc<Service>, request: Box<Request>, account: Account },
    Generate(Box<Generation>),
    Done,
}

struct TokenStream {
    stage: Stage,
    options: StreamOptions,
    index: u32,
}

/// The response. Validation happens inside the stream, so its errors are events of a 200, as in TGI.
pub(super) fn respond(
    state: AppState,
    request: Request,
    account: Account,
    options: StreamOptions,
    headers: HeaderMap,
) -> Response {
    let stage = Stage::Validate { service: state.service, request: Box::new(request), account };
    let tokens = TokenStream { stage, options, index: 0 };
    let events = stream::unfold(tokens, |mut tokens| async move {
        let event = tokens.next().await?;
        Some((event, tokens))
    });
    (headers, events::respond(events)).into_response()
}

/// The response to a request refused before its stream began.
pub(super) fn refuse(error: ServiceError, headers: HeaderMap) -> Response {
    (headers, events::respond(stream::iter([error_event(error)]))).into_response()
}

impl TokenStream {
    async fn next(&mut self) -> Option<SseEvent> {
        match self.advance().await {
            Ok(event) => event,
            Err(error) => {
                self.stage = Stage::Done;
                Some(error_event(error))
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<SseEvent>, ServiceError> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Validate { service, request, account } => {
                Stage::Generate(Box::new(service.generate(*request, account).await?))
            }
            stage => stage,
        };
        let Stage::Generate(generation) = &mut self.stage else { return Ok(None) };
        if let Some((Some(token), end)) = generation.step().await.transpose()? {
            return Ok(Some(self.token_event(token, end)));
        }
        self.stage = Stage::Done;
        Ok(None)
    }

    fn token_event(&mut self, mut new: Token, end: Option<SequenceEnd>) -> SseEvent {
        self.index += 1;
        let mut response = StreamResponse {
            index: self.index,
            top_tokens: top_tokens(&new),
            token: token(&new),
            generated_text: None,
            details: None,
            schema_check: None,
        };
        if let Some(end) = end {
            new.text.push_str(&end.tail);
            response.token.text = new.text;
            response.details = self.options.details.then(|| self.details(&end));
            let checks = self.facts().and_then(|facts| facts.checks.as_ref());
            response.schema_check = checks.and_then(|checks| checks.content(&end.text));
            response.generated_text = Some(std::mem::take(&mut self.options.prefix) + &end.text);
            self.stage = Stage::Done;
        }
        json_event(&response)
    }

    fn facts(&self) -> Option<&Facts> {
        match &self.stage {
            Stage::Generate(generation) => Some(&generation.facts),
            _ => None,
        }
    }

    fn details(&self, end: &SequenceEnd) -> StreamDetails {
        let facts = self.facts();
        StreamDetails {
            finish_reason: finish_reason(end.reason),
            generated_tokens: end.generated_tokens,
            seed: facts.and_then(|facts| facts.seed),
            input_length: facts.map_or(0, |facts| facts.prompt.len() as u32),
        }
    }
}

fn error_event(error: ServiceError) -> SseEvent {
    json_event(&ApiError(error).body())
}
