//! Tokens as bytes.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use serde_json::Value;
use tokenizers::{Decoder, Tokenizer};

/// The library's prefix tree holds about a thousand levels.
const MAX_TOKEN_BYTES: usize = 1000;

/// The bytes that each token stands for within a text, and how the tokenizer would write a text.
#[derive(Clone)]
pub struct Vocabulary {
    /// Indexed by token id; a token without bytes never occurs under a grammar that does not name it.
    tokens: Arc<[Vec<u8>]>,
    /// Tokens that the tokenizer finds in a text before all others, longest first.
    added: Arc<[(String, TokenId)]>,
    /// How special tokens are written; they have no bytes.
    special: Arc<HashMap<TokenId, Vec<u8>>>,
    /// Present where a part of a text is tokenized as it would be within the text.
    tokenizer: Option<Arc<Tokenizer>>,
    /// Most tokens begin with a blank, those of punctuation among them.
    spaced: bool,
}

/// Why a tokenizer cannot be used with grammars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    #[error("tokenizer.json: {0}")]
    Json(String),
    #[error("tokenizer.json: decoder '{0}' is not supported under grammars")]
    Decoder(String),
    #[error("tokenizer.json: no tokens")]
    Empty,
}

/// How token strings stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// One character per byte (GPT-2's table).
    ByteLevel,
    /// A character stands for the space; `<0x0A>` for a byte.
    SentencePiece { space: char },
    /// `##` continues a word; other tokens begin one after a space, which the decoder leaves out before some.
    WordPiece,
}

impl Vocabulary {
    /// A vocabulary given by its bytes: a token without bytes, or of more than a thousand, never occurs. Nothing is forced
    /// under it.
    pub fn from_bytes(tokens: Vec<Vec<u8>>) -> Self {
        Self {
            tokens: tokens.into(),
            added: Arc::default(),
            special: Arc::default(),
            tokenizer: None,
            spaced: false,
        }
    }

    /// Reads a Hugging Face `tokenizer.json`: byte-level BPE, SentencePiece with or without byte fallback, WordPiece.
    /// Tokens marked as special occur only where a grammar names them.
    ///
    /// # Errors
    /// [`VocabularyError`] when the file is malformed or of another kind.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<Self, VocabularyError> {
        let file: Value =
            serde_json::from_slice(json).map_err(|error| VocabularyError::Json(error.to_string()))?;
        let tokenizer =
            Tokenizer::from_bytes(json).map_err(|error| VocabularyError::Json(error.to_string()))?;
        let encoding = encoding(&file)?;
        let table = byte_level_table();
        let size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let mut tokens = vec![Vec::new(); size];
        for (text, id) in tokenizer.get_vocab(false) {
            if let Some(slot) = tokens.get_mut(id as usize) {
                *slot = match encoding {
                    Encoding::WordPiece => piece(text, &tokenizer)?,
                    _ => bytes(&text, encoding, &table),
                };
            }
        }
        let mut added = Vec::new();
        let mut special = HashMap::new();
        let unknown = file["model"]["unk_token"].as_str().and_then(|text| tokenizer.token_to_id(text));
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.special {
                special.insert(id, token.content.clone().into_bytes());
            }
            if let Some(slot) = tokens.get_mut(id as usize) {
                *slot = if token.special { Vec::new() } else { token.content.clone().into_bytes() };
            }
            added.push((token.content, id));
        }
        added.sort_by_key(|(content, _)| std::cmp::Reverse(content.len()));
        if let Some(slot) = unknown.and_then(|id| tokens.get_mut(id as usize)) {
            slot.clear();
        }
        if tokens.iter().all(Vec::is_empty) {
            return Err(VocabularyError::Empty);
        }
        let canonical = encoding == Encoding::ByteLevel
            && file["normalizer"].is_null()
            && !file.to_string().contains("\"add_prefix_space\":true");
        Ok(Self {
            tokens: tokens.into(),
            added: added.into(),
            special: Arc::new(special),
            tokenizer: canonical.then(|| Arc::new(tokenizer)),
            spaced: encoding == Encoding::WordPiece,
        })
    }

    /// Number of token ids.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The bytes of a token; none if it never occurs under a grammar.
    pub fn bytes(&self, token: TokenId) -> &[u8] {
        self.tokens.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a text without blanks may be more than the vocabulary can write.
    pub(crate) fn is_spaced(&self) -> bool {
        self.spaced
    }

    /// A token as it is written, special tokens included.
    pub(crate) fn written(&self, token: TokenId) -> &[u8] {
        self.special.get(&token).map_or_else(|| self.bytes(token), Vec::as_slice)
    }

    /// The token that is written so and that the tokenizer never splits.
    pub(crate) fn added(&self, text: &str) -> Option<TokenId> {
        self.added.iter().find(|(content, _)| content == text).map(|(_, id)| *id)
    }

    /// A text cut at its added tokens.
    pub(crate) fn split_added<'a>(&self, text: &'a str) -> Vec<Result<TokenId, &'a str>> {
        let found = self.added.iter().filter(|(content, _)| !content.is_empty()).find_map(|(content, id)| {
            let (before, after) = text.split_once(content.as_str())?;
            Some((before, *id, after))
        });
        match found {
            Some((before, id, after)) => {
                let mut parts = self.split_added(before);
                parts.push(Ok(id));
                parts.extend(self.split_added(after));
                parts
            }
            None if text.is_empty() => Vec::new(),
            None => vec![Err(text)],
        }
    }

    /// The end of a text is the engine's; the library wants a token for it, which is one past the last.
    pub(crate) fn environment(&self) -> Arc<Environment> {
        let word = |bytes: &Vec<u8>| if bytes.len() > MAX_TOKEN_BYTES { Vec::new() } else { bytes.clone() };
        let mut words: Vec<Vec<u8>> = self.tokens.iter().map(word).collect();
        words.push(b"\xff<end>".to_vec());
        let info = TokRxInfo::new(words.len() as u32, self.tokens.len() as u32);
        Arc::new(Environment { trie: TokTrie::from(&info, &words), tokenizer: self.tokenizer.clone() })
    }
}

