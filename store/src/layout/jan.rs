//! Jan's layout: `<models>/<id>/model.json` with the model's files beside it.
//!
//! Only `source_url` is required in a `model.json`; everything else has a default. A folder with a GGUF file and no
//! `model.json`, and a loose GGUF file, are models too.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::StoreError;
use crate::details::read_limited;
use crate::entry::{Entry, Kind, Location, ModelSettings, Parameters};
use crate::layout::gguf;
use crate::layout::scan::{Origin, Scan, children, confined, files_in, name_of};

const MAX_JSON_BYTES: u64 = 4 << 20;
const MAX_DEPTH: usize = 4;
const MODEL_JSON: &str = "model.json";

/// Jan's names of options, and Ollama's.
const OPTIONS: [(&str, &str); 8] = [
    ("ctx_len", "num_ctx"),
    ("max_tokens", "num_predict"),
    ("token_limit", "num_predict"),
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("stop", "stop"),
    ("ngl", "num_gpu"),
];

/// All models below `root`.
pub(crate) fn scan(scan: &Scan, root: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    walk(scan, root, root, 0, &mut found);
    found
}

fn walk(scan: &Scan, root: &Path, folder: &Path, depth: usize, found: &mut Vec<Entry>) {
    for path in children(folder) {
        let name = name_of(&path);
        if name.starts_with('.') || confined(root, &path).is_none() {
            continue;
        }
        if gguf::is_model_file(&path) && depth == 0 {
            let id: String = gguf::stem(name).split_whitespace().collect();
            found.extend(gguf::file_entry(scan, root, &path, &id, Kind::Jan));
        } else if path.is_dir() {
            if path.join(MODEL_JSON).is_file() || model_file(root, &path, &Map::new()).is_some() {
                found.extend(folder_model(scan, root, &path));
            } else if depth < MAX_DEPTH {
                walk(scan, root, &path, depth + 1, found);
            }
        }
    }
}

/// The model in `folder`; `None`, and a log line, where its `model.json` is broken or its file is missing.
fn folder_model(scan: &Scan, root: &Path, folder: &Path) -> Option<Entry> {
    let json = match model_json(folder) {
        Ok(json) => json,
        Err(error) => {
            scan.skip(folder, &error.to_string());
            return None;
        }
    };
    let id = json.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let origin = Origin::Jan { folder: folder.to_owned() };
    let entry = match model_file(root, folder, &json) {
        Some(file) => gguf::file_entry(scan, root, &file, &id, Kind::Jan)?,
        None if gguf::is_checkpoint(folder) => gguf::folder_entry(scan, root, folder, id, Kind::Jan),
        None => {
            let location = Location::Unsupported("its file has not been downloaded".to_owned());
            scan.plain(id, Kind::Jan, location, &files_in(root, folder), Default::default)
        }
    };
    Some(Entry { origin, ..entry })
}

/// The GGUF file that `json` names, or else the first in the folder.
fn model_file(root: &Path, folder: &Path, json: &Map<String, Value>) -> Option<PathBuf> {
    let sources = json.get("sources").and_then(Value::as_array).into_iter().flatten();
    let named = sources.filter_map(|source| source.get("filename")).filter_map(Value::as_str);
    let url = json.get("source_url").and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
    let plain = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains(['/', '\\', '\0']);
    let named = named.chain(url).filter(plain).map(|name| folder.join(name));
    let any = children(folder);
    let usable = |path: &PathBuf| gguf::is_model_file(path) && confined(root, path).is_some();
    named.chain(any).find(usable)
}

/// The `model.json` of `folder` with defaults for what it does not say; made up where there is none.
///
/// # Errors
/// A file that is no JSON object, or too large.
pub(crate) fn model_json(folder: &Path) -> Result<Map<String, Value>, StoreError> {
    let path = folder.join(MODEL_JSON);
    let mut json = if path.exists() {
        let corrupt = |problem: &str| StoreError::corrupt(MODEL_JSON, problem);
        let bytes = read_limited(&path, MAX_JSON_BYTES).ok_or_else(|| corrupt("cannot be read"))?;
        serde_json::from_slice(&bytes).map_err(|error| corrupt(&error.to_string()))?
    } else {
        generated()
    };
    let id = name_of(folder);
    let created =
        fs::metadata(&path).or_else(|_| fs::metadata(folder)).and_then(|metadata| metadata.modified());
    let created = created.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let defaults = [
        ("object", json!("model")),
        ("type", json!("model")),
        ("version", json!(1)),
        ("id", json!(id)),
        ("name", json!(id)),
        ("owned_by", json!("you")),
        ("created", json!(created.map_or(0, |time| time.as_secs()))),
        ("format", json!("ggufv3")),
        ("settings", json!({})),
        ("parameters", json!({})),
        ("metadata", json!({})),
    ];
    for (key, value) in defaults {
        if json.get(key).is_none_or(Value::is_null) {
            json.insert(key.to_owned(), value);
        }
    }
    if !json.get("id").is_some_and(Value::is_string) {
        json.insert("id".to_owned(), json!(id));
    }
    Ok(json)
}

/// What Jan writes for a folder that has a GGUF file alone.
fn generated() -> Map<String, Value> {
    let json = json!({
        "settings": { "ctx_len": 2048, "embedding": false },
        "parameters": {
            "temperature": 0.7, "top_p": 0.95, "stream": true, "max_tokens": 2048, "stop": ["<endofstring>"],
        },
        "metadata": { "author": "User", "tags": [] },
    });
    json.as_object().cloned().unwrap_or_default()
}

/// What the model in `folder` brings beside its weights.
///
/// # Errors
/// See [`model_json`].
pub(crate) fn settings(folder: &Path) -> Result<ModelSettings, StoreError> {
    let json = model_json(folder)?;
    let sections = ["settings", "parameters", "engine_parameters", "model_parameters"];
    let sections: Vec<&Map<String, Value>> =
        sections.iter().filter_map(|name| json.get(*name).and_then(Value::as_object)).collect();
    let mut parameters = Parameters::new();
    for (jans, ours) in OPTIONS {
        let value = sections.iter().find_map(|section| section.get(jans)).filter(|value| !value.is_null());
        if let Some(value) = value {
            parameters.insert(ours.to_owned(), typed(value));
        }
    }
    let template = sections.iter().find_map(|section| section.get("prompt_template")).and_then(Value::as_str);
    Ok(ModelSettings { template: template.map(go_template), parameters, ..ModelSettings::default() })
}

/// The older documents write numbers as strings.
fn typed(value: &Value) -> Value {
    let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    parsed.filter(Value::is_number).unwrap_or_else(|| value.clone())
}

/// Jan's `{system_message}` and `{prompt}` as a Go template.
fn go_template(text: &str) -> String {
    text.replace("{{", "{{\"{{\"}}")
        .replace("{system_message}", "{{ .System }}")
        .replace("{prompt}", "{{ .Prompt }}")
}
