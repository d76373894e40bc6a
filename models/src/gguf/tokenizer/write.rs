//! `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` → the keys that GGUF keeps a tokenizer under.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::write::{GgufValue, GgufWriter};
use super::{SPECIAL, bpe};
use crate::files::file_error;
use crate::{GenerationConfig, ModelError, ModelFiles};

const TOKENIZER: &str = "tokenizer.json";
/// Largest file parsed.
const MAX_JSON: usize = 256 << 20;

/// Token types of GGUF.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Adds the tokenizer and the chat template of `files` to `writer`.
///
/// # Errors
/// A tokenizer that is missing or that GGUF has no words for: only byte-level BPE is written so far.
pub fn add_tokenizer(writer: &mut GgufWriter<'_>, files: &ModelFiles) -> Result<(), ModelError> {
    let tokenizer = read(files, TOKENIZER)?
        .ok_or_else(|| file_error(files.label(), format!("has no {TOKENIZER} to put into the file")))?;
    let settings = read(files, "tokenizer_config.json")?.unwrap_or(Value::Null);
    let unable = |what: &str| file_error(files.label_of(TOKENIZER), what);
    let model = &tokenizer["model"];
    if model["type"] != "BPE" || model["byte_fallback"] == true {
        return Err(unable("only byte-level BPE tokenizers can be written"));
    }
    let pre = bpe::name_of(&tokenizer)
        .ok_or_else(|| unable("its pre-tokenizer or normalizer is none that GGUF has a name for"))?;
    let tokens = Tokens::read(&tokenizer).ok_or_else(|| unable("its vocabulary cannot be read"))?;
    let merges = merges(&model["merges"]).ok_or_else(|| unable("its merges cannot be read"))?;
    let text = |text: &str| GgufValue::String(text.into());
    writer.set("tokenizer.ggml.model", text("gpt2"));
    writer.set("tokenizer.ggml.pre", text(pre));
    writer.set("tokenizer.ggml.tokens", GgufValue::Strings(tokens.texts.clone()));
    writer.set("tokenizer.ggml.token_type", GgufValue::I32s(tokens.kinds.clone()));
    writer.set("tokenizer.ggml.merges", GgufValue::Strings(merges));
    add_special(writer, files, &tokens, &settings)?;
    let (before, after) = surroundings(&tokenizer["post_processor"]);
    writer.set("tokenizer.ggml.add_bos_token", GgufValue::Bool(before));
    writer.set("tokenizer.ggml.add_eos_token", GgufValue::Bool(after));
    add_templates(writer, files, &settings)
}

fn read(files: &ModelFiles, name: &str) -> Result<Option<Value>, ModelError> {
    let Some(bytes) = files.read(name)? else {
        return Ok(None);
    };
    if bytes.len() > MAX_JSON {
        let message = format!("is {} bytes long, at most {MAX_JSON} are accepted", bytes.len());
        return Err(file_error(files.label_of(name), message));
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| file_error(files.label_of(name), format!("is not valid JSON: {error}")))
}

/// Every token by id; ids that no token has are filled up.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn read(tokenizer: &Value) -> Option<Self> {
        let mut tokens = BTreeMap::new();
        for (text, id) in tokenizer["model"]["vocab"].as_object()? {
            tokens.insert(id.as_u64()?, (text.clone(), NORMAL));
        }
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            tokens.insert(added["id"].as_u64()?, (added["content"].as_str()?.to_owned(), kind));
        }
        let count = usize::try_from(*tokens.last_key_value()?.0).ok()?.checked_add(1)?;
        // A vocabulary is nearly without gaps; one that is not would fill the memory.
        if count > 2 * tokens.len() + 1024 {
            return None;
        }
        let (mut texts, mut kinds) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for id in 0..count {
            let (text, kind) =
                tokens.remove(&(id as u64)).unwrap_or_else(|| (format!("[UNUSED{id}]"), UNUSED));
            texts.push(text);
            kinds.push(kind);
        }
        Some(Self { texts, kinds })
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|known| known == text).map(|id| id as u32)
    }
}

/// Strings of two parts, or lists of two.
fn merges(merges: &Value) -> Option<Vec<String>> {
    let pair = |merge: &Value| match merge {
        Value::String(pair) => Some(pair.clone()),
        _ => Some(format!("{} {}", merge.get(0)?.as_str()?, merge.get(1)?.as_str()?)),
    };
    merges.as_array()?.iter().map(pair).collect()
}

/// The special tokens, and up to three that end a text.
fn add_special(
    writer: &mut GgufWriter<'_>,
    files: &ModelFiles,
    tokens: &Tokens,
    settings: &Value,
) -> Result<(), ModelError> {
    let named = |name: &str| {
        let token = &settings[name];
        tokens.id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    for (name, key, _) in SPECIAL.into_iter().filter(|(name, _, _)| *name != "eos_token") {
        if let Some(id) = named(name) {
            writer.set(key, GgufValue::U32(id));
        }
    }
    let mut ends: Vec<u32> = named("eos_token").into_iter().collect();
    for id in GenerationConfig::read(files)?.eos_token_ids {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    let keys = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
    for (key, id) in keys.into_iter().zip(ends) {
        writer.set(key, GgufValue::U32(id));
    }
    Ok(())
}

/// Whether a special token is put before, and after, a text.
fn surroundings(post_processor: &Value) -> (bool, bool) {
    let steps = post_processor["processors"].as_array();
    let mut steps = steps.map_or(std::slice::from_ref(post_processor), Vec::as_slice).iter();
    let single = steps.find_map(|step| step["single"].as_array());
    let special = |piece: Option<&Value>| piece.is_some_and(|piece| piece.get("SpecialToken").is_some());
    single.map_or((false, false), |pieces| (special(pieces.first()), special(pieces.last())))
}

fn add_templates(
    writer: &mut GgufWriter<'_>,
    files: &ModelFiles,
    settings: &Value,
) -> Result<(), ModelError> {
    const KEY: &str = "tokenizer.chat_template";
    let own_file = files.read("chat_template.jinja")?;
    let own_file = own_file.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if let Some(template) = own_file.or_else(|| settings["chat_template"].as_str().map(str::to_owned)) {
        writer.set(KEY, GgufValue::String(template));
    }
    for named in settings["chat_template"].as_array().into_iter().flatten() {
        if let (Some(name), Some(template)) = (named["name"].as_str(), named["template"].as_str()) {
            let key = if name == "default" { KEY.to_owned() } else { format!("{KEY}.{name}") };
            writer.set(key, GgufValue::String(template.into()));
        }
    }
    Ok(())
}
