//! The lines of a data set, each a conversation that a training can learn from. Whoever takes in a file and whoever
//! trains on it hold them to the same rules: these.

use serde_json::{Map, Value};

/// Bytes of a line.
pub const MAX_LINE: usize = 16 << 20;
/// Errors that are told of one file.
pub const MAX_ERRORS: usize = 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct LineError {
    /// From 1.
    pub line: u64,
    pub message: String,
}

/// How a conversation is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordForm {
    /// `{"messages": [{"role": …, "content": …}]}`.
    Messages,
    /// `{"conversations": [{"from": …, "value": …}]}`.
    Conversations,
}

/// One conversation, as chat templates take it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// In the file, from 1.
    pub line: u64,
    pub form: RecordForm,
    /// Each with `role` (system, user, assistant or tool) and `content`, and whatever else there was.
    pub messages: Vec<Map<String, Value>>,
    pub tools: Option<Vec<Value>>,
}

impl Record {
    /// Reads a line of a file; `None`: it is blank.
    ///
    /// # Errors
    /// What is no conversation, or has no reply to learn.
    pub fn read(number: u64, line: &[u8]) -> Result<Option<Self>, LineError> {
        let parsed = match line.trim_ascii() {
            _ if line.len() > MAX_LINE => Err(format!("is longer than {MAX_LINE} bytes")),
            [] => return Ok(None),
            text if text.starts_with(BYTE_ORDER_MARK) => {
                Err("begins with a byte order mark; save the file as UTF-8 without one".to_owned())
            }
            text => parse(text),
        };
        match parsed {
            Ok((form, messages, tools)) => Ok(Some(Self { line: number, form, messages, tools })),
            Err(message) => Err(LineError { line: number, message }),
        }
    }

    /// Messages of `role`.
    pub fn count(&self, role: &str) -> u64 {
        self.messages.iter().filter(|message| has_role(message, role)).count() as u64
    }

    /// Whether message `index` is the assistant's.
    pub fn is_reply(&self, index: usize) -> bool {
        self.messages.get(index).is_some_and(|message| has_role(message, "assistant"))
    }
}

fn has_role(message: &Map<String, Value>, role: &str) -> bool {
    message.get("role").is_some_and(|own| own == role)
}

type Parsed = (RecordForm, Vec<Map<String, Value>>, Option<Vec<Value>>);

fn parse(line: &[u8]) -> Result<Parsed, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("is not JSON: {error}"))?;
    let Value::Object(mut object) = value else {
        return Err("is not an object".to_owned());
    };
    let tools = match object.remove("tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => Some(tools),
        Some(other) => return Err(format!("`tools` is {}, expected a list", brief(&other))),
    };
    let (form, list) = match (object.remove("messages"), object.remove("conversations")) {
        (Some(list), None) => (RecordForm::Messages, list),
        (None, Some(list)) => (RecordForm::Conversations, list),
        (Some(_), Some(_)) => return Err("has both `messages` and `conversations`".to_owned()),
        (None, None) => return Err("has neither `messages` nor `conversations`".to_owned()),
    };
    let (field, role, content) = match form {
        RecordForm::Messages => ("messages", "role", "content"),
        RecordForm::Conversations => ("conversations", "from", "value"),
    };
    let Value::Array(list) = list else {
        return Err(format!("`{field}` is {}, expected a list", brief(&list)));
    };
    let messages = list
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            read_message(message, role, content).map_err(|error| format!("`{field}[{index}]` {error}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    match messages.iter().position(|message| has_role(message, "assistant")) {
        None => Err(format!("`{field}` has no message of the assistant's, so there is nothing to learn")),
        Some(0) => Err(format!("`{field}` begins with the assistant: there is nothing that it replies to")),
        Some(_) => Ok((form, messages, tools)),
    }
}

