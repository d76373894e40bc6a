//! A request as a chat of OpenAI's.

use serde_json::{Map, Value, json};

use super::types::{AnyItem, ContentPart, InputItem, ResponsesRequest, TextFormat};
use crate::api::openai::{self, ChatRequest, Common, Message, field};
use crate::api::text_or::TextOr;
use crate::service::{ServiceError, ValidationError};

/// Between what the instructions say and what a first system message does.
const PARAGRAPH: &str = "\n\n";

/// # Errors
/// What is not served here, and items that are none.
pub(super) fn request(request: &ResponsesRequest) -> Result<ChatRequest, ServiceError> {
    if let Some((name, why)) = request.unserved() {
        return Err(field(name, why));
    }
    let reasoning_effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    let mut tools = request.tools.clone().unwrap_or_default();
    let tool_choice =
        request.tool_choice.clone().map(|choice| self::choice(choice, &mut tools)).transpose()?;
    let wants_logprobs = request.wants_logprobs();
    Ok(ChatRequest {
        messages: messages(request.instructions.clone(), request.input.clone())?,
        common: Common {
            model: request.model.clone(),
            stream: request.stream,
            temperature: request.temperature,
            top_p: request.top_p,
            user: request.user.clone(),
            ..Common::default()
        },
        max_completion_tokens: request.max_output_tokens,
        logprobs: wants_logprobs.then_some(true),
        top_logprobs: request.top_logprobs.filter(|_| wants_logprobs),
        response_format: format.and_then(response_format),
        tools: Some(tools.into_iter().map(tool).collect::<Result<_, _>>()?),
        tool_choice,
        parallel_tool_calls: request.parallel_tool_calls,
        reasoning_effort,
        // An answer is a new message, even after one of the assistant's.
        continue_final_message: Some(false),
        add_generation_prompt: Some(true),
        ..ChatRequest::default()
    })
}

fn response_format(format: &TextFormat) -> Option<Value> {
    match format {
        TextFormat::Text => None,
        TextFormat::JsonObject => Some(json!({"type": "json_object"})),
        TextFormat::JsonSchema { name, schema, strict, .. } => {
            let form = json!({"name": name, "schema": schema, "strict": strict});
            Some(json!({"type": "json_schema", "json_schema": form}))
        }
    }
}

/// Chats have a function within its tool.
fn tool(mut tool: Map<String, Value>) -> Result<Value, ServiceError> {
    match tool.remove("type") {
        Some(Value::String(kind)) if kind == "function" => Ok(json!({"type": "function", "function": tool})),
        kind => Err(field("tools", &format!("a tool of type {} is not supported", kind.unwrap_or_default()))),
    }
}

/// As chats have it; of `tools`, those stay that may be called.
fn choice(choice: Value, tools: &mut Vec<Map<String, Value>>) -> Result<Value, ServiceError> {
    let Value::Object(object) = &choice else { return Ok(choice) };
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    match (word("type"), word("name")) {
        (Some("function"), Some(name)) => Ok(json!({"type": "function", "function": {"name": name}})),
        (Some("allowed_tools"), _) => {
            let allowed =
                object.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            tools.retain(|tool| allowed.iter().any(|other| other.get("name") == tool.get("name")));
            Ok(object.get("mode").cloned().unwrap_or_else(|| json!("auto")))
        }
        _ => Err(field("tool_choice", "must be none, auto, required, name a function or list allowed tools")),
    }
}

fn messages(instructions: Option<String>, input: TextOr<AnyItem>) -> Result<Vec<Message>, ServiceError> {
    let mut messages = Messages::default();
    if let Some(text) = instructions {
        messages.say("system", text);
    }
    match input {
        TextOr::Text(text) => messages.say("user", text),
        TextOr::List(items) => items.into_iter().try_for_each(|AnyItem(item)| messages.add(item))?,
    }
    messages.close();
    Ok(messages.list)
}

#[derive(Default)]
struct Messages {
    list: Vec<Message>,
    /// What the assistant's next message begins with: thoughts come before it as an item of their own.
    thoughts: Option<String>,
}

