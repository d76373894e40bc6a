//! Tool calls: how each family of models writes them, what constrains them, and how they are read back.
//!
//! A [`Format`] is recognised by its chat template. It says which texts begin a call, what grammar follows them, and how
//! the text that came is taken apart again ([`Reader`]).

mod asked;
mod command_r;
mod deepseek;
mod firefunction;
mod functionary;
mod granite;
mod hermes;
mod json;
mod llama;
mod mistral;
mod phi;
mod pythonic;
mod reader;
mod reasoning;
mod tagged;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use serde_json::{Value, json};
use weirgate_grammar::{GrammarSpec, Plan, Rule, Stage, Trigger};

use crate::service::ChatTemplate;

pub(crate) use asked::{Asked, Choice};
pub(crate) use reader::{Piece, Reader};
pub(crate) use reasoning::{Reasoning, Thinking};

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// JSON Schema of its arguments, an object.
    pub parameters: Value,
    /// Whether the schema is enforced in full or refused.
    pub strict: bool,
}

/// One way for calls to begin.
pub(crate) struct Start {
    pub trigger: Trigger,
    /// All that follows.
    pub after: Rule,
}

/// How a family of models writes its calls.
pub(crate) trait Format: Debug + Sync {
    fn name(&self) -> &'static str;

    /// Whether a model with this chat template writes so.
    fn fits(&self, template: &str) -> bool;

    /// The ways for calls to begin; the first one is the usual one.
    ///
    /// # Errors
    /// What of the tools cannot be written in this form.
    fn starts(&self, tools: &[Tool], parallel: bool) -> Result<Vec<Start>, String>;

    /// Reads what follows the trigger number `start` of [`Format::starts`].
    fn parser(&self, tools: &[Tool], start: usize) -> Box<dyn CallParser>;

    /// What precedes a text that is no call, and is not to be shown.
    fn preamble(&self) -> Option<&'static str> {
        None
    }

    fn ids(&self) -> Ids {
        Ids::OpenAi
    }

    /// Whether tools reach the template as a field of the system message.
    fn tools_in_system_message(&self) -> bool {
        false
    }
}

/// Takes calls apart as their text comes.
pub(crate) trait CallParser: Send {
    fn push(&mut self, text: &str, out: &mut Vec<CallPart>);
}

/// A part of a call, in order: a name, then arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallPart {
    Name(String),
    /// A piece of the JSON text of the arguments.
    Arguments(String),
}

/// What a call's id looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    OpenAi,
    /// Nine letters or digits; Mistral's templates refuse others.
    Mistral,
}

/// The formats, the more telling ones first.
const FORMATS: [&dyn Format; 12] = [
    &functionary::V3_2,
    &functionary::V3_1,
    &firefunction::FORMAT,
    &command_r::R7B,
    &command_r::PLUS,
    &deepseek::FORMAT,
    &mistral::NAMED,
    &mistral::LIST,
    &phi::FORMAT,
    &granite::FORMAT,
    &hermes::FORMAT,
    &pythonic::FORMAT,
];

/// How the models behind a chat template write calls.
pub(crate) fn recognise(template: &str) -> &'static dyn Format {
    let known = FORMATS.into_iter().chain([&llama::FORMAT as &dyn Format]);
    known.into_iter().find(|format| format.fits(template)).unwrap_or(&json::FORMAT)
}

/// What a model's chat templates tell about the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelForms {
    pub format: &'static dyn Format,
    pub reasoning: Option<Reasoning>,
    /// The template shows tools by itself.
    pub template_has_tools: bool,
    /// As a field of the system message.
    pub tools_in_system_message: bool,
    /// The template knows the role `developer`.
    pub template_has_developers: bool,
}

impl ModelForms {
    /// By the template that is used, and, as to reasoning, by that of the checkpoint, which may be another one: it is the
    /// weights that reason.
    pub fn of(template: &ChatTemplate, checkpoints: &str) -> Self {
        let text = template.text();
        let format = recognise(text);
        // A Go template says by its fields what a Jinja template says by its words.
        let asks = |field: &str| template.asks_for(field);
        let reasons = asks("Thinking") || asks("Think");
        Self {
            format,
            reasoning: Reasoning::recognise(text)
                .or(reasons.then_some(Reasoning::USUAL))
                .or_else(|| Reasoning::recognise(checkpoints)),
            template_has_tools: asks("Tools") || text.contains("tools"),
            tools_in_system_message: format.tools_in_system_message() && !asks("Tools"),
            template_has_developers: text.contains("developer"),
        }
    }
}

/// A request's tools.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    pub format: &'static dyn Format,
    pub tools: Vec<Tool>,
    /// Calls must be made; else the model is free until it begins one.
    pub required: bool,
    pub parallel: bool,
    /// What the text must be where nothing is called.
    pub content: Option<Rule>,
}

impl Calls {
    /// Everything that is written around names and arguments; special tokens among it are not to be lost.
    pub fn marks(&self) -> Vec<String> {
        let starts = self.format.starts(&self.tools, self.parallel).unwrap_or_default();
        let texts = |start: Start| {
            let after: Vec<String> = start.after.texts().map(str::to_owned).collect();
            std::iter::once(start.trigger.text).chain(after)
        };
        starts.into_iter().flat_map(texts).collect()
    }

    /// The stages of a generation.
    ///
    /// # Errors
    /// What of the tools cannot be written in the model's form.
    pub fn plan(&self, thinking: &Thinking) -> Result<Plan, String> {
        let starts = self.format.starts(&self.tools, self.parallel)?;
        if self.required {
            return Ok(thinking.before(GrammarSpec::Rule(whole(starts))));
        }
        if let Some(content) = &self.content {
            let either = Rule::AnyOf(vec![whole(starts), content.clone()]);
            return Ok(thinking.before(GrammarSpec::Rule(either)));
        }
        // The free stage comes last but for the calls themselves.
        let free = thinking.stages();
        let triggers =
            starts.iter().enumerate().map(|(n, start)| (start.trigger.clone(), free + 1 + n)).collect();
        let mut plan = thinking.before_free(triggers);
        plan.extend(starts.into_iter().map(|start| Stage::Constrained(GrammarSpec::Rule(start.after))));
        Ok(plan)
    }
}

/// Calls and nothing else: in the ways that begin a text, else in the usual one.
fn whole(starts: Vec<Start>) -> Rule {
    let (mut first, other): (Vec<Start>, Vec<Start>) =
        starts.into_iter().partition(|start| start.trigger.at_start);
    if first.is_empty() {
        first.extend(other.into_iter().take(1));
    }
    let rule = |start: Start| Rule::Sequence(vec![Rule::Text(start.trigger.text), start.after]);
    Rule::AnyOf(first.into_iter().map(rule).collect())
}

/// Closes objects that do not say whether they take other properties: a call names the parameters that are declared.
pub(crate) fn closed(schema: &Value) -> Value {
    const OPEN_ENDED: [&str; 8] = [
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
        "if",
    ];
    let mut schema = schema.clone();
    let Some(entries) = schema.as_object_mut() else { return schema };
    for key in ["properties", "$defs", "definitions"] {
        if let Some(Value::Object(parts)) = entries.get_mut(key) {
            parts.values_mut().for_each(|part| *part = closed(part));
        }
    }
    if let Some(items) = entries.get_mut("items") {
        *items = closed(items);
    }
    if entries.contains_key("properties") && !OPEN_ENDED.iter().any(|key| entries.contains_key(*key)) {
        entries.insert("additionalProperties".into(), json!(false));
    }
    schema
}
