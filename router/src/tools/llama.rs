//! Llama 3.1 to 3.3: a message that is a JSON object with `name` and `parameters`, one call at a time; sometimes after
//! the mark of code.

use super::Ids;
use super::tagged::{Opening, Tagged};

pub(super) static FORMAT: Tagged = Tagged {
    name: "llama",
    signs: &[&["\"parameters\": dictionary of argument name"], &["<|python_tag|>", "\"parameters\": "]],
    not: &[],
    starts: &[
        Opening { trigger: "{\"name\":", at_start: true, lead: "" },
        Opening { trigger: "<|python_tag|>", at_start: false, lead: "{\"name\":" },
    ],
    head: " \"",
    mid: "\", \"parameters\": ",
    tail: "}",
    between: None,
    close: "",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};
