//! Log-probabilities as the two APIs show them.

use serde_json::{Map, Value};

use super::types::{ChatLogprob, ChatLogprobs, CompletionLogprobs, LikelyToken, TextLogprobs};
use crate::service::{Token, Vocabulary};

/// JSON has no infinity: what cannot be drawn has this log-probability, as at OpenAI.
const IMPOSSIBLE: f32 = -9999.0;

/// Of `/v1/chat/completions`.
pub(crate) fn chat(tokens: &[Token], vocabulary: &Vocabulary) -> ChatLogprobs {
    let likely = |id: u32, logprob: f32| {
        let token = vocabulary.piece(id);
        let bytes = match vocabulary.byte(id) {
            Some(byte) => Some(vec![byte]),
            None if token.contains(char::REPLACEMENT_CHARACTER) => None,
            None => Some(token.clone().into_bytes()),
        };
        LikelyToken { token, logprob: finite(logprob), bytes }
    };
    let entry = |token: &Token| ChatLogprob {
        token: likely(token.id, token.logprob),
        top_logprobs: token.top.iter().map(|top| likely(top.id, top.logprob)).collect(),
    };
    ChatLogprobs { content: tokens.iter().map(entry).collect() }
}

/// Of `/v1/completions`: an echoed prompt, its tokens with their log-probabilities, and the answer's tokens. `offset`
/// is where the text begins, in characters, and moves to its end.
pub(super) fn text(
    prompt: impl Iterator<Item = (u32, Option<f32>)>,
    tokens: &[Token],
    vocabulary: &Vocabulary,
    offset: &mut usize,
) -> TextLogprobs {
    let mut list = TextLogprobs::default();
    let mut push = |id: u32, logprob: Option<f32>, top| {
        let text = vocabulary.piece(id);
        list.text_offset.push(*offset);
        *offset += text.chars().count();
        list.tokens.push(text);
        list.token_logprobs.push(logprob.map(finite));
        list.top_logprobs.push(top);
    };
    for (id, logprob) in prompt {
        push(id, logprob, None);
    }
    for token in tokens {
        let mut likely = Map::new();
        for top in &token.top {
            // Of two tokens with the same text the likelier one is shown.
            likely.entry(vocabulary.piece(top.id)).or_insert_with(|| number(top.logprob));
        }
        push(token.id, Some(token.logprob), Some(likely));
    }
    list
}

/// With the digits of an `f32`, as everywhere else in the answer.
fn number(logprob: f32) -> Value {
    finite(logprob).to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Of `/v1/completions` in TGI's contract.
pub(super) fn plain(tokens: &[Token]) -> CompletionLogprobs {
    CompletionLogprobs::Values(tokens.iter().map(|token| finite(token.logprob)).collect())
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}
