//! Request and response bodies of OpenAI's chat and completions APIs, with what TGI and its users add.

mod chat;
mod common;
mod completion;
mod embeddings;
mod response;

pub(crate) use chat::{ChatRequest, Content, Message, Part};
pub(crate) use common::{Common, LogitBias, Stop};
pub(crate) use completion::{CompletionRequest, PromptInput};
pub(crate) use embeddings::{
    EmbeddingObject, EmbeddingVector, EmbeddingsRequest, EmbeddingsResponse, EmbeddingsUsage, EncodingFormat,
};
pub(crate) use response::{
    AssistantMessage, CalledFunction, ChatChoice, ChatChunkChoice, ChatLogprob, ChatLogprobs,
    CompletionLogprobs, Delta, Envelope, ErrorObject, LikelyToken, PromptTokensDetails, TextChoice,
    TextLogprobs, ToolCall, Usage,
};
