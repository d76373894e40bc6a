//! A request as a chat of OpenAI's.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::types::{
    ConversationRequest, DocumentSource, InputBlock, InputMessage, MessagesRequest, OutputFormat, Thinking,
    ToolChoice, ToolDefinition,
};
use crate::api::openai::{self, ChatRequest, Common, Message, Stop, field};
use crate::api::text_or::TextOr;
use crate::service::{ServiceError, ValidationError};
use crate::tools::Reasoning;

/// Between texts that are blocks of their own.
const PARAGRAPH: &str = "\n\n";

/// # Errors
/// What is not served here, and messages that are none.
pub(super) fn request(request: MessagesRequest) -> Result<ChatRequest, ServiceError> {
    if request.thread.is_some() {
        return Err(field(
            "thread",
            "is not supported: no conversation is kept here; send all of its messages",
        ));
    }
    if request.compaction.is_some() {
        return Err(field("compaction", "is not supported"));
    }
    let mut chat = conversation(request.conversation)?;
    chat.common = Common {
        max_tokens: Some(request.max_tokens),
        stop: request.stop_sequences.map(Stop::Many),
        stream: request.stream,
        temperature: request.temperature,
        top_k: request.top_k,
        top_p: request.top_p,
        user: request.metadata.and_then(|metadata| metadata.user_id),
        ..chat.common
    };
    Ok(chat)
}

/// # Errors
/// What is not served here, and messages that are none.
pub(super) fn conversation(request: ConversationRequest) -> Result<ChatRequest, ServiceError> {
    for (name, value) in [("mcp_servers", &request.mcp_servers), ("container", &request.container)] {
        let asks = value.as_ref().is_some_and(|value| !value.is_null() && *value != json!([]));
        if asks {
            return Err(field(name, "is not supported"));
        }
    }
    let (effort, format) = match request.output_config {
        Some(config) => (config.effort, config.format),
        None => (None, None),
    };
    let (tool_choice, parallel_tool_calls) = choice(request.tool_choice);
    let tools = request.tools.unwrap_or_default().into_iter().map(tool);
    Ok(ChatRequest {
        messages: messages(request.system, request.messages)?,
        common: Common { model: Some(request.model), ..Common::default() },
        tools: Some(tools.collect::<Result<_, _>>()?),
        tool_choice,
        parallel_tool_calls,
        reasoning_effort: effort,
        response_format: format.map(|OutputFormat::JsonSchema { schema }| {
            json!({"type": "json_schema", "json_schema": {"schema": schema}})
        }),
        chat_template_kwargs: request.thinking.map(|thinking| match thinking {
            Thinking::Enabled | Thinking::Adaptive => Reasoning::wish(true, None),
            Thinking::Disabled => Reasoning::wish(false, None),
        }),
        ..ChatRequest::default()
    })
}

fn tool(tool: ToolDefinition) -> Result<Value, ServiceError> {
    if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
        return Err(field("tools", &format!("a tool of type {kind:?} is not supported")));
    }
    let strict = tool.strict.unwrap_or(false);
    Ok(json!({"type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": strict,
    }}))
}

/// OpenAI's `tool_choice`, and whether several tools may be called at once.
fn choice(choice: Option<ToolChoice>) -> (Option<Value>, Option<bool>) {
    match choice {
        None => (None, None),
        Some(ToolChoice::None) => (Some(json!("none")), None),
        Some(ToolChoice::Auto { disable_parallel_tool_use: one }) => (Some(json!("auto")), Some(!one)),
        Some(ToolChoice::Any { disable_parallel_tool_use: one }) => (Some(json!("required")), Some(!one)),
        Some(ToolChoice::Tool { name }) => {
            (Some(json!({"type": "function", "function": {"name": name}})), None)
        }
    }
}

fn messages(
    system: Option<TextOr<InputBlock>>,
    given: Vec<InputMessage>,
) -> Result<Vec<Message>, ServiceError> {
    let mut messages = Messages::default();
    if let Some(system) = system {
        let text = text(system)?;
        messages.say("system", text, Map::new());
    }
    for message in given {
        match message.role.as_str() {
            "user" => messages.user(message.content)?,
            "assistant" => messages.assistant(message.content)?,
            "system" => {
                let text = text(message.content)?;
                messages.say("system", text, Map::new());
            }
            role => {
                return Err(field(
                    "messages",
                    &format!("role must be user, assistant or system. Given: {role:?}"),
                ));
            }
        }
    }
    Ok(messages.list)
}

#[derive(Default)]
struct Messages {
    list: Vec<Message>,
    /// Functions by the ids of their calls.
    called: HashMap<String, String>,
}

