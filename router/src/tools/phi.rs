//! Phi-4-mini: `<|tool_call|>` around a list of JSON objects; its template takes the tools from the system message.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "phi",
    signs: &[&["<|tool|>"]],
    not: &[],
    starts: &[Opening { trigger: "<|tool_call|>", at_start: false, lead: "[" }],
    head: "{\"name\": \"",
    mid: "\", \"arguments\": ",
    tail: "}",
    between: Some(", "),
    close: "]<|/tool_call|>",
    ids: Ids::OpenAi,
    tools_in_system_message: true,
};
