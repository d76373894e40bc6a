//! Why a request could not be served. Each dialect maps these to its own statuses and bodies; the texts are TGI's.

use weirgate_types::{Finish, RejectReason};

use super::template::TemplateError;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("Model is overloaded")]
    Overloaded,
    #[error("Input validation error: {0}")]
    Validation(#[from] ValidationError),
    #[error("Template error: {0}")]
    Template(TemplateError),
    #[error("Tool error: {0}")]
    Tool(#[from] ToolError),
    #[error("Request failed during generation: {0}")]
    Generation(#[from] Failure),
    #[error("Incomplete generation")]
    Incomplete,
    /// Not ready, or no longer: starting, draining or failed.
    #[error("Server is not ready: {0}")]
    Unavailable(&'static str),
}

impl ServiceError {
    /// TGI's name of the error's class.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Validation(_) => "validation",
            Self::Template(_) => "template_error",
            Self::Tool(_) => "tool_error",
            Self::Generation(_) => "generation",
            Self::Incomplete => "incomplete_generation",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// What is wrong with a request's tools, or with a call (reference/tgi.md §2b).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("Grammar and tools are mutually exclusive")]
    WithGrammar,
    #[error("Tool with name {0} not found")]
    NotFound(String),
    #[error("Failed to parse generated text: {0}")]
    Parse(String),
}

/// What ended a request that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the engine failed")]
    Engine,
    #[error("the engine made no progress")]
    Stalled,
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the request's deadline passed")]
    Deadline,
    #[error("the client reads too slowly")]
    SlowReader,
    #[error("the grammar cannot go on after this text")]
    Grammar,
}

/// TGI's validation rules, reference/tgi.md §2b, in its order of evaluation; then those it does not have.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ValidationError {
    #[error("you must use sampling when `best_of` is > 1")]
    BestOfSampling,
    #[error("`temperature` must be strictly positive")]
    Temperature,
    #[error("`repetition_penalty` must be strictly positive")]
    RepetitionPenalty,
    #[error("`frequency_penalty` must be >= -2.0 and <= 2.0")]
    FrequencyPenalty,
    #[error("`top_p` must be > 0.0 and < 1.0")]
    TopP,
    #[error("`typical_p` must be > 0.0 and < 1.0")]
    TypicalP,
    #[error("`top_k` must be strictly positive")]
    TopK,
    #[error("`max_new_tokens` must be strictly positive")]
    NegativeMaxNewTokens,
    #[error("`stop` supports up to {limit} stop sequences. Given: {given}")]
    StopSequences { limit: usize, given: usize },
    #[error("`seed` must not be set when `best_of` > 1")]
    BestOfSeed,
    #[error("`top_n_tokens` must be >= 0 and <= {limit}. Given: {given}")]
    TopNTokens { limit: u32, given: u32 },
    #[error("`inputs` cannot be empty")]
    EmptyInput,
    #[error("`truncate` must be strictly positive and less than {limit}. Given: {given}")]
    Truncate { limit: usize, given: usize },
    #[error("tokenizer error {0}")]
    Tokenizer(String),
    #[error(
        "`inputs` tokens + `max_new_tokens` must be <= {limit}. Given: {input} `inputs` tokens and {new} `max_new_tokens`"
    )]
    MaxTotalTokens { limit: usize, input: usize, new: u32 },
    #[error("`inputs` must have less than {limit} tokens. Given: {given}")]
    InputLength { limit: usize, given: usize },
    #[error(
        "the prompt is longer than the context length currently available: {given} tokens exceed {limit}"
    )]
    ContextLength { limit: usize, given: usize },
    #[error("grammar is not supported")]
    Grammar,
    #[error("grammar is not valid: {0}")]
    InvalidGrammar(String),
    #[error("cannot compile regex from schema: {0}")]
    RefusedGrammar(String),
    #[error("`best_of` != 1 is not allowed for this endpoint")]
    BestOfDisabled,
    #[error("`best_of` must be > 0 and <= {limit}. Given: {given}")]
    BestOf { limit: usize, given: usize },
    #[error("`best_of` != 1 is not supported when streaming tokens")]
    BestOfStream,
    #[error("`decoder_input_details` == true is not supported when streaming tokens")]
    PrefillDetailsStream,
    #[error("invalid image content: this model takes text only")]
    Image,

    #[error("`adapter_id` {0:?} is not loaded")]
    Adapter(String),
    #[error("`{field}` must be >= {min} and <= {max}. Given: {given}")]
    Range { field: &'static str, min: String, max: String, given: String },
    #[error("`{field}` supports up to {limit} entries. Given: {given}")]
    TooMany { field: &'static str, limit: usize, given: usize },
    #[error("`{field}`: token id {token} is not below the vocabulary size {vocab}")]
    Token { field: &'static str, token: i64, vocab: u32 },
    #[error("{field}: {message}")]
    Field { field: &'static str, message: String },
    /// The model is made for something else.
    #[error("the model does not support {0}")]
    Unsupported(&'static str),
    #[error("`{field}`: text {index} has {given} tokens; the limit is {limit}")]
    TextLength { field: &'static str, index: usize, limit: usize, given: usize },
}

impl ValidationError {
    /// The request field at fault, where there is one.
    pub fn field(&self) -> Option<&'static str> {
        Some(match self {
            Self::BestOfSampling
            | Self::BestOfSeed
            | Self::BestOfDisabled
            | Self::BestOf { .. }
            | Self::BestOfStream => "best_of",
            Self::Temperature => "temperature",
            Self::RepetitionPenalty => "repetition_penalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::TopP => "top_p",
            Self::TypicalP => "typical_p",
            Self::TopK => "top_k",
            Self::NegativeMaxNewTokens => "max_tokens",
            Self::Adapter(_) => "adapter_id",
            Self::StopSequences { .. } => "stop",
            Self::TopNTokens { .. } => "top_logprobs",
            Self::Grammar | Self::InvalidGrammar(_) | Self::RefusedGrammar(_) => "response_format",
            Self::Image => "messages",
            Self::Unsupported(_) => "model",
            Self::TextLength { field, .. } => field,
            Self::Range { field, .. } | Self::TooMany { field, .. } => field,
            Self::Token { field, .. } | Self::Field { field, .. } => field,
            _ => return None,
        })
    }
}

impl From<TemplateError> for ServiceError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Process(reason) => {
                tracing::error!("No chat template can be rendered: {reason}");
                Self::Unavailable("chat templates cannot be rendered")
            }
            error => Self::Template(error),
        }
    }
}

impl From<RejectReason> for ServiceError {
    fn from(reason: RejectReason) -> Self {
        match reason {
            RejectReason::Overloaded => Self::Overloaded,
            // Unloaded between the check and the engine.
            RejectReason::UnknownAdapter => {
                ValidationError::Field { field: "adapter_id", message: "the adapter was unloaded".to_owned() }
                    .into()
            }
            RejectReason::EngineStopped => Self::Generation(Failure::Engine),
            RejectReason::EmptyPrompt => ValidationError::EmptyInput.into(),
            RejectReason::TokenOutOfRange { token, vocab } => {
                ValidationError::Token { field: "prompt", token: i64::from(token), vocab }.into()
            }
            RejectReason::TooLong { needed, limit } => ValidationError::Field {
                field: "inputs",
                message: format!("the request needs {needed} tokens of KV cache; the limit is {limit}"),
            }
            .into(),
            RejectReason::InvalidParameter { field, value, limit } => ValidationError::Field {
                field,
                message: format!("{value} is not allowed; the limit is {limit}"),
            }
            .into(),
        }
    }
}

/// The error behind an ending that is no ending of the text's.
pub(crate) fn failure(finish: Finish) -> Option<ServiceError> {
    match finish {
        Finish::Length | Finish::StopToken | Finish::GrammarEnd => None,
        Finish::Cancelled => Some(ServiceError::Incomplete),
        Finish::Deadline => Some(Failure::Deadline.into()),
        Finish::GrammarFailed => Some(Failure::Grammar.into()),
        Finish::EngineFailed => Some(Failure::Engine.into()),
    }
}
