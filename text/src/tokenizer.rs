use tokenizers::Tokenizer;
use weirgate_models::{GenerationConfig, ModelFiles};

use crate::{TextError, TokenizerSettings};

/// The fast tokenizer of `files`, without the padding and truncation that may be stored with it: those are for training
/// in Python, and the limits here are the caller's.
///
/// # Errors
/// A `tokenizer.json` that is missing or malformed.
pub fn read_tokenizer(files: &ModelFiles) -> Result<Tokenizer, TextError> {
    const NAME: &str = "tokenizer.json";
    let error = |message: String| TextError::File { file: format!("{} of {}", NAME, files.label()), message };
    let bytes = files
        .read(NAME)?
        .ok_or_else(|| error("is missing; only fast tokenizers are supported".to_owned()))?;
    let mut tokenizer =
        Tokenizer::from_bytes(&*bytes).map_err(|reason| error(format!("is malformed: {reason}")))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|reason| error(reason.to_string()))?;
    Ok(tokenizer)
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
