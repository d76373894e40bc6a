//! Tools: what a chat asks for, and what the template is told about it.

use serde_json::{Map, Value, json};

use super::parameters::field;
use super::types::ChatRequest;
use crate::service::{Conversation, ServiceError, ToolError};
use crate::tools::{Calls, ModelForms, Tool};

/// OpenAI's bound on the number of tools, and on a name's length.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// The tools of a chat and how they may be called.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub calls: Calls,
    /// As the client sent them.
    tools: Vec<Value>,
    prompt: Option<String>,
}

enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

/// What a chat asks for; nothing where it has no tools or wants none called.
///
/// # Errors
/// When a tool is none, or the one to be called is not among them.
pub(super) fn asked(body: &ChatRequest, forms: &ModelForms) -> Result<Option<Asked>, ServiceError> {
    let Some(given) = body.tools.as_ref().filter(|tools| !tools.is_empty()) else { return Ok(None) };
    let choice = choice(body.tool_choice.as_ref())?;
    if matches!(choice, Choice::None) {
        return Ok(None);
    }
    if given.len() > MAX_TOOLS {
        return Err(field("tools", &format!("supports up to {MAX_TOOLS} tools. Given: {}", given.len())));
    }
    let mut tools = given.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
    let mut given = given.clone();
    if let Choice::Named(name) = &choice {
        let keep: Vec<bool> = tools.iter().map(|tool| tool.name == *name).collect();
        let mut kept = keep.iter();
        tools.retain(|_| kept.next() == Some(&true));
        let mut kept = keep.iter();
        given.retain(|_| kept.next() == Some(&true));
        if tools.is_empty() {
            return Err(ToolError::NotFound(name.clone()).into());
        }
    }
    let calls = Calls {
        format: forms.format,
        tools,
        required: !matches!(choice, Choice::Auto),
        parallel: body.parallel_tool_calls.unwrap_or(true) && !matches!(choice, Choice::Named(_)),
        content: None,
    };
    Ok(Some(Asked { calls, tools: given, prompt: body.tool_prompt.clone() }))
}

fn choice(value: Option<&Value>) -> Result<Choice, ServiceError> {
    Ok(match value {
        None | Some(Value::Null) => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" | "any" => Choice::Required,
            name => Choice::Named(name.to_owned()),
        },
        Some(object) => {
            let name =
                object.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
            let unknown = || field("tool_choice", "must be none, auto, required or name a function");
            Choice::Named(name.ok_or_else(unknown)?.to_owned())
        }
    })
}

/// One tool; TGI's contract has its parameters under `arguments`.
fn tool(value: &Value) -> Result<Tool, ServiceError> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("function");
    if kind != "function" {
        return Err(field("tools", &format!("a tool of type {kind:?} is not supported")));
    }
    let Some(function) = value.get("function").filter(|function| function.is_object()) else {
        return Err(field("tools", "each tool needs a `function`"));
    };
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
        let message = format!("the name {name:?} is not of 1 to {MAX_NAME} letters, digits, '_', '-' or '.'");
        return Err(field("tools", &message));
    }
    let parameters = ["parameters", "arguments"].iter().find_map(|key| function.get(*key));
    let parameters = match parameters {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(Value::Object(schema)) => as_object(schema),
        Some(_) => return Err(field("tools", &format!("the parameters of {name:?} are not a JSON schema"))),
    };
    Ok(Tool { name: name.to_owned(), parameters })
}

/// Arguments are an object, whether the schema says so or not.
fn as_object(schema: &Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    if schema.is_empty() {
        return json!({"type": "object", "properties": {}});
    }
    schema.entry("type").or_insert_with(|| json!("object"));
    Value::Object(schema)
}

impl Asked {
    /// Tells the template about the tools, or the model where its template cannot.
    pub fn tell(self, conversation: &mut Conversation, forms: &ModelForms) {
        if self.calls.format.tools_in_system_message() {
            let tools = Value::from(self.tools);
            let system = conversation.messages.first_mut();
            match system.filter(|message| message.get("role") == Some(&json!("system"))) {
                Some(message) => {
                    message.insert("tools".to_owned(), Value::from(tools.to_string()));
                }
                None => {
                    let message = json!({"role": "system", "content": "", "tools": tools.to_string()});
                    conversation.messages.insert(0, message.as_object().cloned().unwrap_or_default());
                }
            }
            append(conversation, self.prompt.as_deref());
        } else if forms.template_has_tools {
            conversation.tools = Some(self.tools);
            append(conversation, self.prompt.as_deref());
        } else {
            let tools = Value::from(self.tools);
            let how = "To call one of these functions, answer with nothing but \
                       {\"name\": its name, \"arguments\": its arguments as a JSON object}.";
            append(conversation, Some(&format!("{tools}\n{}", self.prompt.as_deref().unwrap_or(how))));
        }
    }
}

/// Adds to the last message, after a line, as TGI does.
fn append(conversation: &mut Conversation, text: Option<&str>) {
    let content = conversation.messages.last_mut().and_then(|message| message.get_mut("content"));
    if let (Some(Value::String(content)), Some(text)) = (content, text) {
        content.push_str("\n---\n");
        content.push_str(text);
    }
}
