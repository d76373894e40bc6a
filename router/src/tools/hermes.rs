//! Hermes and Qwen: `<tool_call>` around a JSON object with `name` and `arguments`; also Granite 4.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "hermes",
    signs: &[&["<tool_call>"]],
    not: &[],
    starts: &[Opening { trigger: "<tool_call>", at_start: false, lead: "\n" }],
    head: "{\"name\": \"",
    mid: "\", \"arguments\": ",
    tail: "}\n</tool_call>",
    between: Some("\n<tool_call>\n"),
    close: "",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
