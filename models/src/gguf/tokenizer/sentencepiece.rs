//! SentencePiece's BPE: spaces become `▁`, and of all neighbours whose union is a token those with the best score are
//! joined first. In `tokenizer.json` the order of joining is a list of merges.

use serde_json::{Value, json};

use super::super::metadata::Value as Stored;
use super::vocabulary::{Kind, TOKENS, Vocabulary};
use super::{Parts, template};
use crate::ModelError;

const SCORES: &str = "tokenizer.ggml.scores";
/// Longest token in bytes; the work to find the ways to join one grows with the square of it.
const MAX_TOKEN: usize = 1024;

pub(super) fn parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, ModelError> {
    let metadata = vocabulary.metadata;
    let scores = metadata
        .list(SCORES, "numbers", |value| match value {
            Stored::Float(score) if !score.is_nan() => Some(score),
            _ => None,
        })?
        .ok_or_else(|| metadata.wrong(SCORES, "is missing"))?;
    if scores.len() != vocabulary.len() {
        let message = format!("has {} entries, there are {} tokens", scores.len(), vocabulary.len());
        return Err(metadata.wrong(SCORES, &message));
    }
    if let Some((id, text)) = vocabulary.tokens().find(|(_, text)| text.len() > MAX_TOKEN) {
        let message = format!("token {id} is {} bytes long, at most {MAX_TOKEN} are accepted", text.len());
        return Err(metadata.wrong(TOKENS, &message));
    }
    let prefix = vocabulary.flag("add_space_prefix", true)?;
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocabulary.special("unk_token")?.map(|id| vocabulary.text(id));
    let (before, after) = vocabulary.surroundings(true, false)?;
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        post_processor: template(vocabulary, before, after),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.map(),
            "merges": merges(vocabulary, &scores),
        }),
        strip_after_special: metadata.text("general.architecture")? == Some("phi3"),
    })
}

/// Every way to make a token of two, the best score first. Control tokens are never made of text.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let joinable = |id: u32| matches!(vocabulary.kind(id), Kind::Normal | Kind::UserDefined | Kind::Unused);
    let mut merges = Vec::new();
    for (id, text) in vocabulary.tokens().filter(|(id, _)| joinable(*id)) {
        let score = scores.get(id as usize).copied().unwrap_or(f64::NEG_INFINITY);
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if vocabulary.id(left).is_some_and(joinable) && vocabulary.id(right).is_some_and(joinable) {
                merges.push((score, left, right));
            }
        }
    }
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| (b.1.len(), b.2.len()).cmp(&(a.1.len(), a.2.len())))
    });
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}
