//! Prompts into tokens: where conversations are rendered, and all of it is tokenized.

use std::sync::Arc;

use tokenizers::Tokenizer;
use weirgate_types::TokenId;

use super::Service;
use super::context::{self, ContextLimit};
use super::error::{ServiceError, ValidationError};
use super::guard::{Guard, Guarded};
use super::request::Prompt;
use super::template::{ChatTemplate, Conversation, TemplateError};
use crate::tools::{Reasoning, Thinking};

/// A token and where it lies in the input, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub id: TokenId,
    pub start: usize,
    pub stop: usize,
}

/// A prompt as the engine will see it.
pub(super) struct Tokenized {
    pub tokens: Vec<TokenId>,
    pub characters: usize,
    pub thinking: Thinking,
}

/// How a conversation becomes a prompt.
struct Rendering {
    template: Arc<ChatTemplate>,
    guard: Arc<Guard>,
    /// The marks of reasoning that may follow the prompt.
    reasoning: Option<Reasoning>,
}

impl Rendering {
    fn render(&self, conversation: &Conversation) -> Result<Guarded, ServiceError> {
        Ok(self.guard.render(&self.template, conversation)?)
    }

    fn tokenize(&self, conversation: &Conversation) -> Result<Tokenized, ServiceError> {
        let prompt = self.render(conversation)?;
        let text = prompt.text();
        if text.is_empty() {
            return Err(ValidationError::EmptyInput.into());
        }
        let tokens = self.guard.ids(&prompt, self.template.lacks_marks()).map_err(tokenizer_error)?;
        let thinking = self.reasoning.map_or(Thinking::None, |marks| marks.after(&text));
        Ok(Tokenized { tokens, characters: text.chars().count(), thinking })
    }
}

impl Service {
    pub(super) async fn tokenize_prompt(
        &self,
        prompt: &Prompt,
        context: Option<&ContextLimit>,
    ) -> Result<Tokenized, ServiceError> {
        match prompt {
            Prompt::Tokens(ids) => {
                let check = |id: &i64| self.validator.token("prompt", *id);
                let tokens = ids.iter().map(check).collect::<Result<Vec<_>, _>>()?;
                Ok(Tokenized { tokens, characters: 0, thinking: Thinking::None })
            }
            Prompt::Text(text) => {
                let (tokenizer, text) = (self.vocabulary.tokenizer.clone(), text.clone());
                self.on_worker(move || encode(&tokenizer, &text)).await
            }
            Prompt::Chat(_) | Prompt::Templated(..) | Prompt::Infill { .. } => {
                let (rendering, conversation) = self.rendering(prompt)?;
                let most = self.validator.max_total_tokens;
                let limit = context.filter(|context| context.truncate).map(|context| context.limit(most));
                self.on_worker(move || {
                    let tokenize = |conversation: &Conversation| rendering.tokenize(conversation);
                    match limit {
                        Some(limit) => tokenize_latest(&conversation, limit, tokenize),
                        None => tokenize(&conversation),
                    }
                })
                .await
            }
        }
    }

    /// What renders a prompt that is a conversation.
    fn rendering(&self, prompt: &Prompt) -> Result<(Rendering, Conversation), ServiceError> {
        let reasoning = self.forms.reasoning;
        let (template, conversation, reasoning) = match prompt {
            Prompt::Chat(conversation) => (self.template.clone(), conversation.clone(), reasoning),
            Prompt::Templated(template, conversation) => (template.clone(), conversation.clone(), reasoning),
            Prompt::Infill { text, suffix } => {
                let template = self.completion_template.clone().ok_or(TemplateError::Missing)?;
                (template, Conversation::infill(text, suffix), None)
            }
            Prompt::Text(_) | Prompt::Tokens(_) => return Err(TemplateError::Missing.into()),
        };
        Ok((Rendering { template, guard: self.guard.clone(), reasoning }, conversation))
    }

    /// The tokens of a text, special ones added, and their places in it.
    pub async fn tokenize(&self, text: String) -> Result<Vec<Placed>, ServiceError> {
        let tokenizer = self.vocabulary.tokenizer.clone();
        self.on_worker(move || {
            let encoding = tokenizer.encode(text.as_str(), true).map_err(tokenizer_error)?;
            let places = encoding.get_ids().iter().zip(encoding.get_offsets());
            Ok(places.map(|(id, (start, stop))| Placed { id: *id, start: *start, stop: *stop }).collect())
        })
        .await
    }

    /// A prompt as the model would read it: its text, and the text's tokens.
    pub async fn tokenize_rendered(&self, prompt: &Prompt) -> Result<(String, Vec<Placed>), ServiceError> {
        let (rendering, conversation) = self.rendering(prompt)?;
        self.on_worker(move || {
            let prompt = rendering.render(&conversation)?;
            let places = rendering.guard.places(&prompt, rendering.template.lacks_marks());
            let placed = |(id, start, stop)| Placed { id, start, stop };
            let places = places.map_err(tokenizer_error)?.into_iter().map(placed).collect();
            Ok((prompt.text().into_owned(), places))
        })
        .await
    }

    pub(super) async fn on_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.workers.run(work).await.unwrap_or_else(|_| {
            Err(ValidationError::Tokenizer("the input could not be tokenized".to_owned()).into())
        })
    }
}

/// A conversation without so many of its oldest messages that it has fewer than `limit` tokens; with its last one alone,
/// beside the system's, where even that has more.
fn tokenize_latest(
    conversation: &Conversation,
    limit: usize,
    tokenize: impl Fn(&Conversation) -> Result<Tokenized, ServiceError>,
) -> Result<Tokenized, ServiceError> {
    let whole = tokenize(conversation)?;
    let (mut too_few, mut enough) = (0, context::droppable(conversation));
    if whole.tokens.len() < limit || enough == 0 {
        return Ok(whole);
    }
    let mut shortest = tokenize(&context::without_oldest(conversation, enough))?;
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        // A template may refuse what begins in the middle of a conversation: that is no way to shorten it.
        match tokenize(&context::without_oldest(conversation, middle)) {
            Ok(shorter) if shorter.tokens.len() < limit => (shortest, enough) = (shorter, middle),
            _ => too_few = middle,
        }
    }
    Ok(shortest)
}

/// The tokens of a text as it is, special ones added.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Tokenized, ServiceError> {
    if text.is_empty() {
        return Err(ValidationError::EmptyInput.into());
    }
    let encoding = tokenizer.encode_fast(text, true).map_err(tokenizer_error)?;
    let tokens = encoding.get_ids().to_vec();
    Ok(Tokenized { tokens, characters: text.chars().count(), thinking: Thinking::None })
}

pub(super) fn tokenizer_error(error: tokenizers::Error) -> ServiceError {
    ValidationError::Tokenizer(error.to_string()).into()
}
