//! The models as Ollama lists and shows them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Local, TimeDelta, Utc};
use serde_json::{Map, Value};
use weirgate_store::{Conversation, Template};

use super::errors::Refusal;
use super::names;
use super::reply::timestamp;
use super::types::{
    Details, Listed, Message, Processes, Rendered, RenderedTemplate, Running, ShowRequest, ShowResponse,
    Tags, Version,
};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::residency::{AcquireError, Card, KeepAlive, Lease, Model, tagged};
use crate::service::{Prompt, ServiceError};

/// What clients compare with the versions that brought the features they use.
const VERSION: &str = concat!("0.12.11+weirgate.", env!("CARGO_PKG_VERSION"));
/// What Ollama shows for models that stay for ever: about the longest time its language has.
const FOREVER: TimeDelta = TimeDelta::days(292 * 365);
/// Longer arrays are shown only when asked for.
const SHORT_ARRAY: usize = 5;

/// The model of this name, loaded.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn acquire(state: &AppState, name: &str, keep: Option<KeepAlive>) -> Result<Lease, Refusal> {
    state.models.acquire(name, keep).await.map_err(|error| refusal(error, name))
}

/// Whether there is a model of this name.
///
/// # Errors
/// When there is none.
pub(super) async fn find(state: &AppState, name: &str) -> Result<Arc<Card>, Refusal> {
    state.models.card(name).await.map_err(|error| refusal(error, name))
}

fn refusal(error: AcquireError, name: &str) -> Refusal {
    match error {
        AcquireError::NotFound => Refusal::ModelNotFound(name.to_owned()),
        AcquireError::Busy => ServiceError::Overloaded.into(),
        error => Refusal::Load(error.to_string()),
    }
}

/// What a prompt reads as.
pub(super) async fn rendered(model: &Model, name: &str, prompt: Prompt) -> Result<Rendered, Refusal> {
    let text = match prompt {
        Prompt::Chat(conversation) => model.service.tokenize_chat(conversation).await?.0,
        Prompt::Text(text) | Prompt::Infill { text, .. } => text,
        Prompt::Tokens(_) => String::new(),
    };
    Ok(Rendered {
        model: name.to_owned(),
        created_at: timestamp(Utc::now()),
        debug_info: RenderedTemplate { rendered_template: text },
    })
}

/// The models that can be served.
#[utoipa::path(
    get,
    path = "/api/tags",
    tag = super::TAG,
    operation_id = "ollama_tags",
    responses((status = 200, description = "The models, the latest first", body = Tags))
)]
pub(super) async fn tags(State(state): State<AppState>) -> Json<Tags> {
    Json(Tags { models: state.models.cards().await.iter().map(|card| listed(card)).collect() })
}

fn listed(card: &Card) -> Listed {
    let name = tagged(&card.name);
    Listed {
        model: name.clone(),
        name,
        modified_at: local(card.modified.unwrap_or(std::time::UNIX_EPOCH)),
        size: card.bytes,
        digest: card.digest.clone(),
        details: details(card),
    }
}

fn details(card: &Card) -> Details {
    Details {
        parent_model: String::new(),
        format: card.format.clone(),
        family: card.family.clone(),
        families: vec![card.family.clone()],
        parameter_size: card.parameter_size.clone(),
        quantization_level: card.quantization.clone(),
    }
}

/// The models that are loaded.
#[utoipa::path(
    get,
    path = "/api/ps",
    tag = super::TAG,
    operation_id = "ollama_ps",
    responses((status = 200, description = "The models, those that stay longest first", body = Processes))
)]
pub(super) async fn ps(State(state): State<AppState>) -> Json<Processes> {
    let now = Utc::now();
    let mut resident = state.models.resident();
    resident.sort_by_key(|(.., left)| std::cmp::Reverse(left.unwrap_or(Duration::MAX)));
    let running = |(card, context_length, left): (Arc<Card>, usize, Option<Duration>)| {
        let name = tagged(&card.name);
        let left = left.and_then(|left| TimeDelta::from_std(left).ok()).unwrap_or(FOREVER);
        Running {
            model: name.clone(),
            name,
            size: card.bytes,
            digest: card.digest.clone(),
            details: details(&card),
            expires_at: local(now + left),
            size_vram: 0,
            context_length,
        }
    };
    Json(Processes { models: resident.into_iter().map(running).collect() })
}

/// Everything about a model.
#[utoipa::path(
    post,
    path = "/api/show",
    tag = super::TAG,
    operation_id = "ollama_show",
    request_body = ShowRequest,
    responses((status = 200, description = "The model", body = ShowResponse), Refusal)
)]
pub(super) async fn show(Caller(state): Caller, body: AnyType<ShowRequest>) -> Response {
    let shown = match body.0 {
        Ok(body) => shown(&state, body).await,
        Err(error) => Err(error.into()),
    };
    shown.map(Json).map_or_else(Refusal::into_response, IntoResponse::into_response)
}