impl Messages {
    fn add(&mut self, item: InputItem) -> Result<(), ServiceError> {
        match item {
            InputItem::Message { role, content } => {
                let text = text(content)?;
                match role.as_str() {
                    "assistant" => self.assistant(Some(text), None),
                    role => self.say(role, text),
                }
            }
            InputItem::FunctionCall { call_id, name, arguments } => {
                let function = json!({"name": name, "arguments": arguments});
                self.assistant(None, Some(json!({"id": call_id, "type": "function", "function": function})));
            }
            InputItem::FunctionCallOutput { call_id, output } => {
                let text = text(output)?;
                self.close();
                let rest = Map::from_iter([("tool_call_id".to_owned(), Value::String(call_id))]);
                self.list.push(Message { role: "tool".to_owned(), content: Some(content(text)), rest });
            }
            InputItem::Reasoning { content } => {
                self.close();
                self.thoughts = content.map(|parts| text(TextOr::List(parts))).transpose()?;
            }
        }
        Ok(())
    }

    fn say(&mut self, role: &str, text: String) {
        self.close();
        let system = |role: &str| matches!(role, "system" | "developer");
        // Many templates take one system message, and only as the first.
        if let [Message { role: first, content: Some(openai::Content::Text(before)), .. }] = &mut *self.list
            && system(first)
            && system(role)
        {
            before.push_str(PARAGRAPH);
            before.push_str(&text);
            return;
        }
        self.list.push(Message { role: role.to_owned(), content: Some(content(text)), rest: Map::new() });
    }

    /// A text or a call of the assistant's. What it says and calls in one turn is one message.
    fn assistant(&mut self, text: Option<String>, call: Option<Value>) {
        let thoughts = self.thoughts.take();
        let joins = self.list.last().is_some_and(|last| last.role == "assistant");
        if text.is_none()
            && thoughts.is_none()
            && joins
            && let Some(last) = self.list.last_mut()
        {
            let calls = last.rest.entry("tool_calls").or_insert_with(|| json!([]));
            if let (Value::Array(calls), Some(call)) = (calls, call) {
                calls.push(call);
            }
            return;
        }
        let mut rest = Map::new();
        rest.extend(thoughts.map(|thoughts| ("reasoning_content".to_owned(), Value::String(thoughts))));
        rest.extend(call.map(|call| ("tool_calls".to_owned(), json!([call]))));
        self.list.push(Message { role: "assistant".to_owned(), content: text.map(content), rest });
    }

    /// Thoughts that led to nothing are a message of their own.
    fn close(&mut self) {
        if self.thoughts.is_some() {
            self.assistant(Some(String::new()), None);
        }
    }
}

fn content(text: String) -> openai::Content {
    openai::Content::Text(text)
}

fn text(content: TextOr<ContentPart>) -> Result<String, ServiceError> {
    match content {
        TextOr::Text(text) => Ok(text),
        TextOr::List(parts) => parts.into_iter().map(part_text).collect(),
    }
}

fn part_text(part: ContentPart) -> Result<String, ServiceError> {
    match part {
        ContentPart::InputText { text }
        | ContentPart::OutputText { text }
        | ContentPart::ReasoningText { text }
        | ContentPart::Refusal { refusal: text } => Ok(text),
        ContentPart::InputImage {} | ContentPart::InputAudio {} | ContentPart::InputFile {} => {
            Err(ValidationError::Image.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(instructions: Value, input: Value) -> Value {
        let body = json!({"instructions": instructions, "input": input});
        let chat = request(&serde_json::from_value(body).unwrap()).unwrap();
        json!(openai::for_template(chat.messages, true).unwrap())
    }

    #[test]
    fn a_turn_over_calls_becomes_a_chats() {
        let input = json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "2", "output": "two"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "one"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "3", "output": ""},
            {"role": "user", "content": "Well?"},
        ]);
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "s\n\nd"},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.",
             "tool_calls": [call("1", "f", "{\"x\": 1}"), call("2", "g", "{}")]},
            {"role": "tool", "content": "two", "tool_call_id": "2"},
            {"role": "tool", "content": "one", "tool_call_id": "1"},
            {"role": "assistant", "content": null, "tool_calls": [call("3", "f", "{}")]},
            {"role": "tool", "content": "", "tool_call_id": "3"},
            {"role": "user", "content": "Well?"},
        ]);
        assert_eq!(lowered(json!("s"), input), expected);
        assert_eq!(lowered(Value::Null, json!("Hi")), json!([{"role": "user", "content": "Hi"}]));
    }

    #[test]
    fn a_call_after_another_ones_result_is_a_turn_of_its_own() {
        let turn = |id: &str| {
            [
                json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}),
                json!({"type": "function_call_output", "call_id": id, "output": id}),
            ]
        };
        let lowered = lowered(Value::Null, [turn("1"), turn("2")].concat().into());
        let roles: Vec<&str> =
            lowered.as_array().unwrap().iter().map(|one| one["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["assistant", "tool", "assistant", "tool"]);
    }
}
