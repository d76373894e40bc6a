//! The tokenizer in a GGUF file → the text of `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`.

mod bpe;
mod sentencepiece;
mod vocabulary;
mod wordpiece;
mod write;

use serde_json::{Map, Value, json};
use vocabulary::{Kind, Vocabulary};
pub use write::add_tokenizer;

use super::metadata::GgufMetadata;
use crate::ModelError;

const MODEL: &str = "tokenizer.ggml.model";

/// The special tokens: the name that `tokenizer_config.json` has for them, the key, and a second spelling of it.
const SPECIAL: [(&str, &str, Option<&str>); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id", None),
    ("eos_token", "tokenizer.ggml.eos_token_id", None),
    ("unk_token", "tokenizer.ggml.unknown_token_id", None),
    ("sep_token", "tokenizer.ggml.seperator_token_id", Some("tokenizer.ggml.separator_token_id")),
    ("pad_token", "tokenizer.ggml.padding_token_id", None),
    ("cls_token", "tokenizer.ggml.cls_token_id", None),
    ("mask_token", "tokenizer.ggml.mask_token_id", None),
];

/// Control tokens that end a turn, whatever the file says about them.
const ENDS_OF_TURN: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// `tokenizer.json`.
pub(super) fn tokenizer(metadata: &GgufMetadata) -> Result<Option<Value>, ModelError> {
    let Some(model) = metadata.text(MODEL)? else {
        return Ok(None);
    };
    let vocabulary = Vocabulary::read(metadata)?;
    let parts = match model {
        "llama" => sentencepiece::parts(&vocabulary)?,
        "gpt2" => bpe::parts(&vocabulary)?,
        "bert" => wordpiece::parts(&vocabulary)?,
        other => {
            let message = format!(
                "'{}' is not supported; llama (SentencePiece), gpt2 (byte-level BPE) and bert (WordPiece) are",
                other.chars().take(40).collect::<String>()
            );
            return Err(metadata.wrong(MODEL, &message));
        }
    };
    Ok(Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(parts.strip_after_special),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": parts.post_processor,
        "decoder": parts.decoder,
        "model": parts.model,
    })))
}

/// What the kinds of tokenizer differ in.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
    /// Whether special tokens swallow the white space behind them.
    strip_after_special: bool,
}

/// Puts `before` and `after` around a text; `null` where both are empty.
fn template(vocabulary: &Vocabulary<'_>, before: Option<u32>, after: Option<u32>) -> Value {
    let token = |id: &u32| json!({"SpecialToken": {"id": vocabulary.text(*id), "type_id": 0}});
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let special: Map<String, Value> = before
        .iter()
        .chain(&after)
        .map(|id| {
            let text = vocabulary.text(*id);
            (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}))
        })
        .collect();
    if special.is_empty() {
        return Value::Null;
    }
    let wrap = |name: &str| {
        before.iter().map(token).chain([sequence(name)]).chain(after.iter().map(token)).collect::<Vec<_>>()
    };
    let (single, second) = (wrap("A"), wrap("B"));
    let pair: Vec<Value> = single.iter().cloned().chain(second).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

/// `tokenizer_config.json`.
pub(super) fn tokenizer_config(metadata: &GgufMetadata) -> Result<Option<Value>, ModelError> {
    if !metadata.contains(MODEL) {
        return Ok(None);
    }
    let vocabulary = Vocabulary::read(metadata)?;
    let mut map = Map::new();
    for (name, _, _) in SPECIAL {
        if let Some(id) = vocabulary.special(name)? {
            map.insert(name.into(), vocabulary.text(id).into());
        }
    }
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(flag) = metadata.flag(&format!("tokenizer.ggml.{name}"))? {
            map.insert(name.into(), flag.into());
        }
    }
    if let Some(templates) = chat_templates(metadata)? {
        map.insert("chat_template".into(), templates);
    }
    Ok(Some(Value::Object(map)))
}

/// One template, or a list with names.
fn chat_templates(metadata: &GgufMetadata) -> Result<Option<Value>, ModelError> {
    const KEY: &str = "tokenizer.chat_template";
    let default = metadata.text(KEY)?;
    let mut named: Vec<(&str, &str)> = Vec::new();
    for key in metadata.keys() {
        if let Some(name) = key.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('.'))
            && let Some(template) = metadata.text(key)?
        {
            named.push((name, template));
        }
    }
    if named.is_empty() {
        return Ok(default.map(Value::from));
    }
    named.sort_unstable();
    let all = default.map(|template| ("default", template)).into_iter().chain(named);
    Ok(Some(all.map(|(name, template)| json!({"name": name, "template": template})).collect()))
}

/// `generation_config.json`.
pub(super) fn generation_config(metadata: &GgufMetadata) -> Result<Option<Value>, ModelError> {
    if !metadata.contains(MODEL) {
        return Ok(None);
    }
    let vocabulary = Vocabulary::read(metadata)?;
    let mut ends: Vec<u32> = vocabulary.special("eos_token")?.into_iter().collect();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ends.extend(vocabulary.token_id(key)?);
    }
    for (id, text) in vocabulary.tokens() {
        if vocabulary.kind(id) == Kind::Control && ENDS_OF_TURN.contains(&text) {
            ends.push(id);
        }
    }
    let mut seen = Vec::new();
    ends.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    let mut map = Map::new();
    map.insert("eos_token_id".into(), ends.into());
    for (name, special) in [("bos_token_id", "bos_token"), ("pad_token_id", "pad_token")] {
        if let Some(id) = vocabulary.special(special)? {
            map.insert(name.into(), id.into());
        }
    }
    Ok(Some(Value::Object(map)))
}
