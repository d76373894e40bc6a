//! Tools: what a chat asks for.

use serde_json::Value;

use super::parameters::field;
use super::types::ChatRequest;
use crate::service::ServiceError;
use crate::tools::{Asked, Choice, ModelForms};

/// What a chat asks for; nothing where it has no tools or wants none called.
///
/// # Errors
/// When a tool is none, or the one to be called is not among them.
pub(super) fn asked(body: &ChatRequest, forms: &ModelForms) -> Result<Option<Asked>, ServiceError> {
    let Some(given) = body.tools.as_ref().filter(|tools| !tools.is_empty()) else { return Ok(None) };
    let Some(choice) = choice(body.tool_choice.as_ref())? else { return Ok(None) };
    let asked = Asked::new(given, &choice, body.parallel_tool_calls.unwrap_or(true), forms)?;
    Ok(Some(asked.with_prompt(body.tool_prompt.clone())))
}

/// None: nothing is to be called.
fn choice(value: Option<&Value>) -> Result<Option<Choice>, ServiceError> {
    Ok(Some(match value {
        None | Some(Value::Null) => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
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
    }))
}
