//! Conversations through templates. A template that asks for `.Messages` gets all of them; one that does not is run
//! once a turn with `.System`, `.Prompt` and `.Response`, the last time only up to `.Response`.

use serde_json::{Map, Value as Json, json};

use super::parse::{Branch, Node, Pipeline, print_field};
use super::run::Budget;
use super::value::Value;
use super::{MAX_OUTPUT_BYTES, Template, TemplateError, run};

const RESPONSE: &str = "Response";

/// What is to be said to a model, in the words of Ollama's API.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Objects with `role`, `content` and, where they are used, `thinking`, `tool_calls`, `tool_name`, `tool_call_id`.
    pub messages: Vec<Json>,
    /// Objects with `type` and `function`.
    pub tools: Vec<Json>,
    /// The text before and after what is to be filled in, in place of messages.
    pub fill: Option<(String, String)>,
    /// A bool, or a level (`low`, `medium`, `high`); `None` where the request says nothing.
    pub think: Option<Json>,
}

impl Template {
    /// The prompt for `conversation`. Texts of the same role in a row are joined by a blank line, but for tools'.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let Conversation { tools, fill, think, .. } = conversation;
        if let Some((prompt, suffix)) = fill {
            return self.render(&json!({ "Prompt": prompt, "Suffix": suffix, RESPONSE: "" }));
        }
        let messages = joined(&conversation.messages);
        if !self.mentions("Messages") {
            return self.turns(&messages);
        }
        let system: Vec<&str> = messages.iter().filter(|m| role(m) == "system").map(content).collect();
        let level = think.as_ref().and_then(Json::as_str).unwrap_or_default();
        self.render(&json!({
            "System": system.join("\n\n"),
            "Messages": messages,
            "Tools": tools,
            RESPONSE: "",
            "Think": think.as_ref().is_some_and(|think| *think != json!(false)),
            "ThinkLevel": level,
            "IsThinkSet": think.is_some(),
        }))
    }

    /// One run a turn.
    fn turns(&self, messages: &[Json]) -> Result<String, TemplateError> {
        let mut text = String::new();
        let mut turn = Turn::default();
        let mut budget = Budget::default();
        let mut add = |text: &mut String, nodes: &[Node], turn: &mut Turn| {
            *text += &run::run(nodes, turn.take(), &mut budget)?;
            if text.len() > MAX_OUTPUT_BYTES { Err(TemplateError::TooMuchOutput) } else { Ok(()) }
        };
        let whole = self.with_response();
        for message in messages {
            match role(message) {
                "system" => {
                    if !turn.prompt.is_empty() || !turn.response.is_empty() {
                        add(&mut text, &whole, &mut turn)?;
                    }
                    turn.system = content(message).to_owned();
                }
                "user" => {
                    if !turn.response.is_empty() {
                        add(&mut text, &whole, &mut turn)?;
                    }
                    turn.prompt = content(message).to_owned();
                }
                "assistant" => turn.response = content(message).to_owned(),
                _ => {}
            }
        }
        let opening = cut(&whole, &mut false);
        add(&mut text, &opening, &mut turn)?;
        Ok(text)
    }

    /// The tree, with `{{ .Response }}` at its end where it has none.
    fn with_response(&self) -> Vec<Node> {
        let mut nodes = self.nodes.clone();
        if !self.mentions(RESPONSE) {
            nodes.push(print_field(RESPONSE));
        }
        nodes
    }
}

#[derive(Default)]
struct Turn {
    system: String,
    prompt: String,
    response: String,
}

impl Turn {
    /// As a template's data; nothing is left.
    fn take(&mut self) -> Value {
        let Turn { system, prompt, response } = std::mem::take(self);
        Value::from_json(&json!({ "System": system, "Prompt": prompt, RESPONSE: response }))
    }
}

fn role(message: &Json) -> &str {
    message.get("role").and_then(Json::as_str).unwrap_or_default()
}

fn content(message: &Json) -> &str {
    message.get("content").and_then(Json::as_str).unwrap_or_default()
}

/// Messages of one role in a row as one.
fn joined(messages: &[Json]) -> Vec<Json> {
    let mut joined: Vec<Json> = Vec::new();
    for message in messages {
        match joined.last_mut() {
            Some(last) if role(last) == role(message) && role(message) != "tool" => {
                let text = format!("{}\n\n{}", content(last), content(message));
                let mut fields: Map<String, Json> = last.as_object().cloned().unwrap_or_default();
                fields.insert("content".to_owned(), Json::from(text));
                // Calls of the later message would be lost with it.
                if let Some(calls) = message.get("tool_calls").and_then(Json::as_array) {
                    let known = fields.entry("tool_calls").or_insert_with(|| json!([]));
                    known.as_array_mut().into_iter().for_each(|known| known.extend(calls.iter().cloned()));
                }
                *last = Json::Object(fields);
            }
            _ => joined.push(message.clone()),
        }
    }
    joined
}

/// The nodes up to the first that asks for the response, with it.
fn cut(nodes: &[Node], done: &mut bool) -> Vec<Node> {
    let mut kept = Vec::new();
    for node in nodes {
        if *done {
            break;
        }
        let mut check = |pipeline: &Pipeline| *done |= pipeline.mentions(RESPONSE);
        let branch = match node {
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => branch,
            Node::Action(pipeline) => {
                check(pipeline);
                kept.push(node.clone());
                continue;
            }
            Node::Text(_) | Node::Break | Node::Continue => {
                kept.push(node.clone());
                continue;
            }
        };
        check(&branch.pipeline);
        let then = cut(&branch.then, done);
        let otherwise = cut(&branch.otherwise, done);
        let branch = Branch { pipeline: branch.pipeline.clone(), then, otherwise };
        kept.push(match node {
            Node::If(_) => Node::If(branch),
            Node::With(_) => Node::With(branch),
            _ => Node::Range(branch),
        });
    }
    kept
}
