//! From conversations to tokens, and which of them are to be learned: the replies, up to the token that ends each.

use std::ops::Range;

use tokenizers::Tokenizer;
use weirgate_models::ModelFiles;
use weirgate_text::{
    Conversation, LineError, MAX_ERRORS, Record, Sources, TemplateError, Templates, TokenizerSettings,
    eos_tokens, read_tokenizer,
};

use crate::{FinetuneError, Hyperparameters};

/// Bytes of a rendered conversation.
const MAX_TEXT: usize = 64 << 20;

/// A reply that begins as no other does.
const OTHER_REPLY: &str = "\u{fffc}";

/// One sequence of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// Whether a token is to be predicted from those before it; as many as tokens. Never the first.
    pub learned: Vec<bool>,
}

/// The text side of a base model.
pub struct Encoder {
    tokenizer: Tokenizer,
    templates: Templates,
    eos: Vec<u32>,
    max_length: usize,
}

/// What came of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub examples: Vec<Example>,
    /// Conversations cut at the longest length.
    pub cut: usize,
    /// Those of which nothing to learn was left.
    pub dropped: usize,
}

impl Encoder {
    /// Reads tokenizer and templates of `files`. `max_positions` is the model's longest sequence.
    ///
    /// # Errors
    /// Files that are missing or malformed, a model without a chat template, or one that does not compile.
    pub fn new(
        files: &ModelFiles,
        settings: &Hyperparameters,
        max_positions: usize,
    ) -> Result<Self, FinetuneError> {
        let error = |message: &str| FinetuneError::File { file: files.label(), message: message.to_owned() };
        let tokenizer = read_tokenizer(files)?;
        let text = TokenizerSettings::read(files, None)?;
        let sources = Sources { templates: text.templates(files)?, special_tokens: text.special_tokens() };
        if sources.templates.is_empty() {
            return Err(error("the model has no chat template"));
        }
        let templates = Templates::new(sources);
        if let Some(reason) = templates.broken() {
            return Err(error(&format!("the chat template does not compile: {reason}")));
        }
        let eos = eos_tokens(files, &text, &tokenizer)?;
        let longest = text.max_length().map_or(max_positions, |limit| limit.min(max_positions));
        Ok(Self { tokenizer, templates, eos, max_length: settings.max_length.min(longest) })
    }

    /// Tokens of the longest example.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// All examples of `records`, in their order.
    ///
    /// # Errors
    /// Conversations that the template refuses, by line; or nothing left to learn.
    pub fn encode(&self, records: &[Record]) -> Result<Encoded, FinetuneError> {
        let (mut encoded, mut errors) = (Encoded::default(), Vec::new());
        for record in records {
            match self.examples(record) {
                Ok(examples) => {
                    for mut example in examples {
                        encoded.cut += usize::from(example.tokens.len() > self.max_length);
                        example.tokens.truncate(self.max_length);
                        example.learned.truncate(self.max_length);
                        match example.learned.contains(&true) {
                            true => encoded.examples.push(example),
                            false => encoded.dropped += 1,
                        }
                    }
                }
                Err(message) => errors.push(LineError { line: record.line, message }),
            }
        }
        if !errors.is_empty() {
            let more = errors.len().saturating_sub(MAX_ERRORS);
            errors.truncate(MAX_ERRORS);
            return Err(FinetuneError::Dataset { file: "the dataset".to_owned(), errors, more });
        }
        if encoded.examples.is_empty() {
            let message =
                format!("is {}: no reply of the dataset begins within so many tokens", self.max_length);
            return Err(FinetuneError::field("max_length", message));
        }
        Ok(encoded)
    }

    /// One example, or where the template shows earlier replies otherwise than the last (without their reasoning, say) one
    /// for each reply.
    fn examples(&self, record: &Record) -> Result<Vec<Example>, String> {
        let replies: Vec<usize> =
            (0..record.messages.len()).filter(|index| record.is_reply(*index)).collect();
        let shown = replies.iter().map(|index| self.reply(record, *index)).collect::<Result<Vec<_>, _>>()?;
        let Some((whole, _)) = shown.last() else { return Ok(Vec::new()) };
        if shown.iter().all(|(text, _)| whole.starts_with(text.as_str())) {
            let spans: Vec<Range<usize>> = shown.iter().map(|(_, span)| span.clone()).collect();
            return Ok(vec![self.tokenize(whole, &spans)?]);
        }
        shown.iter().map(|(text, span)| self.tokenize(text, std::slice::from_ref(span))).collect()
    }

    /// The conversation up to message `index`, and which part of it is that reply: all that follows what the model is given
    /// when it is asked for it.
    fn reply(&self, record: &Record, index: usize) -> Result<(String, Range<usize>), String> {
        let prompt = self.render(record, index, true)?;
        let text = self.render(record, index + 1, false)?;
        let mut start = shared(&prompt, &text);
        if start < prompt.len() {
            // The prompt goes on in a way of its own, with `<think>` say, and what it shares with the text may be the
            // reply's own `<`. Only what comes before any reply is not the reply's.
            let mut other = record.clone();
            if let Some(message) = other.messages.get_mut(index) {
                message.insert("content".to_owned(), OTHER_REPLY.into());
            }
            if let Ok(other) = self.render(&other, index + 1, false) {
                start = start.min(shared(&other, &text));
            }
        }
        if text.get(start..).is_none_or(str::is_empty) {
            return Err(format!("`messages[{index}]` does not appear in what the chat template makes of it"));
        }
        let end = text.len();
        Ok((text, start..end))
    }

    fn render(&self, record: &Record, messages: usize, prompt: bool) -> Result<String, String> {
        let conversation = Conversation {
            messages: record.messages.iter().take(messages).cloned().collect(),
            tools: record.tools.clone(),
            add_generation_prompt: Some(prompt),
            ..Conversation::default()
        };
        let render = |conversation: &Conversation| self.templates.render(conversation, MAX_TEXT);
        conversation.render_by(render).map_err(|error: TemplateError| format!("chat template: {error}"))
    }

    fn tokenize(&self, text: &str, spans: &[Range<usize>]) -> Result<Example, String> {
        let encoding =
            self.tokenizer.encode(text, false).map_err(|error| format!("cannot be tokenized: {error}"))?;
        let tokens = encoding.get_ids().to_vec();
        let mut learned = vec![false; tokens.len()];
        for span in spans {
            let inside = |offsets: &(usize, usize)| offsets.0 >= span.start && offsets.0 < span.end;
            let own: Vec<usize> =
                (1..tokens.len()).filter(|at| inside(&encoding.get_offsets()[*at])).collect();
            // What the template writes after the end of the turn is no part of the reply.
            let last =
                own.iter().rposition(|at| self.eos.contains(&tokens[*at])).map_or(own.len(), |at| at + 1);
            own.iter().take(last).for_each(|at| learned[*at] = true);
        }
        Ok(Example { tokens, learned })
    }
}

/// Bytes that both begin with, whole characters.
fn shared(one: &str, other: &str) -> usize {
    let common = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    (0..=common).rev().find(|at| other.is_char_boundary(*at)).unwrap_or(0)
}
