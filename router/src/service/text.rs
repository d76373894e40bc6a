//! One sequence's text: tokens in, released text out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokenizers::Tokenizer;
use weirgate_types::TokenId;

use super::detokenizer::Detokenizer;
use super::request::TextOptions;
use super::stop_strings::{Scan, StopMatcher, StopSet};

/// A tokenizer and the ids that are marks rather than text.
#[derive(Clone)]
pub(crate) struct Vocabulary {
    pub tokenizer: Arc<Tokenizer>,
    /// The tokenizer's special tokens and the model's end-of-sequence ids.
    special: Arc<HashSet<TokenId>>,
    /// Byte-fallback tokens and their bytes.
    bytes: Arc<HashMap<TokenId, u8>>,
}

impl Vocabulary {
    pub fn new(tokenizer: Arc<Tokenizer>, eos_tokens: &[TokenId]) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id);
        let special = Arc::new(special.chain(eos_tokens.iter().copied()).collect());
        let bytes = Arc::new(byte_tokens(&tokenizer));
        Self { tokenizer, special, bytes }
    }

    /// The byte of a byte-fallback token.
    pub fn byte(&self, id: TokenId) -> Option<u8> {
        self.bytes.get(&id).copied()
    }

    /// The same, with the special tokens that occur in these texts taken for ordinary ones.
    pub fn showing(&self, texts: &[String]) -> Self {
        let mut this = self.clone();
        let shown = |id: &TokenId| {
            let mark = self.tokenizer.id_to_token(*id);
            mark.is_some_and(|mark| texts.iter().any(|text| text.contains(&mark)))
        };
        if !texts.is_empty() {
            this.special = Arc::new(self.special.iter().copied().filter(|id| !shown(id)).collect());
        }
        this
    }

    pub fn is_special(&self, id: TokenId) -> bool {
        self.special.contains(&id)
    }

    /// The text of a token after another one: with the leading space that a text's beginning would lose.
    pub fn piece(&self, id: TokenId) -> String {
        let once = self.text(id);
        let twice = self.tokenizer.decode(&[id, id], false).unwrap_or_default();
        twice.get(once.len()..).map_or(once, str::to_owned)
    }

    /// The text of a token by itself.
    pub fn text(&self, id: TokenId) -> String {
        self.tokenizer.decode(&[id], false).unwrap_or_default()
    }
}

/// The tokens `<0x00>` to `<0xFF>`, where the decoder takes them for bytes.
fn byte_tokens(tokenizer: &Tokenizer) -> HashMap<TokenId, u8> {
    let id = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>"));
    match id(b'A').map(|id| tokenizer.decode(&[id], false)) {
        Some(Ok(text)) if text == "A" => (0..=u8::MAX).filter_map(|byte| Some((id(byte)?, byte))).collect(),
        _ => HashMap::new(),
    }
}

/// The text of one sequence as its tokens come.
pub(crate) struct SequenceText {
    vocabulary: Vocabulary,
    detokenizer: Detokenizer,
    stops: StopSet,
    matcher: StopMatcher,
    options: TextOptions,
    full: String,
}

/// What one token did to the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text that may be shown now.
    pub text: String,
    /// The stop string that ended the sequence.
    pub stopped: Option<Arc<str>>,
}

impl SequenceText {
    pub fn new(vocabulary: Vocabulary, prompt: &[TokenId], stops: StopSet, options: TextOptions) -> Self {
        let detokenizer = Detokenizer::new(vocabulary.clone(), prompt);
        let matcher = StopMatcher::new(stops.clone(), options.keep_stop);
        Self { vocabulary, detokenizer, stops, matcher, options, full: String::new() }
    }

    pub fn push(&mut self, token: TokenId) -> Piece {
        let special = self.vocabulary.is_special(token);
        let raw = self.detokenizer.push(token);
        if special && !self.options.special_pieces {
            return self.push_mark(&raw);
        }
        let (text, stopped) = match self.matcher.push(&raw) {
            Scan::Open { released } => (released, None),
            Scan::Stopped { released, stop } => (released, Some(stop)),
        };
        if !special {
            self.full.push_str(&text);
        }
        Piece { text, stopped }
    }