async fn shown(state: &AppState, body: ShowRequest) -> Result<ShowResponse, Refusal> {
    let name = names::asked(body.model, body.name)?;
    let card = find(state, &name).await?;
    let mut parameters = card.layers.parameters.clone();
    parameters.extend(body.options.unwrap_or_default());
    let template =
        body.template.or_else(|| card.layers.template.clone()).unwrap_or_else(|| card.template.clone());
    let system = body.system.or_else(|| card.layers.system.clone()).unwrap_or_default();
    let messages: Vec<Message> = card
        .layers
        .messages
        .iter()
        .filter_map(|message| serde_json::from_value(Value::Object(message.clone())).ok())
        .collect();
    let parameters = parameter_lines(&parameters);
    let license = card.layers.licenses.join("\n");
    Ok(ShowResponse {
        modelfile: modelfile(&card.name, &template, &system, &parameters),
        license,
        parameters,
        template,
        system,
        details: details(&card),
        messages,
        model_info: info(&card.info, body.verbose.unwrap_or(false)),
        capabilities: card.capabilities.clone(),
        modified_at: local(card.modified.unwrap_or(std::time::UNIX_EPOCH)),
    })
}

/// One line for each value, the names in a column of 30 characters.
fn parameter_lines(parameters: &Map<String, Value>) -> String {
    let lines = parameters.iter().flat_map(|(name, value)| {
        let values = match value {
            Value::Array(list) => list.as_slice(),
            value => std::slice::from_ref(value),
        };
        values.iter().map(move |value| format!("{name:<30} {value}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The model as a Modelfile; it names the model rather than a path of this machine.
fn modelfile(name: &str, template: &str, system: &str, parameters: &str) -> String {
    let quoted = |text: &str| {
        if text.contains(['\n', '"']) || text.trim() != text {
            format!("\"\"\"{text}\"\"\"")
        } else {
            text.to_owned()
        }
    };
    let mut text = format!("# Modelfile generated by \"weirgate show\"\nFROM {}\n", tagged(name));
    for (command, value) in [("TEMPLATE", template), ("SYSTEM", system)] {
        if !value.is_empty() {
            text.push_str(&format!("{command} {}\n", quoted(value)));
        }
    }
    for line in parameters.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        text.push_str(&format!("PARAMETER {name} {}\n", value.trim_start()));
    }
    text
}

fn info(info: &Map<String, Value>, verbose: bool) -> Map<String, Value> {
    let long = |value: &Value| value.as_array().is_some_and(|list| list.len() > SHORT_ARRAY);
    let shown = |value: &Value| if !verbose && long(value) { Value::Null } else { value.clone() };
    info.iter().map(|(key, value)| (key.clone(), shown(value))).collect()
}

/// The version of Ollama whose features this server has.
#[utoipa::path(
    get,
    path = "/api/version",
    tag = super::TAG,
    operation_id = "ollama_version",
    responses((status = 200, description = "The version", body = Version))
)]
pub(super) async fn version() -> Json<Version> {
    Json(Version { version: VERSION })
}

/// With the offset of this machine's time zone, as Ollama writes the times of models.
fn local(time: impl Into<DateTime<Local>>) -> String {
    time.into().to_rfc3339_opts(chrono::SecondsFormat::Nanos, false)
}

/// The prompt that a Go template makes of a conversation; it takes a while, so another thread makes it.
///
/// # Errors
/// A template that does not render.
pub(super) async fn render(template: String, conversation: Conversation) -> Result<String, Refusal> {
    let render = move || Template::parse(&template)?.prompt(&conversation);
    let rendered = tokio::task::spawn_blocking(render).await;
    let lost = || Refusal::bad("the template could not be rendered".to_owned());
    rendered.map_err(|_| lost())?.map_err(|error| Refusal::bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_a_column_and_one_line_for_each_value() {
        let parameters = json!({"stop": ["a", "<b>"], "temperature": 0.5});
        let lines = parameter_lines(parameters.as_object().unwrap());
        let column = |name: &str| format!("{name:<30} ");
        assert_eq!(
            lines,
            format!("{}\"a\"\n{}\"<b>\"\n{}0.5", column("stop"), column("stop"), column("temperature"))
        );
        let text = modelfile("m", "{{ .Prompt }}", "say\nit", &lines);
        assert!(text.ends_with(
            "FROM m:latest\nTEMPLATE {{ .Prompt }}\nSYSTEM \"\"\"say\nit\"\"\"\nPARAMETER stop \"a\"\n\
             PARAMETER stop \"<b>\"\nPARAMETER temperature 0.5\n"
        ));
    }

    #[test]
    fn long_arrays_are_shown_when_asked_for() {
        let all = json!({"short": [1, 2, 3, 4, 5], "long": [1, 2, 3, 4, 5, 6], "n": 1});
        let all = all.as_object().unwrap();
        assert_eq!(info(all, false)["long"], Value::Null);
        assert_eq!(info(all, false)["short"], all["short"]);
        assert_eq!(&info(all, true), all);
    }
}
