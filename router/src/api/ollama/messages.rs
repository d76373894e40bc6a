//! Messages as the chat template sees them.

use serde_json::{Map, Value, json};

use super::errors::Refusal;
use super::types::{Message, ToolCall};

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
/// Upstream's words for a model without a vision part.
const NO_IMAGES: &str = "this model is missing data required for image input";

/// Roles in lower case, neighbours of one role merged, calls in OpenAI's form.
///
/// # Errors
/// A role that there is not, or an image.
pub(super) fn for_template(messages: Vec<Message>) -> Result<Vec<Map<String, Value>>, Refusal> {
    let mut merged: Vec<Message> = Vec::new();
    for mut message in messages {
        message.role = message.role.to_lowercase();
        check(&message)?;
        match merged.last_mut().filter(|last| belong_together(last, &message)) {
            Some(last) => join(last, message),
            None => merged.push(message),
        }
    }
    Ok(merged.into_iter().map(lower).collect())
}

/// # Errors
/// When there are any: no model here sees.
pub(super) fn refuse_images<T>(images: Option<&Vec<T>>) -> Result<(), Refusal> {
    match images {
        Some(images) if !images.is_empty() => Err(Refusal::bad(NO_IMAGES.to_owned())),
        _ => Ok(()),
    }
}

fn check(message: &Message) -> Result<(), Refusal> {
    if !ROLES.contains(&message.role.as_str()) {
        let roles = ROLES.join(", ");
        return Err(Refusal::bad(format!("invalid role: {}, role must be one of [{roles}]", message.role)));
    }
    refuse_images(message.images.as_ref())
}

fn belong_together(last: &Message, next: &Message) -> bool {
    last.role == next.role && last.role != "tool" && last.tool_calls.is_none() && next.tool_calls.is_none()
}

fn join(last: &mut Message, next: Message) {
    let paragraphs =
        [last.content.take(), next.content].into_iter().flatten().filter(|text| !text.is_empty());
    last.content = Some(paragraphs.collect::<Vec<_>>().join("\n\n"));
}

fn lower(message: Message) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("role".to_owned(), Value::String(message.role));
    map.insert("content".to_owned(), Value::String(message.content.unwrap_or_default()));
    let mut add = |key: &str, value: Option<Value>| {
        map.extend(value.map(|value| (key.to_owned(), value)));
    };
    add("thinking", message.thinking.map(Value::String));
    add("tool_calls", message.tool_calls.filter(|calls| !calls.is_empty()).map(calls));
    add("name", message.tool_name.map(Value::String));
    add("tool_call_id", message.tool_call_id.map(Value::String));
    map
}

fn calls(calls: Vec<ToolCall>) -> Value {
    let call = |call: ToolCall| {
        let function = json!({"name": call.function.name, "arguments": call.function.arguments});
        let mut value = json!({"type": "function", "function": function});
        if let (Some(id), Some(map)) = (call.id, value.as_object_mut()) {
            map.insert("id".to_owned(), Value::String(id));
        }
        value
    };
    calls.into_iter().map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(messages: Value) -> Result<Value, String> {
        let messages = serde_json::from_value(messages).unwrap();
        for_template(messages).map(|list| json!(list)).map_err(|refusal| refusal.message())
    }

    #[test]
    fn neighbours_of_one_role_are_one_message_but_results_stay_apart() {
        let given = json!([
            {"role": "System", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "1", "tool_name": "f"},
            {"role": "tool", "content": "2", "tool_call_id": "id"},
        ]);
        let expected = json!([
            {"role": "system", "content": "a"},
            {"role": "user", "content": "b\n\nc"},
            {"role": "assistant", "content": "",
             "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "1", "name": "f"},
            {"role": "tool", "content": "2", "tool_call_id": "id"},
        ]);
        assert_eq!(lowered(given), Ok(expected));
    }

    #[test]
    fn roles_and_images_are_checked() {
        let role = lowered(json!([{"role": "bot", "content": "a"}]));
        assert_eq!(
            role.unwrap_err(),
            "invalid role: bot, role must be one of [system, user, assistant, tool]"
        );
        let image = lowered(json!([{"role": "user", "content": "a", "images": ["iVBORw0KGgo="]}]));
        assert_eq!(image.unwrap_err(), NO_IMAGES);
        assert!(lowered(json!([{"role": "user", "content": "a", "images": []}])).is_ok());
    }
}
