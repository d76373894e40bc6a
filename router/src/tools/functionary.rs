//! Functionary: in 3.1 a tag with the name around the arguments; in 3.2 every text is addressed to a recipient, which
//! the prompt's end already asks for.

use weirgate_grammar::{Rule, Trigger};

use super::tagged::{JsonEnd, Opening, Tagged};
use super::{CallParser, CallPart, Format, Ids, Start, Tool, closed};

pub(super) static V3_1: Tagged = Tagged {
    name: "functionary-3.1",
    signs: &[&["<function="]],
    not: &["<parameter="],
    starts: &[Opening { trigger: "<function=", at_start: false, lead: "" }],
    head: "",
    mid: ">",
    tail: "</function>",
    between: Some("<function="),
    close: "",
    ids: Ids::OpenAi,
    tools_in_system_message: false,
};

pub(super) static V3_2: Recipients = Recipients;

/// What precedes a recipient, but for the first one.
const MARK: &str = ">>>";

#[derive(Debug)]
pub(super) struct Recipients;

impl Format for Recipients {
    fn name(&self) -> &'static str {
        "functionary-3.2"
    }

    fn fits(&self, template: &str) -> bool {
        template.contains(">>>${recipient}")
    }

    fn starts(&self, tools: &[Tool], parallel: bool) -> Result<Vec<Start>, String> {
        let arguments = |tool: &Tool| Rule::Schema(closed(&tool.parameters).to_string());
        let named =
            |tool: &Tool| Rule::Sequence(vec![Rule::Text(format!("{MARK}{}\n", tool.name)), arguments(tool)]);
        let more = Rule::Many(Box::new(Rule::AnyOf(tools.iter().map(named).collect())));
        let start = |tool: &Tool, at_start: bool| {
            let mark = if at_start { "" } else { MARK };
            let mut after = vec![arguments(tool)];
            after.extend(parallel.then(|| more.clone()));
            let trigger = Trigger { text: format!("{mark}{}\n", tool.name), at_start };
            Start { trigger, after: Rule::Sequence(after) }
        };
        Ok(tools.iter().flat_map(|tool| [start(tool, true), start(tool, false)]).collect())
    }

    fn parser(&self, tools: &[Tool], start: usize) -> Box<dyn CallParser> {
        let name = tools.get(start / 2).map_or(String::new(), |tool| tool.name.clone());
        Box::new(RecipientParser {
            name: Some(name),
            in_arguments: false,
            end: JsonEnd::default(),
            buffer: String::new(),
        })
    }

    fn preamble(&self) -> Option<&'static str> {
        Some("all\n")
    }
}

struct RecipientParser {
    /// Of the call that begins.
    name: Option<String>,
    in_arguments: bool,
    end: JsonEnd,
    buffer: String,
}

impl CallParser for RecipientParser {
    fn push(&mut self, text: &str, out: &mut Vec<CallPart>) {
        self.buffer.push_str(text);
        while self.step(out) {}
    }
}

impl RecipientParser {
    /// Takes what it can; false when more text is needed.
    fn step(&mut self, out: &mut Vec<CallPart>) -> bool {
        if let Some(name) = self.name.take() {
            out.push(CallPart::Name(name));
            self.in_arguments = true;
        }
        if self.in_arguments {
            if self.buffer.is_empty() {
                return false;
            }
            let found = self.end.find(&self.buffer);
            let rest = found.map_or_else(String::new, |bytes| self.buffer.split_off(bytes));
            out.push(CallPart::Arguments(std::mem::replace(&mut self.buffer, rest)));
            self.in_arguments = found.is_none();
            return !self.in_arguments;
        }
        let next = self.buffer.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
        let Some((name, rest)) = next else { return false };
        self.name = Some(name.to_owned());
        self.buffer = rest.to_owned();
        self.end = JsonEnd::default();
        true
    }
}