fn read_message(message: Value, role: &str, content: &str) -> Result<Map<String, Value>, String> {
    let Value::Object(mut rest) = message else {
        return Err("is not an object".to_owned());
    };
    let name = match rest.remove(role) {
        Some(Value::String(name)) => role_name(&name).ok_or_else(|| {
            format!("`{role}` is {name:.40}, expected system, user, assistant (or bot) or tool")
        })?,
        Some(other) => return Err(format!("`{role}` is {}, expected a string", brief(&other))),
        None => return Err(format!("has no `{role}`")),
    };
    let calls = match rest.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => !calls.is_empty() && name == "assistant",
        Some(other) => return Err(format!("`tool_calls` is {}, expected a list", brief(other))),
    };
    let text = rest.remove(content).unwrap_or(Value::Null);
    match &text {
        Value::String(_) => {}
        Value::Array(parts) if parts.iter().all(|part| part.get("text").is_some_and(Value::is_string)) => {}
        Value::Null if calls => {}
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

/// The beginning of a value, for messages.
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

    fn read(line: &str) -> Result<Option<Record>, LineError> {
        Record::read(7, line.as_bytes())
    }

    fn roles(record: &Record) -> Vec<&str> {
        record.messages.iter().map(|message| message["role"].as_str().unwrap()).collect()
    }

    #[test]
    fn both_forms_and_all_roles() {
        let line = r#" {"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"bot","content":"a"}]}"#;
        let record = read(&format!("{line}\r")).unwrap().unwrap();
        assert_eq!((record.line, record.form), (7, RecordForm::Messages));
        assert_eq!(roles(&record), ["system", "user", "assistant"]);
        assert_eq!((record.count("user"), record.count("assistant")), (1, 1));
        assert!(record.is_reply(2) && !record.is_reply(1) && !record.is_reply(3));
        for (from, to) in [("human", "gpt"), ("user", "assistant"), ("user", "bot"), ("human", "model")] {
            let line = json!({"conversations": [{"from": from, "value": "q"}, {"from": to, "value": "a"}]});
            let turns = read(&line.to_string()).unwrap().unwrap();
            assert_eq!(turns.form, RecordForm::Conversations);
            assert_eq!(roles(&turns), ["user", "assistant"]);
            assert_eq!(turns.messages[1]["content"], json!("a"));
            let line = json!({"messages": [{"role": from, "content": "q"}, {"role": to, "content": "a"}]});
            assert_eq!(read(&line.to_string()).unwrap().unwrap().messages, turns.messages);
        }
        for blank in ["", " ", "\r", "\t\x0c "] {
            assert_eq!(read(blank), Ok(None));
        }
    }

    #[test]
    fn what_templates_take_is_kept() {
        let parts = json!([{"type": "text", "text": "q"}]);
        let calls = json!([{"id": "1"}]);
        let line = json!({"messages": [
            {"role": "user", "content": parts}, {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "content": "r", "name": "f"}, {"role": "assistant", "tool_calls": calls},
            {"role": "assistant", "content": "a", "tool_calls": null},
        ], "tools": [{"name": "f"}]});
        let record = read(&line.to_string()).unwrap().unwrap();
        assert_eq!(record.messages[0]["content"], parts);
        assert_eq!(record.messages[1]["tool_calls"], calls);
        assert_eq!(record.messages[2]["name"], json!("f"));
        assert_eq!(record.messages[3]["content"], Value::Null);
        assert_eq!(record.tools, Some(vec![json!({"name": "f"})]));
        assert_eq!(record.count("assistant"), 3);
    }

    #[test]
    fn errors_name_line_and_field() {
        let good = r#"{"role":"user","content":"q"},{"role":"bot","content":"a"}"#;
        let tools = format!(r#"{{"messages":[{good}],"tools":{{}}}}"#);
        let marked = format!("\u{feff}{{\"messages\":[{good}]}}");
        for (line, expected) in [
            ("{", "is not JSON"),
            ("\"\u{1}\"", "is not JSON"),
            ("[]", "is not an object"),
            ("{}", "has neither `messages` nor `conversations`"),
            (r#"{"messages":[],"conversations":[]}"#, "has both"),
            (r#"{"messages":{}}"#, "`messages` is {}, expected a list"),
            (r#"{"messages":[]}"#, "no message of the assistant's"),
            (r#"{"messages":[1]}"#, "`messages[0]` is not an object"),
            (r#"{"messages":[{"content":"q"}]}"#, "`messages[0]` has no `role`"),
            (r#"{"messages":[{"role":1}]}"#, "`messages[0]` `role` is 1, expected a string"),
            (r#"{"messages":[{"role":"judge","content":""}]}"#, "`messages[0]` `role` is judge"),
            (r#"{"messages":[{"role":"user"}]}"#, "`messages[0]` has no `content`"),
            (r#"{"messages":[{"role":"user","content":5}]}"#, "`content` is 5, expected text"),
            (r#"{"messages":[{"role":"user","content":["q"]}]}"#, "`content` is [\"q\"], expected text"),
            (r#"{"messages":[{"role":"user","content":"a"}]}"#, "no message of the assistant's"),
            (r#"{"messages":[{"role":"bot","content":"a"}]}"#, "begins with the assistant"),
            (r#"{"messages":[{"role":"bot","content":null,"tool_calls":[]}]}"#, "has no `content`"),
            (r#"{"messages":[{"role":"user","tool_calls":[{}]}]}"#, "has no `content`"),
            (r#"{"messages":[{"role":"bot","tool_calls":{}}]}"#, "`tool_calls` is {}, expected a list"),
            (r#"{"conversations":[{"from":"human","value":1}]}"#, "`conversations[0]` `value` is 1"),
            (r#"{"conversations":[{"from":"gpt","value":"a"}]}"#, "begins with the assistant"),
            (tools.as_str(), "`tools` is {}, expected a list"),
            (marked.as_str(), "begins with a byte order mark"),
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.line, 7);
            assert!(error.message.contains(expected), "{line}: {error}");
        }
        assert_eq!(read("[]").unwrap_err().to_string(), "line 7: is not an object");
        let long = vec![b' '; MAX_LINE + 1];
        assert!(Record::read(1, &long).unwrap_err().message.contains("longer than 16777216 bytes"));
        assert!(Record::read(1, b"\"\xff\"").unwrap_err().message.contains("not JSON"));
    }
}
