//! `POST /api/create`: a new model out of another one, out of blobs, or as a Modelfile says.

use std::path::Path;

use axum::response::Response;
use serde_json::{Map, Value};
use weirgate_store::{Base, CreateRequest as Wanted, Digest, Message, ModelName, Modelfile, read_modelfile};

use super::errors::Refusal;
use super::options::Options;
use super::types::{CreateRequest, ProgressLine};
use super::{names, work};
use crate::api::Administrator;
use crate::api::extract::AnyType;

/// Makes a model. A base that is not here is pulled.
#[utoipa::path(
    post,
    path = "/api/create",
    tag = super::TAG,
    operation_id = "ollama_create",
    request_body = CreateRequest,
    responses(
        (status = 200, description = "Lines of progress, the last one `success`", content_type = "application/x-ndjson", body = ProgressLine),
        Refusal
    )
)]
pub(super) async fn create(
    Administrator(state): Administrator,
    body: AnyType<CreateRequest>,
) -> Result<Response, Refusal> {
    let body = body.0?;
    let streams = body.stream.unwrap_or(true);
    let name = names::new(&state, &names::asked(body.model.clone(), body.name.clone())?)?;
    let folder = state.store.as_ref().and_then(|store| store.modelfiles());
    let wanted = wanted(name, body, folder)?;
    work::told(&state, streams, move |store, models, report| {
        store.create(&wanted, report)?;
        models.unload(&wanted.name.to_string());
        Ok(())
    })
    .await
}

/// The request in the store's terms, of either form.
fn wanted(name: ModelName, body: CreateRequest, folder: Option<&Path>) -> Result<Wanted, Refusal> {
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let quantize = text(body.quantize).or_else(|| text(body.quantization));
    let parsed = |text: String| {
        Modelfile::parse(&text).map_err(|error| Refusal::bad(format!("error reading modelfile: {error}")))
    };
    let modelfile = match text(body.path) {
        Some(path) => Some(read_modelfile(folder, &path)?),
        None => text(body.modelfile).map(parsed).transpose()?,
    };
    if let Some(modelfile) = modelfile {
        return Ok(Wanted { quantize, ..Wanted::from_modelfile(name, &modelfile, folder)? });
    }
    let base = match (text(body.from), body.files) {
        (Some(from), _) => Base::Model(from),
        (None, Some(files)) => Base::Files(blobs(files)?),
        (None, None) => return Err(Refusal::bad("neither 'from' or 'files' was specified".to_owned())),
    };
    let parameters = body.parameters.unwrap_or_default();
    Options::read([&parameters])?;
    Ok(Wanted {
        adapter: body.adapters.map(blobs).transpose()?.filter(|files| !files.is_empty()).map(Base::Files),
        template: text(body.template),
        system: text(body.system),
        parameters,
        messages: body.messages.unwrap_or_default().into_iter().map(message).collect::<Result<_, _>>()?,
        licenses: licenses(body.license)?,
        quantize,
        ..Wanted::new(name, base)
    })
}

/// Digests by file name.
fn blobs(files: Map<String, Value>) -> Result<Vec<(String, Digest)>, Refusal> {
    let entry = |(name, digest): (String, Value)| {
        let outside = name.starts_with(['/', '\\'])
            || name.contains('\0')
            || name.split(['/', '\\']).any(|part| part == "..");
        if outside {
            return Err(Refusal::bad("file path must be relative".to_owned()));
        }
        let digest = digest.as_str().and_then(|digest| digest.parse().ok());
        Ok((name, digest.ok_or_else(|| Refusal::bad("invalid digest format".to_owned()))?))
    };
    files.into_iter().map(entry).collect()
}

fn message(message: super::types::Message) -> Result<Message, Refusal> {
    let role = message.role.to_lowercase();
    if !["system", "user", "assistant"].contains(&role.as_str()) {
        return Err(Refusal::bad(
            "message role must be one of \"system\", \"user\", or \"assistant\"".to_owned(),
        ));
    }
    Ok(Message { role, content: message.content.unwrap_or_default() })
}

/// One text, or several.
fn licenses(license: Option<Value>) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::bad("license must be a text or a list of texts".to_owned());
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong()),
    };
    match license {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.into_iter().map(text).collect(),
        Some(value) => {
            Ok(vec![text(value)?]).map(|list| list.into_iter().filter(|text| !text.is_empty()).collect())
        }
    }
}
