//! Jan's layout: `<models>/<id>/model.json` with the model's files beside it.
//!
//! Only `source_url` is required in a `model.json`; everything else has a default. A folder with a GGUF file and no
//! `model.json`, and a loose GGUF file, are models too.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use weirgate_models::Gguf;

use crate::StoreError;
use crate::details::read_limited;
use crate::entry::{Entry, Kind, LoadSettings, Location, ModelSettings, Parameters, PromptPieces};
use crate::jan::local_address;
use crate::layout::gguf;
use crate::layout::scan::{Origin, Scan, children, confined, files_in, fingerprint, name_of};

const MAX_JSON_BYTES: u64 = 4 << 20;
const MAX_DEPTH: usize = 4;
pub(crate) const MODEL_JSON: &str = "model.json";
/// What the name of a file ends with that is still coming.
pub(crate) const DOWNLOAD: &str = ".download";
/// Where a `model.json` has settings and parameters, over its versions.
const SECTIONS: [&str; 4] = ["settings", "parameters", "engine_parameters", "model_parameters"];
/// What Jan takes for the form of a prompt where nothing says it.
const PROMPT_TEMPLATE: &str = "{system_message}\n### Instruction: {prompt}\n### Response:";

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
    if let Err(error) = settings_of(&json) {
        scan.skip(folder, &error.to_string());
        return None;
    }
    let mut entry = match model_file(root, folder, &json) {
        Some(file) => gguf::file_entry(scan, root, &file, &id, Kind::Jan)?,
        None if gguf::is_checkpoint(folder) => gguf::folder_entry(scan, root, folder, id, Kind::Jan),
        None => {
            let location = Location::Unsupported("its file has not been downloaded".to_owned());
            scan.plain(id, Kind::Jan, location, &files_in(root, folder), Default::default)
        }
    };
    // What the document says is part of the model: it is another one when that changes.
    let document = folder.join(MODEL_JSON);
    if document.is_file() && !entry.files.contains(&document) {
        entry.files.push(document);
        let files = entry.files.iter().map(|path| Some((path.clone(), fs::metadata(path).ok()?)));
        entry.digest = fingerprint(&files.collect::<Option<Vec<_>>>()?);
    }
    Some(Entry { origin, ..entry })
}

/// Files that weights are in, or that will be.
pub(crate) fn is_binary(path: &Path) -> bool {
    let name = name_of(path).to_ascii_lowercase();
    path.is_file()
        && [".gguf", ".ggml", ".bin", ".safetensors", DOWNLOAD].iter().any(|end| name.ends_with(end))
}

/// The files that the model in `folder` is made of, and where they come from; only those that have both.
///
/// # Errors
/// See [`model_json`].
pub(crate) fn sources(folder: &Path) -> Result<Vec<(String, String)>, StoreError> {
    let json = model_json(folder)?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let listed = json.get("sources").and_then(Value::as_array).into_iter().flatten();
    let mut sources: Vec<(String, String)> = listed
        .filter_map(|source| {
            let url = text(source, "url")?;
            Some((text(source, "filename").or_else(|| last_segment(&url))?, url))
        })
        .collect();
    if sources.is_empty() {
        let url = json.get("source_url").and_then(Value::as_str).map(str::to_owned);
        sources.extend(url.and_then(|url| Some((last_segment(&url)?, url))));
    }
    sources.retain(|(name, _)| is_plain(name) && name.to_ascii_lowercase().ends_with(".gguf"));
    Ok(sources)
}

fn last_segment(url: &str) -> Option<String> {
    url.split(['?', '#']).next()?.rsplit('/').next().map(str::to_owned)
}

/// A name that stays in the folder, and is no hidden file's.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\\', '\0'])
}

/// The file in the model's folder that an asset names: by its name, or by a path or a `file:` address that ends with it,
/// as of the machine that it was written on.
fn asset_name(asset: &str) -> Option<&str> {
    let path = asset.strip_prefix("file://").unwrap_or(asset);
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    // What leads elsewhere names nothing here.
    (is_plain(name) && !folder.split('/').any(|part| part == "..")).then_some(name)
}

/// The GGUF file that `json` names, or else the first in the folder.
fn model_file(root: &Path, folder: &Path, json: &Map<String, Value>) -> Option<PathBuf> {
    let sources = json.get("sources").and_then(Value::as_array).into_iter().flatten();
    let named = sources.filter_map(|source| source.get("filename")).filter_map(Value::as_str);
    let url = json.get("source_url").and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
    let assets = json.get("assets").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let named = named.chain(assets.filter_map(asset_name)).chain(url);
    let named = named.filter(|name| is_plain(name)).map(|name| folder.join(name));
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
    let file = children(folder).into_iter().find(|path| gguf::is_model_file(path));
    let mut json = if path.exists() {
        let corrupt = |problem: &str| StoreError::corrupt(MODEL_JSON, problem);
        let bytes = read_limited(&path, MAX_JSON_BYTES).ok_or_else(|| corrupt("cannot be read"))?;
        serde_json::from_slice(&bytes).map_err(|error| corrupt(&error.to_string()))?
    } else {
        generated(file.as_deref())
    };
    let id = name_of(folder);
    let address = local_address(folder, file.as_deref().unwrap_or(folder));
    let defaults = [
        ("object", json!("model")),
        ("type", json!("model")),
        ("version", json!("1")),
        ("id", json!(id)),
        ("name", json!(id)),
        ("owned_by", json!("you")),
        ("created", json!(created(folder, file.as_deref()))),
        ("description", json!("")),
        ("format", json!("ggufv3")),
        ("source_url", json!(address)),
        ("settings", json!({})),
        ("parameters", json!({})),
        ("metadata", json!({})),
        // The folder that the document is in.
        ("assets", json!(["."])),
    ];
    for (key, value) in defaults {
        if json.get(key).is_none_or(Value::is_null) {
            json.insert(key.to_owned(), value);
        }
    }
    if json.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
        json.insert("id".to_owned(), json!(id));
    }
    Ok(json)
}

