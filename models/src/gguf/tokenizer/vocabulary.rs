use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::metadata::{GgufMetadata, Value as Stored};
use super::{MODEL, SPECIAL};
use crate::ModelError;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
/// As many as a model's vocabulary may have.
const MAX_TOKENS: usize = 1 << 24;

/// Special tokens of files that do not name them: the kind of tokenizer, the token, its id.
const USUAL: [(&str, &str, u32); 8] = [
    ("llama", "bos_token", 1),
    ("llama", "eos_token", 2),
    ("llama", "unk_token", 0),
    ("bert", "unk_token", 100),
    ("bert", "cls_token", 101),
    ("bert", "sep_token", 102),
    ("bert", "pad_token", 0),
    ("bert", "mask_token", 103),
];

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a file. Of tokens with the same text the last one counts.
pub(super) struct Vocabulary<'a> {
    pub metadata: &'a GgufMetadata,
    texts: Vec<&'a str>,
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    pub fn read(metadata: &'a GgufMetadata) -> Result<Self, ModelError> {
        if let Some(Stored::Array(tokens)) = metadata.get(TOKENS)?
            && tokens.count_left() > MAX_TOKENS
        {
            let message = format!("has {} tokens, at most {MAX_TOKENS} are accepted", tokens.count_left());
            return Err(metadata.wrong(TOKENS, &message));
        }
        let texts = metadata
            .list(TOKENS, "strings in UTF-8", |value| match value {
                Stored::String(text) => Some(text),
                _ => None,
            })?
            .ok_or_else(|| metadata.wrong(TOKENS, "is missing"))?;
        let kinds = metadata.list(TYPES, "token types", |value| {
            Some(match value.as_i64()? {
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                _ => Kind::Normal,
            })
        })?;
        let kinds = kinds.unwrap_or_else(|| vec![Kind::Normal; texts.len()]);
        if kinds.len() != texts.len() {
            let message = format!("has {} entries, there are {} tokens", kinds.len(), texts.len());
            return Err(metadata.wrong(TYPES, &message));
        }
        let ids = texts.iter().enumerate().map(|(id, text)| (*text, id as u32)).collect();
        Ok(Self { metadata, texts, kinds, ids })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Every token that counts, by id.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, &'a str)> {
        let all = self.texts.iter().enumerate().map(|(id, text)| (id as u32, *text));
        all.filter(|(id, text)| self.ids.get(text) == Some(id))
    }

    /// Empty for an id that does not exist.
    pub fn text(&self, id: u32) -> &'a str {
        self.texts.get(id as usize).copied().unwrap_or_default()
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Text → id, of all tokens.
    pub fn map(&self) -> Map<String, Value> {
        self.tokens().map(|(id, text)| (text.to_owned(), Value::from(id))).collect()
    }

    /// The token id under `key`.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let Some(id) = self.metadata.get(key)? else {
            return Ok(None);
        };
        match id.as_i64() {
            // Files say "none" by a number that is -1 in 32 bits.
            Some(-1 | 0xFFFF_FFFF) => Ok(None),
            Some(id) if id >= 0 && (id as u64) < self.texts.len() as u64 => Ok(Some(id as u32)),
            _ => {
                let message = format!("is not a token id; there are {} tokens", self.texts.len());
                Err(self.metadata.wrong(key, &message))
            }
        }
    }

    /// The special token that `tokenizer_config.json` calls `name`; where the file is silent, the one that the kind
    /// of tokenizer has always had.
    pub fn special(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let Some((_, key, other)) = SPECIAL.into_iter().find(|(known, _, _)| *known == name) else {
            return Ok(None);
        };
        if let Some(id) = self.token_id(key)? {
            return Ok(Some(id));
        }
        if let Some(id) = other.map(|key| self.token_id(key)).transpose()?.flatten() {
            return Ok(Some(id));
        }
        let model = self.metadata.text(MODEL)?.unwrap_or_default();
        let usual = USUAL.into_iter().find(|(kind, special, _)| (*kind, *special) == (model, name));
        Ok(usual.map(|(_, _, id)| id).filter(|id| (*id as usize) < self.texts.len()))
    }

    /// A flag of the tokenizer, `default` where the file is silent.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.metadata.flag(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
    }

    /// The ids put before and after a text.
    pub fn surroundings(&self, bos: bool, eos: bool) -> Result<(Option<u32>, Option<u32>), ModelError> {
        let before = if self.flag("add_bos_token", bos)? { self.special("bos_token")? } else { None };
        let after = if self.flag("add_eos_token", eos)? { self.special("eos_token")? } else { None };
        Ok((before, after))
    }

    /// The tokens that are found in a text before anything else: those with a meaning of their own, and the user's.
    pub fn added_tokens(&self, strip_after_special: bool) -> Vec<Value> {
        self.tokens()
            .filter(|(_, text)| !text.is_empty())
            .filter_map(|(id, text)| {
                let special = match self.kind(id) {
                    Kind::Control | Kind::Unknown => true,
                    Kind::UserDefined => false,
                    Kind::Normal | Kind::Unused | Kind::Byte => return None,
                };
                let keeps_space = matches!(text, "<s>" | "<unk>" | "<|endoftext|>");
                Some(json!({
                    "id": id,
                    "content": text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": strip_after_special && !keeps_space,
                    "normalized": false,
                    "special": special,
                }))
            })
            .collect()
    }
}
