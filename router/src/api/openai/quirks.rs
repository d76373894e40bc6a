//! Where the profiles differ on `/v1/*`.

use crate::config::Profile;
use crate::service::{StopReason, TextOptions, random};

/// Every difference between OpenAI's own form and TGI's (reference/tgi.md §2c, §2g), as data: the rest of this folder
/// asks it, and never the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quirks {
    /// Errors are strings with 422, 424 and 500, bodies that are no request are refused in plain text, and refusals of
    /// streamed requests are events of a 200; else OpenAI's error object, always with the status.
    pub text_errors: bool,
    /// Answers have ids.
    pub ids: bool,
    /// What all ids begin with, whatever the route; `None`: each route's own.
    id_prefix: Option<&'static str>,
    /// Choices have a `stop_reason`, which is null: vLLM's.
    stop_reason: bool,
    /// One chunk per token, each with the role, the last one with the reason; else OpenAI's chunks.
    pub token_chunks: bool,
    /// A stop string stays at the end of the text.
    pub keep_stop: bool,
    /// The reason of a choice that a stop string ended.
    stop_string: &'static str,
    /// The reason of a choice that ends with tool calls.
    pub tool_calls: &'static str,
    /// Tool calls as TGI writes them: id "0", the description beside the name, and an error where one is not complete.
    pub tgi_calls: bool,
    /// The reason in a stream of `/v1/completions` when the model ended the text.
    end_of_text: &'static str,
    /// `frequency_penalty` is TGI's, relative to the length; else OpenAI's, per occurrence.
    pub relative_frequency: bool,
    /// TGI's bounds: `top_p` is below 1, `top_logprobs` at most what the server allows and of no effect without
    /// `logprobs`.
    pub tgi_bounds: bool,
    /// `logprobs` of `/v1/completions` is an array of numbers; else OpenAI's lists.
    pub plain_logprobs: bool,
}

const OPENAI: Quirks = Quirks {
    text_errors: false,
    ids: true,
    id_prefix: None,
    stop_reason: false,
    token_chunks: false,
    keep_stop: false,
    stop_string: "stop",
    tool_calls: "tool_calls",
    tgi_calls: false,
    end_of_text: "stop",
    relative_frequency: false,
    tgi_bounds: false,
    plain_logprobs: false,
};

const MANAGEMENT: Quirks = Quirks { id_prefix: Some("cmpl"), stop_reason: true, ..OPENAI };

const TGI: Quirks = Quirks {
    text_errors: true,
    ids: false,
    id_prefix: None,
    stop_reason: false,
    token_chunks: true,
    keep_stop: true,
    stop_string: "stop_sequence",
    tool_calls: "stop",
    tgi_calls: true,
    end_of_text: "eos_token",
    relative_frequency: true,
    tgi_bounds: true,
    plain_logprobs: true,
};

impl Quirks {
    pub fn of(profile: Profile) -> &'static Self {
        match profile {
            Profile::Tgi => &TGI,
            Profile::Management => &MANAGEMENT,
            Profile::OpenAi | Profile::Ollama | Profile::Jan => &OPENAI,
        }
    }

    /// A new id; `prefix` is the route's own.
    pub fn id(&self, prefix: &str) -> String {
        if self.ids { random::id(self.id_prefix.unwrap_or(prefix)) } else { String::new() }
    }

    /// The `stop_reason` of a choice, where it has one.
    pub fn stop_reason(&self) -> Option<()> {
        self.stop_reason.then_some(())
    }

    /// Special tokens have no text in chats, and in completions only in TGI's chunks.
    pub fn text(&self, chat: bool) -> TextOptions {
        TextOptions { keep_stop: self.keep_stop, special_pieces: self.token_chunks && !chat }
    }

    pub fn finish_reason(&self, reason: StopReason) -> &'static str {
        match reason {
            StopReason::Length => "length",
            StopReason::EndOfSequence => "stop",
            StopReason::StopString => self.stop_string,
        }
    }

    /// In a stream of `/v1/completions`.
    pub fn text_chunk_reason(&self, reason: StopReason) -> &'static str {
        match reason {
            StopReason::EndOfSequence => self.end_of_text,
            reason => self.finish_reason(reason),
        }
    }
}
