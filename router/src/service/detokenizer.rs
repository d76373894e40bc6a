//! Turns one sequence's tokens into text as they come, never giving half a character.

use weirgate_types::TokenId;

use super::text::Vocabulary;

/// What a decoder writes for bytes that are not (yet) a character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
/// Prompt tokens before the first generated one, so that a decoder which treats a text's beginning specially (it drops
/// the leading space of SentencePiece) sees the true context.
const CONTEXT: usize = 5;
/// A window that never completes (broken bytes, tokens without text) is cut back at this length ...
const MAX_WINDOW: usize = 64;
/// ... to this many tokens, more than a pending character has bytes.
const CUT_WINDOW: usize = 16;

/// Incremental decoder of one sequence.
///
/// ```text
/// tokens   … |  window: decoded together at each step      |
/// text       |  already given (`given` bytes)  |  pending  |   pending: a trailing U+FFFD
/// ```
/// When nothing is pending, the tokens before the last piece's are forgotten.
///
/// Byte-fallback tokens (`<0xE2>`) stay outside the window: their decoder judges a run of them as a whole, so it would
/// take back characters already given. Here a run's characters come as they are complete.
pub(crate) struct Detokenizer {
    vocabulary: Vocabulary,
    window: Vec<TokenId>,
    /// Bytes of the window's text that were given.
    given: usize,
    /// Where in `window` the last piece's tokens begin.
    last_piece: usize,
    /// Bytes of a byte-fallback run that are no character yet.
    bytes: Vec<u8>,
}

impl Detokenizer {
    /// `prompt` is what the generated tokens continue.
    pub fn new(vocabulary: Vocabulary, prompt: &[TokenId]) -> Self {
        let window = prompt.get(prompt.len().saturating_sub(CONTEXT)..).unwrap_or_default().to_vec();
        let mut this = Self { vocabulary, given: 0, last_piece: window.len(), window, bytes: Vec::new() };
        this.given = this.decode().len();
        this
    }

    /// The text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: TokenId) -> String {
        match self.vocabulary.byte(token) {
            Some(byte) => self.push_byte(token, byte),
            None => {
                let mut text = self.finish_bytes();
                text.push_str(&self.push_token(token));
                text
            }
        }
    }

    /// Whatever is still pending, when no more tokens come.
    pub fn finish(&mut self) -> String {
        let text = self.decode();
        self.give(&text, text.len()) + &self.finish_bytes()
    }

    fn push_token(&mut self, token: TokenId) -> String {
        self.window.push(token);
        let text = self.decode();
        let complete = complete(&text);
        let piece = self.give(&text, complete);
        if complete == text.len() && !piece.is_empty() {
            self.restart_at(self.last_piece);
            self.last_piece = self.window.len();
            self.given = self.decode().len();
        } else if self.window.len() > MAX_WINDOW {
            self.restart_at(self.window.len() - CUT_WINDOW);
            self.given = self::complete(&self.decode());
        }
        piece
    }

    fn push_byte(&mut self, token: TokenId, byte: u8) -> String {
        if self.window.is_empty() {
            // So that the next token is not taken for the text's beginning.
            self.window.push(token);
            self.last_piece = 1;
            self.given = self.decode().len();
        }
        self.bytes.push(byte);
        let incomplete = match std::str::from_utf8(&self.bytes) {
            Err(error) if error.error_len().is_none() => self.bytes.len() - error.valid_up_to(),
            _ => 0,
        };
        let tail = self.bytes.split_off(self.bytes.len() - incomplete);
        let text = self.finish_bytes();
        self.bytes = tail;
        text
    }

    fn finish_bytes(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }

    /// Gives the text from what was given before up to `end`.
    fn give(&mut self, text: &str, end: usize) -> String {
        let piece = text.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        piece
    }

    /// Forgets the tokens before `start`.
    fn restart_at(&mut self, start: usize) {
        self.window.drain(..start);
        self.last_piece = 0;
    }

    fn decode(&self) -> String {
        self.vocabulary.tokenizer.decode(&self.window, false).unwrap_or_default()
    }
}

/// The text's length without a last character that may still become another one.
fn complete(text: &str) -> usize {
    text.strip_suffix(REPLACEMENT).unwrap_or(text).len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use tokenizers::Tokenizer;

    use super::*;
    use crate::test_tokenizers::{byte_fallback, byte_level, id, metaspace};

    fn stream(tokenizer: &Arc<Tokenizer>, prompt: &[u32], tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(Vocabulary::new(tokenizer.clone(), &[]), prompt);
        let mut pieces: Vec<String> = tokens.iter().map(|token| detokenizer.push(*token)).collect();
        pieces.push(detokenizer.finish());
        pieces
    }

    #[test]
    fn an_emoji_appears_with_its_last_byte() {
        let tokenizer = byte_level();
        let tokens = tokenizer.encode("a🙂b", false).unwrap().get_ids().to_vec();
        assert_eq!(tokens.len(), 6);
        assert_eq!(stream(&tokenizer, &[], &tokens), ["a", "", "", "", "🙂", "b", ""]);
    }

    #[test]
    fn an_incomplete_character_is_replaced_at_the_end_only() {
        let tokenizer = byte_level();
        let tokens = &tokenizer.encode("é", false).unwrap().get_ids()[..1].to_vec();
        assert_eq!(stream(&tokenizer, &[], tokens), ["", "\u{fffd}"]);
    }

    #[test]
    fn byte_fallback_characters_are_whole() {
        let tokenizer = byte_fallback();
        let tokens = [
            id(&tokenizer, "▁a"),
            id(&tokenizer, "<0xE2>"),
            id(&tokenizer, "<0x82>"),
            id(&tokenizer, "<0xAC>"),
        ];
        assert_eq!(stream(&tokenizer, &[id(&tokenizer, "b")], &tokens), [" a", "", "", "€", ""]);
    }

    #[test]
    fn the_space_before_the_first_word_depends_on_the_prompt() {
        let tokenizer = metaspace();
        let world = id(&tokenizer, "▁world");
        assert_eq!(stream(&tokenizer, &[], &[world, world]).concat(), "world world");
        assert_eq!(stream(&tokenizer, &[id(&tokenizer, "▁hello")], &[world, world]).concat(), " world world");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Any bytes at all: what is streamed is what the tokenizer makes of the whole.
        #[test]
        fn pieces_make_the_full_decoding(tokens in proptest::collection::vec(0u32..256, 0..200)) {
            let tokenizer = byte_level();
            prop_assert_eq!(stream(&tokenizer, &[], &tokens).concat(), tokenizer.decode(&tokens, false).unwrap());
        }

        /// Real text is never shown with a replacement character, whatever the pieces.
        #[test]
        fn text_never_shows_half_a_character(text in "\\PC{0,40}") {
            prop_assume!(!text.contains(REPLACEMENT));
            let tokenizer = byte_level();
            let tokens = tokenizer.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            let pieces = stream(&tokenizer, &[], &tokens);
            prop_assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)));
            prop_assert_eq!(pieces.concat(), text);
        }

        #[test]
        fn byte_fallback_text_comes_back(text in "[a-c€🙂é ]{0,30}") {
            let tokenizer = byte_fallback();
            let tokens = tokenizer.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            prop_assert_eq!(stream(&tokenizer, &[], &tokens).concat(), tokenizer.decode(&tokens, false).unwrap());
        }
    }
}
