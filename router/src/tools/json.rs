//! For models whose template says nothing about tools: a message that is a JSON object with `name` and `arguments`. The
//! prompt asks for it.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "json",
    signs: &[],
    not: &[],
    starts: &[Opening { trigger: "{\"name\":", at_start: true, lead: "" }],
    head: " \"",
    mid: "\", \"arguments\": ",
    tail: "}",
    between: None,
    close: "",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
