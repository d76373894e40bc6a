//! Messages as the chat template sees them.

use serde_json::{Map, Value};

use super::parameters::field;
use super::types::{Content, Message, Part};
use crate::service::{ServiceError, ValidationError};

/// Text parts joined, everything else as it came; but that developers speak as the system does to a template that does
/// not know them.
pub(crate) fn for_template(
    messages: Vec<Message>,
    has_developers: bool,
) -> Result<Vec<Map<String, Value>>, ServiceError> {
    if messages.is_empty() {
        return Err(field("messages", "cannot be empty"));
    }
    messages.into_iter().map(|one| message(one, has_developers)).collect()
}

fn message(message: Message, has_developers: bool) -> Result<Map<String, Value>, ServiceError> {
    let content = match message.content {
        // What an assistant says may be tool calls alone.
        None if message.role != "assistant" => {
            return Err(field("messages", &format!("a message of role {:?} needs `content`", message.role)));
        }
        None => Value::Null,
        Some(Content::Text(text)) => Value::String(text),
        Some(Content::Parts(parts)) => {
            Value::String(parts.into_iter().map(text).collect::<Result<String, _>>()?)
        }
    };
    let mut map = Map::new();
    let role =
        if message.role == "developer" && !has_developers { "system".to_owned() } else { message.role };
    map.insert("role".to_owned(), Value::String(role));
    map.insert("content".to_owned(), content);
    map.extend(message.rest);
    Ok(map)
}

fn text(part: Part) -> Result<String, ServiceError> {
    match (part.kind.as_str(), part.text, part.refusal) {
        ("text", Some(text), _) | ("refusal", _, Some(text)) => Ok(text),
        ("image_url" | "input_audio" | "file", ..) => Err(ValidationError::Image.into()),
        (kind, ..) => Err(field("messages", &format!("content part of type {kind:?} is not supported"))),
    }
}
