//! Mistral: `[TOOL_CALLS]` and a list of JSON objects, or, since the eleventh tokenizer, name and arguments of each call
//! with a mark between them.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static LIST: Tagged = Tagged {
    name: "mistral",
    signs: &[&["[TOOL_CALLS]"]],
    not: &["[ARGS]"],
    starts: &[Opening { trigger: "[TOOL_CALLS]", at_start: false, lead: "[" }],
    head: "{\"name\": \"",
    mid: "\", \"arguments\": ",
    tail: "}",
    between: Some(", "),
    close: "]",
    ids: Ids::Mistral,
    tools_in_system_message: false,
};

pub(super) static NAMED: Tagged = Tagged {
    name: "mistral-args",
    signs: &[&["[TOOL_CALLS]", "[ARGS]"]],
    not: &[],
    starts: &[Opening { trigger: "[TOOL_CALLS]", at_start: false, lead: "" }],
    head: "",
    mid: "[ARGS]",
    tail: "",
    between: Some("[TOOL_CALLS]"),
    close: "",
    ids: Ids::Mistral,
    tools_in_system_message: false,
};
