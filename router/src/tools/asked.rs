//! A request's tools: read from JSON, and told to the template.

use serde_json::{Map, Value, json};

use super::{Calls, ModelForms, Tool};
use crate::service::{Conversation, ServiceError, ToolError, ValidationError};

/// OpenAI's bound on the number of tools, and on a name's length.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 64;

/// Tools, and how they may be called.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub calls: Calls,
    /// As the client sent them.
    tools: Vec<Value>,
    prompt: Option<String>,
}

/// Whether and what to call.
pub(crate) enum Choice {
    Auto,
    Required,
    Named(String),
}

impl Asked {
    /// # Errors
    /// When a tool is none, or the one to be called is not among them.
    pub fn new(
        given: &[Value],
        choice: &Choice,
        parallel: bool,
        forms: &ModelForms,
    ) -> Result<Self, ServiceError> {
        if given.len() > MAX_TOOLS {
            return Err(wrong(format!("supports up to {MAX_TOOLS} tools. Given: {}", given.len())));
        }
        let mut tools = given
            .iter()
            .map(|value| Ok((value.clone(), tool(value)?)))
            .collect::<Result<Vec<_>, ServiceError>>()?;
        if let Choice::Named(name) = choice {
            tools.retain(|(_, tool)| tool.name == *name);
            if tools.is_empty() {
                return Err(ToolError::NotFound(name.clone()).into());
            }
        }
        let (given, tools) = tools.into_iter().unzip();
        let calls = Calls {
            format: forms.format,
            tools,
            required: !matches!(choice, Choice::Auto),
            parallel: parallel && !matches!(choice, Choice::Named(_)),
            content: None,
        };
        Ok(Self { calls, tools: given, prompt: None })
    }

    /// For answers that cannot tell what of a schema was not enforced.
    pub fn all_strict(mut self) -> Self {
        self.calls.tools.iter_mut().for_each(|tool| tool.strict = true);
        self
    }

    /// How the model is told, in place of the usual words.
    pub fn with_prompt(self, prompt: Option<String>) -> Self {
        Self { prompt, ..self }
    }

    /// Tells the template about the tools, or the model where its template cannot.
    pub fn tell(self, conversation: &mut Conversation, forms: &ModelForms) {
        if forms.tools_in_system_message {
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

/// One tool; TGI's contract has its parameters under `arguments`.
fn tool(value: &Value) -> Result<Tool, ServiceError> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("function");
    if kind != "function" {
        return Err(wrong(format!("a tool of type {kind:?} is not supported")));
    }
    let Some(function) = value.get("function").filter(|function| function.is_object()) else {
        return Err(wrong("each tool needs a `function`".to_owned()));
    };
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
        let message = format!("the name {name:?} is not of 1 to {MAX_NAME} letters, digits, '_', '-' or '.'");
        return Err(wrong(message));
    }
    let parameters = ["parameters", "arguments"].iter().find_map(|key| function.get(*key));
    let parameters = match parameters {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(Value::Object(schema)) => as_object(schema),
        Some(_) => return Err(wrong(format!("the parameters of {name:?} are not a JSON schema"))),
    };
    let strict = match function.get("strict") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(strict)) => *strict,
        Some(_) => return Err(wrong(format!("`strict` of {name:?} must be true or false"))),
    };
    Ok(Tool { name: name.to_owned(), parameters, strict })
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

fn wrong(message: String) -> ServiceError {
    ValidationError::Field { field: "tools", message }.into()
}

/// Adds to the last message, after a line, as TGI does.
fn append(conversation: &mut Conversation, text: Option<&str>) {
    let content = conversation.messages.last_mut().and_then(|message| message.get_mut("content"));
    if let (Some(Value::String(content)), Some(text)) = (content, text) {
        content.push_str("\n---\n");
        content.push_str(text);
    }
}