/// When the model came, in seconds since 1970: whoever changes its document makes no new one. Where the file system does
/// not know when the folder was made, the age of the weights stands in.
fn created(folder: &Path, file: Option<&Path>) -> u64 {
    let born = fs::metadata(folder).and_then(|metadata| metadata.created());
    let time =
        born.or_else(|_| fs::metadata(file.unwrap_or(folder)).and_then(|metadata| metadata.modified()));
    let since = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// What Jan writes for a folder that has a GGUF file alone; but a template that the file brings is better than a guess.
fn generated(file: Option<&Path>) -> Map<String, Value> {
    let gguf = file.and_then(|file| Gguf::open(file).ok());
    let own = gguf
        .is_some_and(|gguf| gguf.metadata().text("tokenizer.chat_template").is_ok_and(|text| text.is_some()));
    let mut json = json!({
        "settings": { "ctx_len": 2048, "embedding": false },
        "parameters": {
            "temperature": 0.7, "top_p": 0.95, "stream": true, "max_tokens": 2048, "stop": ["<endofstring>"],
        },
        "metadata": { "author": "User", "tags": [] },
    });
    if !own {
        json["settings"]["prompt_template"] = json!(PROMPT_TEMPLATE);
    }
    json.as_object().cloned().unwrap_or_default()
}

/// What the model in `folder` brings beside its weights.
///
/// # Errors
/// See [`model_json`]; values that are none.
pub(crate) fn settings(folder: &Path) -> Result<ModelSettings, StoreError> {
    settings_of(&model_json(folder)?)
}

fn settings_of(json: &Map<String, Value>) -> Result<ModelSettings, StoreError> {
    let mut parameters = Parameters::new();
    for (jans, ours) in OPTIONS {
        if let Some(value) = setting(json, jans) {
            parameters.insert(ours.to_owned(), typed(value));
        }
    }
    let pieces = pieces(json);
    // Where turns are told apart by words, the words of the next turn end this one.
    let next = pieces.as_ref().map(|pieces| pieces.user.trim()).filter(|text| !text.is_empty());
    if let Some(next) = next {
        let stops = parameters.entry("stop").or_insert_with(|| json!([]));
        if let Some(stops) = stops.as_array_mut().filter(|stops| !stops.iter().any(|stop| stop == next)) {
            stops.push(json!(next));
        }
    }
    let load = LoadSettings {
        context: count(json, "ctx_len")?,
        gpu_layers: number(json, "ngl")?,
        parallel: count(json, "n_parallel")?,
        threads: count(json, "cpu_threads")?,
        continuous: flag(json, "cont_batching")?,
        embedding: flag(json, "embedding")?,
    };
    Ok(ModelSettings { parameters, prompt: pieces, load, ..ModelSettings::default() })
}

fn setting<'a>(json: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let sections = SECTIONS.iter().filter_map(|section| json.get(*section).and_then(Value::as_object));
    sections.filter_map(|section| section.get(name)).find(|value| !value.is_null())
}

/// The older documents write numbers and flags as strings.
fn typed(value: &Value) -> Value {
    let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    parsed.filter(|value| value.is_number() || value.is_boolean()).unwrap_or_else(|| value.clone())
}

fn number(json: &Map<String, Value>, name: &str) -> Result<Option<usize>, StoreError> {
    let Some(value) = setting(json, name).map(typed) else { return Ok(None) };
    let wrong = || StoreError::corrupt(MODEL_JSON, format!("`{name}` is {value}, which is no count"));
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).ok_or_else(wrong)?;
    Ok(usize::try_from(number).ok())
}

fn count(json: &Map<String, Value>, name: &str) -> Result<Option<usize>, StoreError> {
    match number(json, name)? {
        Some(0) => Err(StoreError::corrupt(MODEL_JSON, format!("`{name}` is 0"))),
        other => Ok(other),
    }
}

fn flag(json: &Map<String, Value>, name: &str) -> Result<Option<bool>, StoreError> {
    let Some(value) = setting(json, name).map(typed) else { return Ok(None) };
    let wrong =
        || StoreError::corrupt(MODEL_JSON, format!("`{name}` is {value}, which is neither true nor false"));
    value.as_bool().map(Some).ok_or_else(wrong)
}

