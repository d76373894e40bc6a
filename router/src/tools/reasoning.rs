//! Models that reason before they answer.

use serde_json::{Map, Value, json};
use weirgate_grammar::{GrammarSpec, Plan, Stage, Trigger};

/// The marks of a model's reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reasoning {
    pub open: &'static str,
    pub close: &'static str,
}

const KNOWN: [Reasoning; 2] =
    [Reasoning::USUAL, Reasoning { open: "<|START_THINKING|>", close: "<|END_THINKING|>" }];

impl Reasoning {
    /// Of most models.
    pub const USUAL: Self = Self { open: "<think>", close: "</think>" };

    /// The marks that a chat template names.
    pub fn recognise(template: &str) -> Option<Self> {
        KNOWN.into_iter().find(|marks| template.contains(marks.close))
    }

    /// What tells a chat template whether, and how hard, to reason: the names that Qwen's, Granite's and DeepSeek's
    /// templates read, and gpt-oss's.
    pub fn wish(on: bool, level: Option<&str>) -> Map<String, Value> {
        let names = ["enable_thinking", "thinking"].map(|name| (name.to_owned(), json!(on)));
        let level = level.map(|level| ("reasoning_effort".to_owned(), json!(level)));
        names.into_iter().chain(level).collect()
    }

    /// What a prompt leaves to the generation.
    pub fn after(self, prompt: &str) -> Thinking {
        let prompt = prompt.trim_end();
        if prompt.ends_with(self.open) {
            Thinking::Begun(self)
        } else if prompt.ends_with(self.close) {
            Thinking::None
        } else {
            Thinking::Possible(self)
        }
    }
}

/// Whether a generation begins with reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    None,
    /// The prompt opened it.
    Begun(Reasoning),
    /// The model may open it.
    Possible(Reasoning),
}

fn until(text: &str, at_start: bool, next: usize) -> (Trigger, usize) {
    (Trigger { text: text.to_owned(), at_start }, next)
}

impl Thinking {
    /// A plan in which the grammar begins when the reasoning is over, and the reasoning is not the end.
    pub fn before(&self, spec: GrammarSpec) -> Plan {
        let end = Stage::Constrained(spec);
        match self {
            Self::None => vec![end],
            Self::Begun(marks) => {
                vec![Stage::Free { triggers: vec![until(marks.close, false, 1)], may_end: false }, end]
            }
            Self::Possible(marks) => vec![
                Stage::Optional { mark: marks.open.to_owned(), taken: 1, otherwise: 2 },
                Stage::Free { triggers: vec![until(marks.close, false, 2)], may_end: false },
                end,
            ],
        }
    }

    /// Number of the free stage of [`Thinking::before_free`].
    pub fn stages(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Begun(_) => 1,
            Self::Possible(_) => 2,
        }
    }

    /// A plan of free text with these triggers, none of which counts within the reasoning.
    pub fn before_free(&self, triggers: Vec<(Trigger, usize)>) -> Plan {
        let thinking = |close, next| Stage::Free { triggers: vec![until(close, false, next)], may_end: true };
        let free = Stage::Free { triggers: triggers.clone(), may_end: true };
        match self {
            Self::None => vec![free],
            Self::Begun(marks) => vec![thinking(marks.close, 1), free],
            Self::Possible(marks) => {
                let mut first = vec![until(marks.open, true, 1)];
                first.extend(triggers);
                vec![Stage::Free { triggers: first, may_end: true }, thinking(marks.close, 2), free]
            }
        }
    }
}
