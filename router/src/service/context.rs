//! A request's own context: how long prompt and output may get together, and what happens to what does not fit.

use weirgate_types::{ContextShift, TokenId};

use super::error::ValidationError;
use super::request::MaxNewTokens;
use super::template::Conversation;

/// The least context, and the least room behind the tokens that stay (llama.cpp's).
const LEAST: usize = 4;
/// A text whose context is shifted ends by then at the latest, in contexts (Ollama's).
const MOST_CONTEXTS: usize = 10;

/// Ollama's `num_ctx` and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextLimit {
    /// Tokens of prompt and output; `None`, or more than that: all that the server allows.
    pub tokens: Option<usize>,
    /// So many of the prompt's first tokens stay when others are dropped; `None`: all.
    pub keep: Option<usize>,
    /// A prompt that is too long is cut rather than refused.
    pub truncate: bool,
    /// A text that gets too long loses its older half rather than ending.
    pub shift: bool,
    /// Ids as the client sent them, which come before the prompt.
    pub preceding: Vec<i64>,
}

/// What a request may generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub max_new_tokens: u32,
    pub shift: Option<ContextShift>,
}

impl ContextLimit {
    /// The most tokens of prompt and output, where the server allows `most`.
    pub fn limit(&self, most: usize) -> usize {
        self.tokens.unwrap_or(most).max(LEAST).min(most)
    }

    /// Cuts a prompt to what fits, so that at least one token can follow, and says how many may.
    ///
    /// # Errors
    /// A prompt that does not fit and may not be cut.
    pub(super) fn fit(
        &self,
        prompt: &mut Vec<TokenId>,
        begins_with_mark: bool,
        wanted: MaxNewTokens,
        most: usize,
    ) -> Result<Room, ValidationError> {
        let limit = self.limit(most);
        let keep = self.keep.map_or(prompt.len(), |keep| keep.saturating_add(usize::from(begins_with_mark)));
        let keep = keep.min(limit.saturating_sub(LEAST));
        if prompt.len() >= limit {
            if !self.truncate {
                return Err(ValidationError::ContextLength { limit, given: prompt.len() });
            }
            let surplus = prompt.len() + 1 - limit;
            prompt.drain(keep..keep + surplus);
        }
        let room = limit - prompt.len();
        let most = if self.shift { limit.saturating_mul(MOST_CONTEXTS) } else { room };
        let wanted = match wanted {
            MaxNewTokens::Given(new) | MaxNewTokens::Default(new) => new as usize,
            MaxNewTokens::Open => usize::MAX,
        };
        let new = wanted.min(most);
        let tokens = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let shift = (new > room).then(|| ContextShift { limit: tokens(limit), keep: tokens(keep) });
        Ok(Room { max_new_tokens: tokens(new), shift })
    }
}

/// How many messages of a conversation can go: all but those of the system and the last one.
pub(super) fn droppable(conversation: &Conversation) -> usize {
    let last = conversation.messages.len().saturating_sub(1);
    conversation.messages.iter().take(last).filter(|message| !is_system(message)).count()
}

/// The conversation without the oldest `count` of these messages.
pub(super) fn without_oldest(conversation: &Conversation, count: usize) -> Conversation {
    let mut left = count.min(droppable(conversation));
    let mut shorter = conversation.clone();
    shorter.messages.retain(|message| {
        let goes = left > 0 && !is_system(message);
        left -= usize::from(goes);
        !goes
    });
    shorter
}

fn is_system(message: &serde_json::Map<String, serde_json::Value>) -> bool {
    message.get("role").and_then(serde_json::Value::as_str) == Some("system")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(tokens: usize, keep: Option<usize>) -> ContextLimit {
        ContextLimit { tokens: Some(tokens), keep, truncate: true, shift: true, preceding: Vec::new() }
    }

    #[test]
    fn a_long_prompt_keeps_its_head_and_its_end() {
        let mut prompt: Vec<u32> = (0..20).collect();
        let room = context(10, Some(3)).fit(&mut prompt, false, MaxNewTokens::Given(5), 100).unwrap();
        assert_eq!(prompt, [0, 1, 2, 14, 15, 16, 17, 18, 19]);
        let shift = Some(ContextShift { limit: 10, keep: 3 });
        assert_eq!(room, Room { max_new_tokens: 5, shift });
        // A beginning-of-text mark stays, too; and all but four tokens can be kept at most.
        let mut prompt: Vec<u32> = (0..20).collect();
        context(10, Some(3)).fit(&mut prompt, true, MaxNewTokens::Open, 100).unwrap();
        assert_eq!(prompt[..5], [0, 1, 2, 3, 15]);
        let mut prompt: Vec<u32> = (0..20).collect();
        context(10, None).fit(&mut prompt, false, MaxNewTokens::Open, 100).unwrap();
        assert_eq!(prompt, [0, 1, 2, 3, 4, 5, 17, 18, 19]);
    }

    #[test]
    fn a_prompt_that_may_not_be_cut_is_refused() {
        let whole = ContextLimit { truncate: false, ..context(10, Some(0)) };
        let error = whole.fit(&mut vec![1; 10], false, MaxNewTokens::Open, 100).unwrap_err();
        assert_eq!(error, ValidationError::ContextLength { limit: 10, given: 10 });
        assert!(error.to_string().contains("context") && error.to_string().contains("exceed"));
        assert!(whole.fit(&mut vec![1; 9], false, MaxNewTokens::Open, 100).is_ok());
    }

    #[test]
    fn the_context_bounds_the_output_unless_it_is_shifted() {
        let of = |shift, wanted, most| {
            let context = ContextLimit { shift, ..context(16, Some(4)) };
            let room = context.fit(&mut vec![1; 6], false, wanted, most).unwrap();
            (room.max_new_tokens, room.shift.map(|shift| shift.limit))
        };
        assert_eq!(of(false, MaxNewTokens::Open, 100), (10, None));
        assert_eq!(of(false, MaxNewTokens::Given(40), 100), (10, None));
        assert_eq!(of(true, MaxNewTokens::Given(10), 100), (10, None));
        assert_eq!(of(true, MaxNewTokens::Given(40), 100), (40, Some(16)));
        assert_eq!(of(true, MaxNewTokens::Open, 100), (160, Some(16)));
        // The server's limit goes over the request's.
        assert_eq!(of(true, MaxNewTokens::Open, 12), (120, Some(12)));
        assert_eq!(of(true, MaxNewTokens::Given(0), 100), (0, None));
    }

    #[test]
    fn the_oldest_messages_go_first_and_the_systems_and_the_last_stay() {
        let roles = ["user", "system", "assistant", "user"];
        let message = |(n, role): (usize, &&str)| json!({"role": role, "content": n.to_string()});
        let messages = roles.iter().enumerate().map(message);
        let messages = messages.filter_map(|message| message.as_object().cloned()).collect();
        let conversation = Conversation { messages, ..Conversation::default() };
        let left = |count| {
            let shorter = without_oldest(&conversation, count);
            shorter.messages.iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(droppable(&conversation), 2);
        assert_eq!(left(1), ["1", "2", "3"]);
        assert_eq!((left(2), left(9)), (vec!["1".to_owned(), "3".to_owned()], left(2)));
    }
}
