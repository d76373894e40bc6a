use tokenizers::Tokenizer;
use weirgate_models::{GenerationConfig, ModelFiles};

use crate::{TextError, TokenizerSettings};

/// Tokenizers as the models' first programs had them.
const SLOW: [&str; 5] =
    ["sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json"];

/// The fast tokenizer of `files`, without the padding and truncation that may be stored with it: those are for training
/// in Python, and the limits here are the caller's.
///
/// # Errors
/// A `tokenizer.json` that is missing or malformed.
pub fn read_tokenizer(files: &ModelFiles) -> Result<Tokenizer, TextError> {
    const NAME: &str = "tokenizer.json";
    let error = |message: String| TextError::File { file: format!("{} of {}", NAME, files.label()), message };
    let bytes = files.read(NAME)?.ok_or_else(|| error(missing(files)))?;
    let mut tokenizer =
        Tokenizer::from_bytes(&*bytes).map_err(|reason| error(format!("is malformed: {reason}")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|reason| error(reason.to_string()))?;
    Ok(tokenizer)
}

/// What to do where there is no fast tokenizer.
fn missing(files: &ModelFiles) -> String {
    let slow = SLOW.iter().find(|name| matches!(files.read(name), Ok(Some(_))));
    let found = slow.map(|name| format!(", and {name} alone is not read")).unwrap_or_default();
    format!(
        "is missing{found}; transformers writes one: AutoTokenizer.from_pretrained(\"<model>\").save_pretrained(\"<folder>\")"
    )
}

/// The tokens that end a text: the generation configuration's, else the tokenizer's own.
///
/// # Errors
/// Those of [`GenerationConfig::read`].
pub fn eos_tokens(
    files: &ModelFiles,
    settings: &TokenizerSettings,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, TextError> {
    let mut tokens = GenerationConfig::read(files)?.eos_token_ids;
    if tokens.is_empty() {
        tokens.extend(settings.token("eos_token").and_then(|token| tokenizer.token_to_id(&token)));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_fast_tokenizer_it_is_said_where_one_comes_from() {
        let error = |files: &'static [(&'static str, &'static [u8])]| {
            read_tokenizer(&ModelFiles::embedded(files)).unwrap_err().to_string()
        };
        let slow = error(&[("config.json", b"{}"), ("sentencepiece.bpe.model", b"\n")]);
        assert!(slow.starts_with("tokenizer.json of "), "{slow}");
        assert!(slow.contains("is missing, and sentencepiece.bpe.model alone is not read; "), "{slow}");
        assert!(slow.contains("AutoTokenizer.from_pretrained(\"<model>\").save_pretrained"), "{slow}");
        assert!(error(&[]).contains("is missing; transformers writes one"));
        assert!(error(&[("tokenizer.json", b"{}")]).contains("is malformed"));
    }
}
