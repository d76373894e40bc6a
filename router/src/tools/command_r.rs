//! Command R: a list of JSON objects with `tool_name` and `parameters`; fenced in the first models, between marks and
//! numbered in the later ones.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static PLUS: Tagged = Tagged {
    name: "command-r",
    signs: &[&["Action:", "\"tool_name\": ", "```json"]],
    not: &["<|START_ACTION|>"],
    starts: &[Opening { trigger: "Action:", at_start: false, lead: "\n```json\n[\n" }],
    head: "    {\n        \"tool_name\": \"",
    mid: "\",\n        \"parameters\": ",
    tail: "\n    }",
    between: Some(",\n"),
    close: "\n]```",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};

pub(super) static R7B: Tagged = Tagged {
    name: "command-r7b",
    signs: &[&["<|START_ACTION|>"]],
    not: &[],
    starts: &[Opening { trigger: "<|START_ACTION|>", at_start: false, lead: "[\n" }],
    head: "    {\"tool_call_id\": \"{n}\", \"tool_name\": \"",
    mid: "\", \"parameters\": ",
    tail: "}",
    between: Some(",\n"),
    close: "\n]<|END_ACTION|>",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
