//! Firefunction v2: `functools` and a list of JSON objects.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "firefunction",
    signs: &[&["functools["]],
    not: &[],
    starts: &[Opening { trigger: "functools[", at_start: false, lead: "" }],
    head: "{\"name\": \"",
    mid: "\", \"arguments\": ",
    tail: "}",
    between: Some(", "),
    close: "]",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
