//! DeepSeek V3 and R1: marks around the name and a fenced JSON object.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "deepseek",
    signs: &[&["<｜tool▁calls▁begin｜>"]],
    not: &[],
    starts: &[Opening { trigger: "<｜tool▁calls▁begin｜>", at_start: false, lead: "" }],
    head: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    mid: "\n```json\n",
    tail: "\n```<｜tool▁call▁end｜>",
    between: Some("\n"),
    close: "<｜tool▁calls▁end｜>",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