/// What stands before the texts of a chat: each piece by itself, or cut out of a template.
fn pieces(json: &Map<String, Value>) -> Option<PromptPieces> {
    let text = |name: &str| setting(json, name).and_then(Value::as_str);
    let cut = text("prompt_template").and_then(cut);
    let given = ["system_prompt", "user_prompt", "ai_prompt"].map(text);
    let pre = text("pre_prompt").filter(|pre| !pre.is_empty());
    if cut.is_none() && pre.is_none() && given.iter().all(Option::is_none) {
        return None;
    }
    let default = PromptPieces {
        before: String::new(),
        system: "SYSTEM: ".to_owned(),
        user: "USER: ".to_owned(),
        assistant: "ASSISTANT: ".to_owned(),
    };
    let PromptPieces { before, system, user, assistant } = cut.unwrap_or(default);
    let or = |given: Option<&str>, otherwise: String| given.map_or(otherwise, str::to_owned);
    let [system_given, user_given, assistant_given] = given;
    Some(PromptPieces {
        before: or(pre, before),
        system: or(system_given, system),
        user: or(user_given, user),
        assistant: or(assistant_given, assistant),
    })
}

/// A template is what stands before, between and after its two fields, of which the first may be missing.
fn cut(template: &str) -> Option<PromptPieces> {
    let (head, assistant) = template.split_once("{prompt}")?;
    let (system, user) = head.split_once("{system_message}").unwrap_or(("", head));
    let [system, user, assistant] = [system, user, assistant].map(str::to_owned);
    Some(PromptPieces { before: String::new(), system, user, assistant })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<ModelSettings, String> {
        settings_of(json.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_numbers_and_flags_or_their_texts() {
        let expected = LoadSettings {
            context: Some(512),
            gpu_layers: Some(0),
            parallel: Some(4),
            threads: Some(2),
            continuous: Some(true),
            embedding: Some(false),
        };
        for settings in [
            json!({"ctx_len": 512, "ngl": 0, "n_parallel": 4, "cpu_threads": 2, "cont_batching": true, "embedding": false}),
            json!({"ctx_len": "512", "ngl": "0", "n_parallel": "4", "cpu_threads": "2", "cont_batching": "true", "embedding": "false"}),
        ] {
            assert_eq!(read(json!({"settings": settings})).unwrap().load, expected);
            assert_eq!(read(json!({"engine_parameters": settings})).unwrap().load, expected);
        }
        assert_eq!(read(json!({})).unwrap(), ModelSettings::default());
        for (name, value) in [
            ("ctx_len", json!("many")),
            ("ctx_len", json!(0)),
            ("ctx_len", json!(-1)),
            ("ctx_len", json!(1.5)),
            ("n_parallel", json!(1u64 << 40)),
            ("ngl", json!([])),
            ("embedding", json!("yes")),
            ("cont_batching", json!(1)),
        ] {
            let error = read(json!({"settings": {name: value}})).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    /// The examples of the reference (dialects.md §3.2, §3.4).
    #[test]
    fn prompts_are_put_together_of_pieces_or_cut_out_of_a_template() {
        let pieces = |before: &str, system: &str, user: &str, assistant: &str| {
            let [before, system, user, assistant] = [before, system, user, assistant].map(str::to_owned);
            Some(PromptPieces { before, system, user, assistant })
        };
        let settings = |settings: Value| read(json!({"settings": settings})).unwrap();
        assert_eq!(settings(json!({"ctx_len": 4})).prompt, None);
        assert_eq!(settings(json!({"pre_prompt": ""})).prompt, None);
        assert_eq!(
            settings(json!({"prompt_template": PROMPT_TEMPLATE})).prompt,
            pieces("", "", "\n### Instruction: ", "\n### Response:")
        );
        assert_eq!(
            settings(json!({"prompt_template": "<s>[INST] {prompt} [/INST]"})).prompt,
            pieces("", "", "<s>[INST] ", " [/INST]")
        );
        let given = settings(json!({"pre_prompt": "A chat.", "user_prompt": "Q: "}));
        assert_eq!(given.prompt, pieces("A chat.", "SYSTEM: ", "Q: ", "ASSISTANT: "));
        assert_eq!(given.parameters["stop"], json!(["Q:"]));
        let more = read(json!({"settings": {"ai_prompt": "A: "}, "parameters": {"stop": ["x"]}})).unwrap();
        assert_eq!(more.parameters["stop"], json!(["x", "USER:"]));
    }

    #[test]
    fn assets_name_files_of_the_folder_alone() {
        for (asset, name) in [
            ("b.gguf", Some("b.gguf")),
            ("./b.gguf", Some("b.gguf")),
            ("file://.../b.gguf", Some("b.gguf")),
            ("file:///home/me/jan/models/tiny/b.gguf", Some("b.gguf")),
            ("../tiny/b.gguf", None),
            ("file:///models/../b.gguf", None),
            ("folder/", None),
            (".", None),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(asset_name(asset), name, "{asset:?}");
        }
    }
}