impl Messages {
    fn say(&mut self, role: &str, text: String, rest: Map<String, Value>) {
        let content = Some(openai::Content::Text(text));
        self.list.push(Message { role: role.to_owned(), content, rest });
    }

    /// Results of calls are messages of their own, in their places among the texts.
    fn user(&mut self, content: TextOr<InputBlock>) -> Result<(), ServiceError> {
        let mut texts = Vec::new();
        let mut results = 0;
        for block in blocks(content) {
            let InputBlock::ToolResult { tool_use_id, content } = block else {
                texts.extend(block_text(block)?);
                continue;
            };
            results += 1;
            if !texts.is_empty() {
                self.say("user", std::mem::take(&mut texts).join(PARAGRAPH), Map::new());
            }
            let mut rest = Map::new();
            let name = self.called.get(&tool_use_id).cloned();
            rest.extend(name.map(|name| ("name".to_owned(), Value::String(name))));
            rest.insert("tool_call_id".to_owned(), Value::String(tool_use_id));
            let content = content.map(text).transpose()?.unwrap_or_default();
            self.say("tool", content, rest);
        }
        if !texts.is_empty() || results == 0 {
            self.say("user", texts.join(PARAGRAPH), Map::new());
        }
        Ok(())
    }

    fn assistant(&mut self, content: TextOr<InputBlock>) -> Result<(), ServiceError> {
        let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
        for block in blocks(content) {
            match block {
                InputBlock::ToolUse { id, name, input } => {
                    self.called.insert(id.clone(), name.clone());
                    calls.push(
                        json!({"id": id, "type": "function", "function": {"name": name, "arguments": input}}),
                    );
                }
                InputBlock::Thinking { thinking } => thoughts.push(thinking),
                block => texts.extend(block_text(block)?),
            }
        }
        let mut rest = Map::new();
        if !thoughts.is_empty() {
            rest.insert("reasoning_content".to_owned(), Value::String(thoughts.join(PARAGRAPH)));
        }
        if calls.is_empty() {
            self.say("assistant", texts.join(PARAGRAPH), rest);
        } else {
            rest.insert("tool_calls".to_owned(), Value::Array(calls));
            let content = (!texts.is_empty()).then(|| openai::Content::Text(texts.join(PARAGRAPH)));
            self.list.push(Message { role: "assistant".to_owned(), content, rest });
        }
        Ok(())
    }
}

fn blocks(content: TextOr<InputBlock>) -> Vec<InputBlock> {
    match content {
        TextOr::Text(text) => vec![InputBlock::Text { text }],
        TextOr::List(blocks) => blocks,
    }
}

fn text(content: TextOr<InputBlock>) -> Result<String, ServiceError> {
    let texts = blocks(content).into_iter().filter_map(|block| block_text(block).transpose());
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join(PARAGRAPH))
}

/// None: a block without a text.
fn block_text(block: InputBlock) -> Result<Option<String>, ServiceError> {
    match block {
        InputBlock::Text { text } | InputBlock::Document { source: DocumentSource::Text { data: text } } => {
            Ok(Some(text))
        }
        InputBlock::Image {} | InputBlock::Document { .. } => Err(ValidationError::Image.into()),
        InputBlock::RedactedThinking {} => Ok(None),
        InputBlock::ToolUse { .. } | InputBlock::ToolResult { .. } | InputBlock::Thinking { .. } => {
            Err(field(
                "messages",
                "calls and thinking are the assistant's blocks, results of calls the user's, and neither is the system's",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(system: Value, messages: Value) -> Value {
        let request = json!({"model": "m", "messages": messages, "system": system});
        let chat = conversation(serde_json::from_value(request).unwrap()).unwrap();
        json!(openai::for_template(chat.messages, true).unwrap())
    }

    #[test]
    fn a_turn_over_calls_becomes_a_chats() {
        let messages = json!([
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "b"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "y"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "2", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "two"}]},
                {"type": "tool_result", "tool_use_id": "1", "content": "one", "is_error": false},
                {"type": "text", "text": "Well?"},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "3", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "3"}]},
            {"role": "assistant", "content": "So"},
        ]);
        let call = |id: &str, name: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a\n\nb"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.",
             "tool_calls": [call("1", "f", json!({"x": 1})), call("2", "g", json!({}))]},
            {"role": "tool", "content": "two", "tool_call_id": "2", "name": "g"},
            {"role": "tool", "content": "one", "tool_call_id": "1", "name": "f"},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": null, "tool_calls": [call("3", "f", json!({}))]},
            {"role": "tool", "content": "", "tool_call_id": "3", "name": "f"},
            {"role": "assistant", "content": "So"},
        ]);
        assert_eq!(lowered(json!("s"), messages), expected);
    }
}
