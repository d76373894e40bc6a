//! An answer as a response, and as the events that make it up.

use std::time::SystemTime;

use super::output::{
    Event, EventKind, Failure, IncompleteDetails, InputTokens, OutputItem, OutputPart, OutputTokens, Place,
    Response, Status, Usage,
};
use super::types::ResponsesRequest;
use crate::api::blocks::{Block, Change, Ending, Kind, Teller};
use crate::api::openai::chat::Begun;
use crate::api::openai::{self, ChatLogprob, Refusal};
use crate::api::seconds;
use crate::service::{ServiceError, StopReason, Token, Vocabulary, random};

pub(super) struct Telling {
    pub response: Response,
    events: u64,
    input_tokens: u32,
    cached_tokens: u32,
    /// The item that is open.
    id: String,
    kind: Kind,
    /// Where log-probabilities are asked for.
    vocabulary: Option<Vocabulary>,
    /// Of tokens whose text is not told yet.
    held: Vec<ChatLogprob>,
    /// Of the item that is open.
    logprobs: Vec<ChatLogprob>,
}

impl Telling {
    pub fn new(request: ResponsesRequest, chat: &Begun) -> Self {
        let vocabulary = request.wants_logprobs().then(|| chat.state.service.vocabulary.clone());
        let response = Response {
            id: id("resp"),
            object: "response",
            created_at: now(),
            completed_at: None,
            status: Status::InProgress,
            background: false,
            error: None,
            incomplete_details: None,
            instructions: request.instructions,
            max_output_tokens: request.max_output_tokens,
            metadata: request.metadata.unwrap_or_default(),
            model: chat.model().to_owned(),
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            previous_response_id: None,
            reasoning: request.reasoning.unwrap_or_default(),
            store: false,
            temperature: request.temperature.unwrap_or(1.0),
            text: request.text.unwrap_or_default(),
            tool_choice: request.tool_choice.unwrap_or_else(|| "auto".into()),
            tools: request.tools.unwrap_or_default(),
            top_logprobs: request.top_logprobs.unwrap_or(0),
            top_p: request.top_p.unwrap_or(1.0),
            truncation: "disabled",
            usage: None,
            user: request.user,
        };
        Self {
            response,
            events: 0,
            input_tokens: u32::try_from(chat.generation.facts.prompt.len()).unwrap_or(u32::MAX),
            cached_tokens: chat.generation.cached_tokens(),
            id: String::new(),
            kind: Kind::Text,
            vocabulary,
            held: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    fn numbered<const N: usize>(&mut self, events: [EventKind; N]) -> Vec<Event> {
        let number = |event| {
            let sequence_number = self.events;
            self.events += 1;
            Event { event, sequence_number }
        };
        events.into_iter().map(number).collect()
    }

    fn place(&self) -> Place {
        Place { item_id: self.id.clone(), output_index: self.response.output.len(), content_index: 0 }
    }

    /// The item that is open, with this text.
    fn item(&self, kind: Kind, status: Status, text: Option<String>) -> OutputItem {
        let id = self.id.clone();
        match kind {
            Kind::Text => OutputItem::Message {
                id,
                status,
                role: "assistant",
                content: text.map(|text| self.part(text)).into_iter().collect(),
            },
            Kind::Reasoning => OutputItem::Reasoning {
                id,
                status,
                summary: [],
                content: text.map(|text| self.part(text)).into_iter().collect(),
                encrypted_content: None,
            },
            Kind::Call { id: call_id, name } => {
                OutputItem::FunctionCall { id, status, call_id, name, arguments: text.unwrap_or_default() }
            }
        }
    }

    fn part(&self, text: String) -> OutputPart {
        match self.kind {
            Kind::Reasoning => OutputPart::ReasoningText { text },
            _ => OutputPart::OutputText { text, annotations: [], logprobs: self.logprobs.clone() },
        }
    }

    fn began(&mut self, kind: Kind) -> Vec<Event> {
        self.id = id(match kind {
            Kind::Reasoning => "rs",
            Kind::Text => "msg",
            Kind::Call { .. } => "fc",
        });
        self.logprobs.clear();
        if kind != Kind::Text {
            self.held.clear();
        }
        let output_index = self.response.output.len();
        let item = self.item(kind.clone(), Status::InProgress, None);
        self.kind = kind;
        let added = EventKind::ItemAdded { output_index, item };
        if matches!(self.kind, Kind::Call { .. }) {
            return self.numbered([added]);
        }
        let part = EventKind::PartAdded { place: self.place(), part: self.part(String::new()) };
        self.numbered([added, part])
    }

    fn grew(&mut self, delta: String) -> Vec<Event> {
        let place = self.place();
        let event = match self.kind {
            Kind::Text => {
                let logprobs = std::mem::take(&mut self.held);
                self.logprobs.extend_from_slice(&logprobs);
                EventKind::TextDelta { place, delta, logprobs }
            }
            Kind::Reasoning => {
                self.held.clear();
                EventKind::ReasoningDelta { place, delta }
            }
            Kind::Call { .. } => {
                let Place { item_id, output_index, .. } = place;
                EventKind::ArgumentsDelta { item_id, output_index, delta }
            }
        };
        self.numbered([event])
    }

    fn ended(&mut self, Block { kind, text }: Block, cut: bool) -> Vec<Event> {
        let status = if cut { Status::Incomplete } else { Status::Completed };
        let (place, part) = (self.place(), self.part(text.clone()));
        let output_index = place.output_index;
        let item = self.item(kind.clone(), status, Some(text.clone()));
        self.response.output.push(item.clone());
        let item = EventKind::ItemDone { output_index, item };
        let logprobs = std::mem::take(&mut self.logprobs);
        match kind {
            Kind::Text => self.numbered([
                EventKind::TextDone { place: place.clone(), text, logprobs },
                EventKind::PartDone { place, part },
                item,
            ]),
            Kind::Reasoning => self.numbered([
                EventKind::ReasoningDone { place: place.clone(), text },
                EventKind::PartDone { place, part },
                item,
            ]),
            Kind::Call { name, .. } => {
                let item_id = place.item_id;
                self.numbered([
                    EventKind::ArgumentsDone { item_id, output_index, name, arguments: text },
                    item,
                ])
            }
        }
    }
}

impl Teller for Telling {
    type Event = Event;

    fn begin(&mut self) -> Vec<Event> {
        let response = self.response.clone();
        self.numbered([EventKind::Created { response: response.clone() }, EventKind::InProgress { response }])
    }

    fn token(&mut self, token: &Token) {
        let Some(vocabulary) = &self.vocabulary else { return };
        let mut logprobs = openai::chat_logprobs(std::slice::from_ref(token), vocabulary).content;
        // Here bytes are always told.
        for entry in &mut logprobs {
            for likely in std::iter::once(&mut entry.token).chain(&mut entry.top_logprobs) {
                likely.bytes.get_or_insert_default();
            }
        }
        self.held.append(&mut logprobs);
    }

    fn change(&mut self, change: Change) -> Vec<Event> {
        match change {
            Change::Began(kind) => self.began(kind),
            Change::Grew(text) => self.grew(text),
            Change::Ended { block, cut } => self.ended(block, cut),
        }
    }

    fn end(&mut self, Ending { end, reasoning_tokens, .. }: Ending) -> Vec<Event> {
        let cut = end.reason == StopReason::Length;
        self.response.status = if cut { Status::Incomplete } else { Status::Completed };
        self.response.incomplete_details = cut.then_some(IncompleteDetails { reason: "max_output_tokens" });
        self.response.completed_at = (!cut).then(now);
        self.response.usage = Some(Usage {
            input_tokens: self.input_tokens,
            input_tokens_details: InputTokens { cached_tokens: self.cached_tokens, cache_write_tokens: 0 },
            output_tokens: end.generated_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens },
            total_tokens: self.input_tokens + end.generated_tokens,
        });
        let response = self.response.clone();
        let event = if cut { EventKind::Incomplete { response } } else { EventKind::Completed { response } };
        self.numbered([event])
    }

    fn fail(&mut self, error: ServiceError) -> Vec<Event> {
        let refusal = Refusal::from(error);
        let code = match refusal.code() {
            Some("rate_limit_exceeded") => "rate_limit_exceeded",
            _ => "server_error",
        };
        self.response.status = Status::Failed;
        self.response.error = Some(Failure { code, message: refusal.message() });
        let response = self.response.clone();
        self.numbered([EventKind::Failed { response }])
    }
}

fn now() -> u64 {
    seconds(SystemTime::now())
}

/// As OpenAI's look.
fn id(prefix: &str) -> String {
    format!("{prefix}_{}", random::digits())
}
