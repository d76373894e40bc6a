//! OpenAI's requests to the service's, and the service's tokens to OpenAI's log-probabilities.

use serde_json::{Map, Value};
use weirgate_types::Frequency;

use super::errors::ApiError;
use super::types::{
    ChatLogprob, ChatRequest, Common, CompletionRequest, Content, LikelyToken, LogitBias, Message,
    PromptInput, Stop, TextLogprobs,
};
use crate::api::Settings;
use crate::service::{
    Conversation, MaxNewTokens, Parameters, Prompt, Request, ServiceError, StopReason, Tenant, TextOptions,
    Token, ValidationError, Vocabulary,
};

/// OpenAI removes the stop string and shows no special tokens.
const TEXT: TextOptions = TextOptions { keep_stop: false, special_pieces: false };
/// OpenAI's bound on `top_logprobs`.
const MAX_TOP_LOGPROBS: u32 = 20;
/// TGI 2.4.1's default for `max_tokens` of `/v1/completions`.
const COMPLETION_MAX_TOKENS: u32 = 32;

/// What of a request only the answer depends on.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// The name to answer with.
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// Choices per prompt; no more than the sequences generated.
    pub n: usize,
    pub logprobs: bool,
    pub echo: bool,
}

pub(super) fn chat(body: ChatRequest, settings: &Settings) -> Result<(Request, Shape), ServiceError> {
    if body.messages.is_empty() {
        return Err(field("messages", "cannot be empty"));
    }
    let logprobs = body.logprobs.unwrap_or(false);
    let top = body.top_logprobs.unwrap_or(0);
    if top > 0 && !logprobs {
        return Err(field("top_logprobs", "`logprobs` must be true to use `top_logprobs`"));
    }
    let max_tokens = body.max_completion_tokens.or(body.common.max_tokens);
    let max_new_tokens = MaxNewTokens::new(max_tokens, settings.default_max_new_tokens);
    let mut parameters = parameters(&body.common, max_new_tokens)?;
    parameters.top_n_tokens = top;
    parameters.grammar = wants_grammar(&body);
    let continue_final_message = body.messages.last().is_some_and(|message| message.role == "assistant");
    let messages = body.messages.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let conversation = Conversation { messages, tools: None, continue_final_message };
    let shape = shape(body.common, settings, logprobs);
    Ok((request(Prompt::Chat(conversation), parameters, settings), shape))
}

/// Tools or a response format: what the grammar seam will serve.
fn wants_grammar(body: &ChatRequest) -> bool {
    let tools = body.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let refuses_tools = body.tool_choice.as_ref().and_then(Value::as_str) == Some("none");
    let format = body.response_format.as_ref().filter(|format| !format.is_null());
    let text = |format: &Value| format.get("type").and_then(Value::as_str) == Some("text");
    (tools && !refuses_tools) || format.is_some_and(|format| !text(format))
}

/// One request per prompt.
pub(super) fn completion(
    body: CompletionRequest,
    settings: &Settings,
) -> Result<(Vec<Request>, Shape), ApiError> {
    if body.suffix.is_some() {
        let message = "Suffix is not supported and can be achieved by preprocessing the prompt.".to_owned();
        return Err(ApiError::invalid(message, "suffix", "suffix not supported"));
    }
    let prompts = prompts(body.prompt);
    let limit = settings.max_client_batch_size;
    if prompts.len() > limit {
        let message = format!("Number of prompts exceeds the maximum allowed batch size of {limit}");
        return Err(ApiError::invalid(message, "prompt", "batch size exceeded"));
    }
    if prompts.is_empty() {
        return Err(field("prompt", "cannot be empty").into());
    }
    let default = settings.default_max_new_tokens.map(|_| COMPLETION_MAX_TOKENS);
    let mut parameters = parameters(&body.common, MaxNewTokens::new(body.common.max_tokens, default))?;
    let n = parameters.choices;
    parameters.choices = best_of(n, body.best_of, body.common.stream.unwrap_or(false))?;
    parameters.top_n_tokens = body.logprobs.unwrap_or(0);
    let echo = body.echo.unwrap_or(false);
    parameters.prompt_logprobs = echo && body.logprobs.is_some();
    let shape = Shape { echo, ..shape(body.common, settings, body.logprobs.is_some()) };
    let requests = prompts.into_iter().map(|prompt| request(prompt, parameters.clone(), settings)).collect();
    Ok((requests, shape))
}

fn best_of(n: usize, best_of: Option<usize>, stream: bool) -> Result<usize, ServiceError> {
    match best_of {
        None => Ok(n),
        Some(given) if given < n => Err(field("best_of", "must be at least `n`")),
        Some(given) if given > n && stream => Err(ValidationError::BestOfStream.into()),
        Some(given) => Ok(given),
    }
}

fn prompts(input: PromptInput) -> Vec<Prompt> {
    match input {
        PromptInput::Text(text) => vec![Prompt::Text(text)],
        PromptInput::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        PromptInput::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
        PromptInput::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
    }
}

fn request(prompt: Prompt, parameters: Parameters, settings: &Settings) -> Request {
    let max_top_n_tokens = settings.max_top_n_tokens.max(MAX_TOP_LOGPROBS);
    Request { prompt, truncate: None, parameters, max_top_n_tokens, text: TEXT, tenant: Tenant::default() }
}

