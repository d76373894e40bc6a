//! Go templates and conversations from anywhere: rendering ends in a text of bounded length, or in an error. The input is
//! a template, a zero byte, and a list of messages as JSON.
//!
//!     cargo +nightly fuzz run go_template fuzz/corpus/go_template -- -max_len=4096 -timeout=20
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weirgate_store::{Conversation, MAX_OUTPUT_BYTES, Template};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (template, messages) = text.split_once('\0').unwrap_or((&*text, ""));
    let Ok(template) = Template::parse(template) else {
        return;
    };
    let given = serde_json::from_str::<Vec<Value>>(messages).ok();
    let messages = given.unwrap_or_else(|| vec![json!({"role": "user", "content": "Hi"})]);
    let function =
        json!({"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}});
    let conversation = Conversation {
        messages,
        tools: vec![json!({"type": "function", "function": function})],
        fill: None,
        think: None,
    };
    if let Ok(prompt) = template.prompt(&conversation) {
        assert!(prompt.len() <= MAX_OUTPUT_BYTES, "{}", prompt.len());
    }
});
