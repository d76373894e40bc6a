//! The plain data that crosses Weirgate's seams: what a client asks of the engine and what the engine answers.
//!
//! Every API dialect lowers to [`GenerateRequest`]; no dialect's own field enters it. The engine answers with one
//! [`StepOutputs`] message per step. Nothing here knows of HTTP, of text or of a device.

mod output;
mod request;

pub use output::{Finish, RejectReason, SeqOutput, SeqUpdate, StepOutputs, StepStats, TokenOut, Usage};
pub use request::{
    AdapterId, ContextShift, FilterOrder, Frequency, GenerateRequest, Logprobs, Mirostat, MirostatVersion,
    RequestId, SamplingParams, Selection, StopRules, TokenId, Watermark,
};
