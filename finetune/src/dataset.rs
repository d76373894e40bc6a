//! The dataset: a conversation a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::FinetuneError;
use crate::error::LineError;

/// Bytes of a line.
const MAX_LINE: usize = 16 << 20;
/// Errors told.
const TOLD: usize = 20;

/// One conversation, in the form that chat templates take.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// In the file, from 1.
    pub line: usize,
    /// Each with `role` and `content`, and whatever else there was.
    pub messages: Vec<Map<String, Value>>,
    pub tools: Option<Vec<Value>>,
}

/// Reads a file of lines `{"messages": [{"role", "content"}]}` or `{"conversations": [{"from", "value"}]}`. Empty lines do not
/// count.
///
/// # Errors
/// A file that cannot be read, or the first lines that are no conversation with a reply.
pub fn read_dataset(path: &Path) -> Result<Vec<Record>, FinetuneError> {
    let mut file = BufReader::new(File::open(path).map_err(|error| FinetuneError::file(path, error))?);
    let (mut records, mut errors, mut more) = (Vec::new(), Vec::new(), 0);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let read = file.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text);
        if read.map_err(|error| FinetuneError::file(path, error))? == 0 {
            break;
        }
        let parsed = match text.len() > MAX_LINE {
            true => Err(format!("is longer than {MAX_LINE} bytes")),
            false => parse(text.trim_ascii()),
        };
        match parsed {
            Ok(Some((messages, tools))) => records.push(Record { line, messages, tools }),
            Ok(None) => {}
            Err(message) if errors.len() < TOLD => errors.push(LineError { line, message }),
            Err(_) => more += 1,
        }
        if text.len() > MAX_LINE {
            break;
        }
    }
    if !errors.is_empty() {
        return Err(FinetuneError::Dataset { file: path.display().to_string(), errors, more });
    }
    match records.is_empty() {
        true => Err(FinetuneError::file(path, "has no conversations")),
        false => Ok(records),
    }
}

type Conversation = (Vec<Map<String, Value>>, Option<Vec<Value>>);

fn parse(line: &[u8]) -> Result<Option<Conversation>, String> {
    if line.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("is not JSON: {error}"))?;
    let Value::Object(mut object) = value else {
        return Err("is not a JSON object".to_owned());
    };
    let tools = match object.remove("tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => Some(tools),
        Some(_) => return Err("`tools` is not a list".to_owned()),
    };
    let keys = match (object.remove("messages"), object.remove("conversations")) {
        (Some(list), None) => (list, "messages", "role", "content"),
        (None, Some(list)) => (list, "conversations", "from", "value"),
        (Some(_), Some(_)) => return Err("has both `messages` and `conversations`".to_owned()),
        (None, None) => return Err("has neither `messages` nor `conversations`".to_owned()),
    };
    let (list, field, role, content) = keys;
    let Value::Array(list) = list else {
        return Err(format!("`{field}` is not a list"));
    };
    let messages = list
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            read_message(message, role, content).map_err(|error| format!("`{field}[{index}]` {error}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    check_order(&messages)?;
    Ok(Some((messages, tools)))
}

fn read_message(message: Value, role: &str, content: &str) -> Result<Map<String, Value>, String> {
    let Value::Object(mut rest) = message else {
        return Err("is not an object".to_owned());
    };
    let name = match rest.remove(role) {
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("`{role}` is {}, expected a string", brief(&other))),
        None => return Err(format!("has no `{role}`")),
    };
    let name = role_name(&name).ok_or_else(|| {
        format!("`{role}` is {name:.40}, expected system, user, assistant (or bot) or tool")
    })?;
    let text = rest.remove(content).unwrap_or(Value::Null);
    match &text {
        Value::String(_) => {}
        Value::Array(parts) if parts.iter().all(|part| part.get("text").is_some_and(Value::is_string)) => {}
        Value::Null if rest.get("tool_calls").is_some_and(Value::is_array) => {}
        Value::Null => return Err(format!("has no `{content}`")),
        other => return Err(format!("`{content}` is {}, expected text", brief(other))),
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), name.into());
    message.insert("content".to_owned(), text);
    message.extend(rest);
    Ok(message)
}

/// The name that chat templates know.
fn role_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "system" => "system",
        "user" | "human" => "user",
        "assistant" | "bot" | "gpt" | "model" => "assistant",
        "tool" => "tool",
        _ => return None,
    })
}

pub(crate) fn is_reply(message: &Map<String, Value>) -> bool {
    message.get("role").is_some_and(|role| role == "assistant")
}

fn check_order(messages: &[Map<String, Value>]) -> Result<(), String> {
    match messages.iter().position(is_reply) {
        None => Err("has no message of the assistant: nothing to learn".to_owned()),
        Some(0) => Err("begins with the assistant: nothing that it replies to".to_owned()),
        Some(_) => Ok(()),
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Vec<Record>, FinetuneError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_dataset(file.path())
    }

    #[test]
    fn both_forms_and_all_roles() {
        let text = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"bot","content":"a"}]}

{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}
{"messages":[{"role":"user","content":[{"type":"text","text":"q"}]},{"role":"assistant","content":null,"tool_calls":[]},{"role":"tool","content":"r","name":"f"},{"role":"assistant","content":"a"}],"tools":[{"name":"f"}]}"#;
        let records = read(text).unwrap();
        assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3, 4]);
        let roles = |index: usize| -> Vec<&str> {
            records[index].messages.iter().map(|message| message["role"].as_str().unwrap()).collect()
        };
        assert_eq!(roles(0), ["system", "user", "assistant"]);
        assert_eq!(roles(1), ["user", "assistant"]);
        assert_eq!(records[1].messages[1]["content"], json!("a"));
        assert_eq!(records[2].messages[2]["name"], json!("f"));
        assert_eq!(records[2].tools, Some(vec![json!({"name": "f"})]));
    }

    #[test]
    fn errors_name_line_and_field() {
        for (line, expected) in [
            ("{", "line 1: is not JSON"),
            ("[]", "line 1: is not a JSON object"),
            ("{}", "line 1: has neither `messages` nor `conversations`"),
            (r#"{"messages":{}}"#, "line 1: `messages` is not a list"),
            (r#"{"messages":[1]}"#, "line 1: `messages[0]` is not an object"),
            (r#"{"messages":[{"role":"judge","content":""}]}"#, "line 1: `messages[0]` `role` is judge"),
            (r#"{"messages":[{"role":"user"}]}"#, "line 1: `messages[0]` has no `content`"),
            (r#"{"messages":[{"role":"user","content":5}]}"#, "`content` is 5, expected text"),
            (r#"{"messages":[{"role":"user","content":"a"}]}"#, "no message of the assistant"),
            (r#"{"messages":[{"role":"bot","content":"a"}]}"#, "begins with the assistant"),
            ("\n\n", "has no conversations"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_first_twenty_errors_are_told() {
        let error = read(&"nonsense\n".repeat(50)).unwrap_err().to_string();
        assert!(error.contains("line 20: ") && !error.contains("line 21: "), "{error}");
        assert!(error.ends_with("and 30 more"), "{error}");
    }
}
