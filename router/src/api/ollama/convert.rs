//! What generate and chat lower in the same way.

use std::sync::Arc;

use serde_json::{Map, Value};
use weirgate_grammar::GrammarSpec;

use super::errors::Refusal;
use super::options::Options;
use super::types::Common;
use crate::residency::{Lease, Model};
use crate::service::{
    ChatTemplate, Constraint, Conversation, Field, Parameters, Prompt, Request, Tenant, TextOptions,
    ValidationError,
};
use crate::tools::{Calls, Reasoning};

const MAX_TOP_LOGPROBS: u32 = 20;
/// Models come with several of their own.
const MAX_STOPS: usize = 32;
const LEVELS: [&str; 3] = ["low", "medium", "high"];
const FORMAT: Field = Field::Other("format");

/// What a request asks of its generation, whatever its prompt is.
pub(super) struct Asked {
    pub parameters: Parameters,
    pub context: crate::service::ContextLimit,
    pub logprobs: bool,
    /// For the template: whether, or how hard, to reason.
    pub think: Map<String, Value>,
}

/// # Errors
/// Options, `top_logprobs`, `think` or `keep_alive` that are none.
pub(super) fn asked(common: &Common, model: &Model) -> Result<Asked, Refusal> {
    let own = common.options.as_ref();
    let options = Options::read([&model.card.layers.parameters].into_iter().chain(own))?;
    let top = common.top_logprobs.unwrap_or(0);
    let top = u32::try_from(top).ok().filter(|top| *top <= MAX_TOP_LOGPROBS);
    let top = top.ok_or_else(|| Refusal::bad("top_logprobs must be between 0 and 20".to_owned()))?;
    let logprobs = common.logprobs.unwrap_or(false);
    let mut parameters = options.parameters()?;
    parameters.top_n_tokens = if logprobs { top } else { 0 };
    let truncate = common.truncate.unwrap_or(true);
    let context = options.context(model.settings.default_num_ctx, truncate, common.shift.unwrap_or(true));
    let think = think(common.think.as_ref(), model)?;
    Ok(Asked { parameters, context, logprobs, think })
}

/// # Errors
/// A value that is none, or one that this model has no use for.
fn think(value: Option<&Value>, model: &Model) -> Result<Map<String, Value>, Refusal> {
    let (on, level) = match value {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Bool(on)) => (*on, None),
        Some(Value::String(level)) if LEVELS.contains(&level.as_str()) => (true, Some(level)),
        Some(other) => {
            let message = format!(
                "invalid think value: {other} (must be \"high\", \"medium\", \"low\", true, or false)"
            );
            return Err(Refusal::bad(message));
        }
    };
    if on && model.service.forms.reasoning.is_none() {
        return Err(Refusal::bad(format!("{:?} does not support thinking", model.card.name)));
    }
    Ok(Reasoning::wish(on, level.map(String::as_str)))
}

/// What `format` asks of the text.
///
/// # Errors
/// When it is neither `json` nor a schema.
pub(super) fn format(value: Option<&Value>) -> Result<Option<Constraint>, Refusal> {
    let spec = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(word)) if word.is_empty() => return Ok(None),
        Some(Value::String(word)) if word == "json" => GrammarSpec::JsonObject,
        Some(schema @ Value::Object(_)) => GrammarSpec::JsonSchema(schema.to_string()),
        Some(other) => {
            let message = format!("invalid format: {other}; expected \"json\" or a valid JSON Schema object");
            return Err(Refusal::bad(message));
        }
    };
    Ok(Some(Constraint::whole(FORMAT, spec)))
}

/// The constraint of a text that may be of a form, may be calls, or either.
///
/// # Errors
/// A form that cannot be one of two.
pub(super) fn constraint(
    form: Option<Constraint>,
    calls: Option<&Calls>,
) -> Result<Option<Constraint>, ValidationError> {
    match (form, calls) {
        (Some(form), Some(calls)) => form.or_calls(calls.clone()).map(Some),
        (None, Some(calls)) => Ok(Some(Constraint::calls(calls.clone()))),
        (form, None) => Ok(form),
    }
}

/// A conversation for `template`, a Go template of the request's own, or else the model's. Of a model without any there is
/// nothing but the texts.
pub(super) fn prompt(
    template: Option<Arc<ChatTemplate>>,
    conversation: Conversation,
    model: &Model,
) -> Prompt {
    match template {
        Some(template) => Prompt::Templated(template, conversation),
        None if model.service.template.is_missing() => {
            Prompt::Templated(Arc::new(ChatTemplate::texts()), conversation)
        }
        None => Prompt::Chat(conversation),
    }
}

/// The service's request.
pub(super) fn request(prompt: Prompt, mut asked: Asked, model: &Lease, tenant: Tenant) -> Request {
    asked.parameters.adapter = model.adapter.clone();
    let calls = asked.parameters.constraint.as_ref().and_then(Constraint::tools);
    let mut marks = calls.map(Calls::marks).unwrap_or_default();
    let reasoning = model.service.forms.reasoning;
    let of = |Reasoning { open, close }: Reasoning| [open.to_owned(), close.to_owned()];
    marks.extend(reasoning.into_iter().flat_map(of));
    Request {
        prompt,
        truncate: None,
        context: Some(asked.context),
        parameters: asked.parameters,
        max_top_n_tokens: MAX_TOP_LOGPROBS,
        max_stop_sequences: model.settings.max_stop_sequences.max(MAX_STOPS),
        text: TextOptions { keep_stop: false, special_pieces: false },
        marks,
        tenant,
    }
}