    /// A special token that is not to be shown: it may be a stop by itself; otherwise it ends the text before it.
    fn push_mark(&mut self, raw: &str) -> Piece {
        let text = self.matcher.finish();
        self.full.push_str(&text);
        self.matcher = StopMatcher::new(self.stops.clone(), self.options.keep_stop);
        let alone = StopMatcher::new(self.stops.clone(), self.options.keep_stop).push(raw);
        let stopped = match alone {
            Scan::Open { .. } => None,
            Scan::Stopped { stop, .. } => Some(stop),
        };
        Piece { text, stopped }
    }

    /// The rest, when the sequence ended otherwise than by a stop string.
    pub fn finish(&mut self) -> String {
        let rest = self.detokenizer.finish();
        let mut text = match self.matcher.push(&rest) {
            Scan::Open { released } | Scan::Stopped { released, .. } => released,
        };
        text.push_str(&self.matcher.finish());
        self.full.push_str(&text);
        text
    }

    /// The whole text so far, without special tokens.
    pub fn full(&self) -> &str {
        &self.full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tokenizers::{byte_level, metaspace};

    const SHOWN: TextOptions = TextOptions { keep_stop: true, special_pieces: true };
    const CLEAN: TextOptions = TextOptions { keep_stop: false, special_pieces: false };

    fn run(text: &str, stops: &[&str], options: TextOptions) -> (Vec<String>, String, bool) {
        let vocabulary = Vocabulary::new(byte_level(), &[]);
        let tokens = vocabulary.tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut sequence = SequenceText::new(vocabulary, &[], StopSet::new(&stops), options);
        let mut pieces = Vec::new();
        for token in tokens {
            let piece = sequence.push(token);
            pieces.push(piece.text);
            if piece.stopped.is_some() {
                return (pieces, sequence.full().to_owned(), true);
            }
        }
        pieces.push(sequence.finish());
        (pieces, sequence.full().to_owned(), false)
    }

    #[test]
    fn a_token_has_its_space_after_another_one() {
        let words = Vocabulary::new(metaspace(), &[]);
        assert_eq!((words.text(2), words.piece(2)), ("world".into(), " world".into()));
        let bytes = Vocabulary::new(byte_level(), &[]);
        assert_eq!((bytes.piece(97), bytes.piece(0xe2)), ("a".into(), "\u{fffd}".into()));
    }

    #[test]
    fn special_tokens_are_shown_or_not_but_never_in_the_full_text() {
        let (pieces, full, _) = run("a<|end|>", &[], SHOWN);
        assert_eq!((pieces, full.as_str()), (vec!["a".into(), "<|end|>".into(), String::new()], "a"));
        let (pieces, full, _) = run("a<|end|>b", &[], CLEAN);
        assert_eq!((pieces.concat().as_str(), full.as_str()), ("ab", "ab"));
    }

    #[test]
    fn a_special_token_can_be_a_stop_string() {
        assert_eq!(
            run("ab<|end|>c", &["<|end|>"], CLEAN),
            (vec!["a".into(), "b".into(), String::new()], "ab".into(), true)
        );
        let (pieces, full, stopped) = run("ab<|end|>c", &["<|end|>"], SHOWN);
        assert_eq!(
            (pieces.last().map(String::as_str), full.as_str(), stopped),
            (Some("<|end|>"), "ab", true)
        );
    }

    #[test]
    fn held_text_before_a_special_token_is_released() {
        let (pieces, full, stopped) = run("ab<|end|>", &["abc"], CLEAN);
        assert_eq!(pieces, ["", "", "ab", ""]);
        assert_eq!((full.as_str(), stopped), ("ab", false));
    }

    #[test]
    fn the_stop_is_kept_for_tgi_and_removed_for_openai() {
        assert_eq!(run("one two", &[" t"], SHOWN).1, "one t");
        assert_eq!(run("one two", &[" t"], CLEAN).1, "one");
    }
}
