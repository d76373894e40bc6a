//! Granite 3: `<|tool_call|>` and a list of JSON objects.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "granite",
    signs: &[&["<|start_of_role|>", "<|tool_call|>"]],
    not: &["</tool_call>"],
    starts: &[Opening { trigger: "<|tool_call|>", at_start: false, lead: "[" }],
    head: "{\"name\": \"",
    mid: "\", \"arguments\": ",
    tail: "}",
    between: Some(", "),
    close: "]",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