fn shape(common: Common, settings: &Settings, logprobs: bool) -> Shape {
    Shape {
        model: common.model.filter(|name| name != "tgi").unwrap_or_else(|| settings.model_id.clone()),
        stream: common.stream.unwrap_or(false),
        include_usage: common.stream_options.is_some_and(|options| options.include_usage),
        n: common.n.unwrap_or(1),
        logprobs,
        echo: false,
    }
}

/// Temperature 0 is greedy, whatever else is said; without a temperature OpenAI samples at 1. Values that switch a
/// filter off are taken for its absence, where TGI's own routes refuse them.
fn parameters(common: &Common, max_new_tokens: MaxNewTokens) -> Result<Parameters, ServiceError> {
    Ok(Parameters {
        choices: common.n.unwrap_or(1),
        min_new_tokens: common.min_tokens.unwrap_or(0),
        ignore_eos: common.ignore_eos.unwrap_or(false),
        do_sample: true,
        greedy: common.temperature == Some(0.0),
        temperature: common.temperature.filter(|t| *t != 0.0),
        top_p: common.top_p.filter(|p| *p != 1.0),
        top_k: common.top_k.filter(|k| !matches!(k, -1 | 0)),
        min_p: common.min_p,
        repetition_penalty: common.repetition_penalty,
        frequency_penalty: common.frequency_penalty.map(Frequency::Count),
        presence_penalty: common.presence_penalty,
        logit_bias: common.logit_bias.as_ref().map(logit_bias).transpose()?.unwrap_or_default(),
        seed: common.seed,
        stop: match &common.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        },
        ..Parameters::new(max_new_tokens)
    })
}

fn logit_bias(bias: &LogitBias) -> Result<Vec<(i64, f32)>, ServiceError> {
    match bias {
        LogitBias::Array(values) => {
            let entries = values.iter().zip(0i64..).filter(|(bias, _)| **bias != 0.0);
            Ok(entries.map(|(bias, token)| (token, *bias)).collect())
        }
        LogitBias::Map(map) => map
            .iter()
            .map(|(token, bias)| {
                let token =
                    token.parse::<i64>().map_err(|_| field("logit_bias", "keys must be token ids"))?;
                let bias = bias.as_f64().ok_or_else(|| field("logit_bias", "values must be numbers"))?;
                Ok((token, bias as f32))
            })
            .collect(),
    }
}

/// A message for the template: text parts joined, everything else as it came.
fn message(message: Message) -> Result<Map<String, Value>, ServiceError> {
    let content = match message.content {
        None => Value::Null,
        Some(Content::Text(text)) => Value::String(text),
        Some(Content::Parts(parts)) => {
            let mut text = String::new();
            for part in parts {
                match (part.kind.as_str(), part.text) {
                    ("text", Some(part)) => text.push_str(&part),
                    ("image_url" | "input_audio" | "file", _) => return Err(ValidationError::Image.into()),
                    (kind, _) => {
                        return Err(field(
                            "messages",
                            &format!("content part of type {kind:?} is not supported"),
                        ));
                    }
                }
            }
            Value::String(text)
        }
    };
    let mut map = Map::new();
    map.insert("role".to_owned(), Value::String(message.role));
    map.insert("content".to_owned(), content);
    map.extend(message.rest);
    Ok(map)
}

fn field(field: &'static str, message: &str) -> ServiceError {
    ValidationError::Field { field, message: message.to_owned() }.into()
}

pub(super) fn finish_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Length => "length",
        StopReason::EndOfSequence | StopReason::StopString => "stop",
    }
}

pub(super) fn chat_logprob(token: &Token, vocabulary: &Vocabulary) -> ChatLogprob {
    let likely =
        |text: String, logprob: f32| LikelyToken { bytes: text.clone().into_bytes(), token: text, logprob };
    ChatLogprob {
        token: likely(vocabulary.piece(token.id), token.logprob),
        top_logprobs: token.top.iter().map(|top| likely(vocabulary.piece(top.id), top.logprob)).collect(),
    }
}

/// Appends a token to the parallel lists; `offset` is where its text begins, and moves on.
pub(super) fn push_text_logprob(
    list: &mut TextLogprobs,
    token: &Token,
    vocabulary: &Vocabulary,
    offset: &mut usize,
) {
    let text = vocabulary.piece(token.id);
    let top = token.top.iter().map(|top| (vocabulary.piece(top.id), Value::from(top.logprob))).collect();
    list.text_offset.push(*offset);
    *offset += text.chars().count();
    list.tokens.push(text);
    list.token_logprobs.push(Some(token.logprob));
    list.top_logprobs.push(Some(top));
}

/// The lists of an echoed prompt.
pub(super) fn prompt_logprobs(
    prompt: &[u32],
    logprobs: &[Option<f32>],
    vocabulary: &Vocabulary,
    offset: &mut usize,
) -> TextLogprobs {
    let mut list = TextLogprobs::default();
    for (id, logprob) in prompt.iter().zip(logprobs) {
        let text = vocabulary.piece(*id);
        list.text_offset.push(*offset);
        *offset += text.chars().count();
        list.tokens.push(text);
        list.token_logprobs.push(*logprob);
        list.top_logprobs.push(None);
    }
    list
}