fn encoding(file: &Value) -> Result<Encoding, VocabularyError> {
    let decoder = &file["decoder"];
    let decoders: Vec<&Value> = match decoder["decoders"].as_array() {
        Some(list) => list.iter().collect(),
        None => vec![decoder],
    };
    let find = |kind: &str| decoders.iter().find(|decoder| decoder["type"].as_str() == Some(kind));
    if find("ByteLevel").is_some() {
        return Ok(Encoding::ByteLevel);
    }
    if find("WordPiece").is_some() {
        return Ok(Encoding::WordPiece);
    }
    let space = find("Metaspace")
        .and_then(|decoder| decoder["replacement"].as_str())
        .or_else(|| {
            let replace = find("Replace").filter(|decoder| decoder["content"].as_str() == Some(" "));
            replace.and_then(|decoder| decoder["pattern"]["String"].as_str())
        })
        .and_then(|text| text.chars().next());
    match space {
        Some(space) => Ok(Encoding::SentencePiece { space }),
        None => Err(VocabularyError::Decoder(decoder["type"].as_str().unwrap_or("none").to_owned())),
    }
}

fn bytes(text: &str, encoding: Encoding, table: &HashMap<char, u8>) -> Vec<u8> {
    match encoding {
        Encoding::ByteLevel => {
            let bytes: Option<Vec<u8>> = text.chars().map(|c| table.get(&c).copied()).collect();
            bytes.unwrap_or_default()
        }
        Encoding::SentencePiece { space } => {
            let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            match hex.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => vec![byte],
                None => text.replace(space, " ").into_bytes(),
            }
        }
        Encoding::WordPiece => text.as_bytes().to_vec(),
    }
}

/// What the decoder makes of a token behind others.
fn piece(text: String, tokenizer: &Tokenizer) -> Result<Vec<u8>, VocabularyError> {
    let wrong = |error: tokenizers::Error| VocabularyError::Json(error.to_string());
    let Some(decoder) = tokenizer.get_decoder() else { return Ok(text.into_bytes()) };
    let parts = decoder.decode_chain(vec!["a".to_owned(), text]).map_err(wrong)?;
    Ok(parts.concat().into_bytes().split_off(1))
}

/// GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on.
fn byte_level_table() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=u8::MAX).filter(|&byte| printable(byte)).map(|byte| (char::from(byte), byte));
    let other = ('\u{100}'..).zip((0..=u8::MAX).filter(|&byte| !printable(byte)));
    own.chain(other).collect()
}

/// The vocabulary as the library sees it.
pub(crate) struct Environment {
    trie: TokTrie,
    tokenizer: Option<Arc<Tokenizer>>,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let canonical = |text: &str| {
            let encoded = self.tokenizer.as_ref()?.encode_fast(text, false).ok()?;
            let ids = encoded.get_ids().to_vec();
            // The text may contain what the tokenizer takes for a special token.
            (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
        };
        let greedy = |text: &str| self.trie.greedy_tokenize(text.as_bytes());
        self.trie.tokenize_with_greedy_fallback(bytes, |text| canonical(text).unwrap_or_else(|| greedy(text)))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_some()
    }
}
