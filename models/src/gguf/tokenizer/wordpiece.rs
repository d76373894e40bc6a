//! WordPiece: words are cut at spaces and punctuation, then into the longest tokens from left to right. GGUF marks the
//! tokens that begin a word with `▁`; `tokenizer.json` those that go on with `##`.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::vocabulary::{Kind, Vocabulary};
use super::{Parts, template};
use crate::ModelError;

/// Longer words are one unknown token, as in BERT's own tokenizer.
const MAX_WORD: usize = 100;

pub(super) fn parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, ModelError> {
    let unknown = vocabulary.special("unk_token")?.map_or("[UNK]", |id| vocabulary.text(id));
    let (before, after) = (vocabulary.special("cls_token")?, vocabulary.special("sep_token")?);
    Ok(Parts {
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": true,
            "lowercase": lowercase(vocabulary),
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor: template(vocabulary, before, after),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": MAX_WORD,
            "vocab": vocab(vocabulary),
        }),
        strip_after_special: false,
    })
}

fn vocab(vocabulary: &Vocabulary<'_>) -> Map<String, Value> {
    let special: HashSet<u32> = ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
        .into_iter()
        .filter_map(|name| vocabulary.special(name).ok().flatten())
        .collect();
    vocabulary
        .tokens()
        .map(|(id, text)| {
            let bracketed = text.starts_with('[') && text.ends_with(']');
            let text = match text.strip_prefix('▁') {
                Some(word) => word.to_owned(),
                None if bracketed || special.contains(&id) || vocabulary.kind(id) == Kind::Control => {
                    text.to_owned()
                }
                None => format!("##{text}"),
            };
            (text, id.into())
        })
        .collect()
}

/// A vocabulary that was made of lower-case text knows no ASCII capitals.
fn lowercase(vocabulary: &Vocabulary<'_>) -> bool {
    !vocabulary.tokens().any(|(_, text)| {
        let word = text.strip_prefix('▁').unwrap_or(text);
        word.len() == 1 && word.bytes().all(|byte| byte.is_ascii_uppercase())
    })
}
