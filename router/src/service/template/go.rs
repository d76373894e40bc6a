//! Conversations as Go templates read them: under the names that Ollama gives their fields.

use serde_json::{Map, Value, json};

use super::Conversation;

/// Names a message's reasoning is sent under.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Names of the variables that switch reasoning.
const THINK: [&str; 2] = ["enable_thinking", "thinking"];

/// What [`Conversation::infill`] makes is a text to fill in.
pub(super) fn conversation(given: &Conversation) -> weirgate_store::Conversation {
    let text = |name: &str| given.variables.get(name).and_then(Value::as_str).map(str::to_owned);
    weirgate_store::Conversation {
        messages: given.messages.iter().map(message).collect(),
        tools: given.tools.clone().unwrap_or_default(),
        fill: text("prompt").zip(text("suffix")),
        think: think(&given.variables),
    }
}

/// Whether to reason, or how hard.
fn think(variables: &Map<String, Value>) -> Option<Value> {
    let on = THINK.iter().find_map(|name| variables.get(*name).filter(|value| value.is_boolean()));
    let level = variables.get("reasoning_effort").filter(|level| level.is_string());
    level.filter(|_| on != Some(&json!(false))).or(on).cloned()
}

fn message(given: &Map<String, Value>) -> Value {
    let mut message = given.clone();
    let mut rename = |from: &[&str], to: &str| {
        let value = from.iter().find_map(|name| given.get(*name).filter(|value| !value.is_null()));
        message.extend(value.map(|value| (to.to_owned(), value.clone())));
    };
    rename(&REASONING, "thinking");
    if given.get("role") == Some(&json!("tool")) {
        rename(&["tool_name", "name"], "tool_name");
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (index, call) in calls.into_iter().flatten().enumerate() {
        if let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) {
            function.entry("index").or_insert_with(|| json!(index));
        }
    }
    message.into()
}
