//! Llama 3.2 and 4: a message that is a list of Python calls with keyword arguments, `[f(a=1, b="x"), g()]`.

use serde_json::{Map, Value};
use weirgate_grammar::{Rule, Trigger};

use super::{CallParser, CallPart, Format, Start, Tool, closed};

pub(super) static FORMAT: Pythonic = Pythonic;

#[derive(Debug)]
pub(super) struct Pythonic;

/// A call's keyword arguments, in their order.
const MAX_PARAMETERS: usize = 64;

impl Format for Pythonic {
    fn name(&self) -> &'static str {
        "pythonic"
    }

    fn fits(&self, template: &str) -> bool {
        template.contains("[func_name1(")
    }

    fn starts(&self, tools: &[Tool], parallel: bool) -> Result<Vec<Start>, String> {
        let calls: Vec<Rule> = tools.iter().map(call).collect::<Result<_, _>>()?;
        let named = |(tool, call): (&Tool, &Rule)| {
            Rule::Sequence(vec![Rule::Text(format!(", {}(", tool.name)), call.clone()])
        };
        let more = Rule::Many(Box::new(Rule::AnyOf(tools.iter().zip(&calls).map(named).collect())));
        let start = |(tool, call): (&Tool, &Rule)| {
            let mut after = vec![call.clone()];
            after.extend(parallel.then(|| more.clone()));
            after.push(Rule::Text("]".to_owned()));
            let trigger = Trigger { text: format!("[{}(", tool.name), at_start: true };
            Start { trigger, after: Rule::Sequence(after) }
        };
        Ok(tools.iter().zip(&calls).map(start).collect())
    }

    fn parser(&self, tools: &[Tool], start: usize) -> Box<dyn CallParser> {
        let name = tools.get(start).map_or(String::new(), |tool| tool.name.clone());
        Box::new(PythonParser { name: Some(name), first: true, buffer: String::new(), state: State::Key })
    }
}

/// What follows a call's bracket, up to the closing one.
fn call(tool: &Tool) -> Result<Rule, String> {
    let schema = closed(&tool.parameters);
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    if schema.as_object().is_some_and(|entries| entries.keys().any(|key| is_applicator(key))) {
        return Err(format!("tool {:?}: this model's calls take a plain list of parameters", tool.name));
    }
    if properties.len() > MAX_PARAMETERS {
        let given = properties.len();
        return Err(format!("tool {:?} has {given} parameters; the limit is {MAX_PARAMETERS}", tool.name));
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |names| names.iter().filter_map(Value::as_str).collect());
    let parameters: Vec<Parameter> = properties
        .iter()
        .map(|(name, part)| Parameter {
            required: required.contains(&name.as_str()),
            rule: Rule::Sequence(vec![Rule::Text(format!("{name}=")), value(part, &schema)]),
        })
        .collect();
    Ok(Rule::Sequence(vec![arguments(&parameters), Rule::Text(")".to_owned())]))
}

fn is_applicator(key: &str) -> bool {
    matches!(key, "allOf" | "anyOf" | "oneOf" | "$ref" | "if" | "not" | "patternProperties" | "minProperties")
}

struct Parameter {
    required: bool,
    rule: Rule,
}

/// The parameters in their order, with commas between those that come.
fn arguments(parameters: &[Parameter]) -> Rule {
    let comma =
        |parameter: &Parameter| Rule::Sequence(vec![Rule::Text(", ".to_owned()), parameter.rule.clone()]);
    let follows = |parameter: &Parameter| {
        if parameter.required {
            comma(parameter)
        } else {
            Rule::AnyOf(vec![comma(parameter), Rule::Sequence(Vec::new())])
        }
    };
    // Which one comes first decides where the commas are; it cannot be one after the first that is required.
    let last = parameters.iter().position(|parameter| parameter.required);
    let firsts = last.map_or(parameters.len(), |last| last + 1);
    let mut ways: Vec<Rule> = parameters
        .iter()
        .enumerate()
        .take(firsts)
        .map(|(at, first)| {
            let rest = parameters.iter().skip(at + 1).map(follows);
            Rule::Sequence(std::iter::once(first.rule.clone()).chain(rest).collect())
        })
        .collect();
    if last.is_none() {
        ways.push(Rule::Sequence(Vec::new()));
    }
    Rule::AnyOf(ways)
}

/// A value: JSON but for Python's words where the schema says that it is a truth value.
fn value(part: &Value, root: &Value) -> Rule {
    if part.get("type").and_then(Value::as_str) == Some("boolean") {
        return Rule::AnyOf(["True", "False"].map(|word| Rule::Text(word.to_owned())).to_vec());
    }
    let mut part = part.clone();
    if let Some(entries) = part.as_object_mut() {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                entries.insert(key.to_owned(), definitions.clone());
            }
        }
    }
    Rule::Schema(part.to_string())
}

struct PythonParser {
    /// Of the call that begins.
    name: Option<String>,
    /// No argument of the call was read.
    first: bool,
    buffer: String,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Key,
    Value,
    Between,
}

impl CallParser for PythonParser {
    fn push(&mut self, text: &str, out: &mut Vec<CallPart>) {
        self.buffer.push_str(text);
        while self.step(out) {}
    }
}

impl PythonParser {
    /// Takes what it can; false when more text is needed.
    fn step(&mut self, out: &mut Vec<CallPart>) -> bool {
        if let Some(name) = self.name.take() {
            out.push(CallPart::Name(name));
            out.push(CallPart::Arguments("{".to_owned()));
            self.first = true;
            self.state = State::Key;
        }
        match self.state {
            State::Key if self.buffer.starts_with(')') => {
                self.buffer.remove(0);
                out.push(CallPart::Arguments("}".to_owned()));
                self.state = State::Between;
            }
            State::Key => {
                let Some((key, rest)) = self.buffer.split_once('=') else { return false };
                let comma = if std::mem::take(&mut self.first) { "" } else { ", " };
                let key = Value::from(key.trim_start_matches([',', ' ']));
                out.push(CallPart::Arguments(format!("{comma}{key}: ")));
                self.buffer = rest.to_owned();
                self.state = State::Value;
            }
            State::Value => {
                let Some(end) = value_end(&self.buffer) else { return false };
                let rest = self.buffer.split_off(end);
                let value = std::mem::replace(&mut self.buffer, rest);
                out.push(CallPart::Arguments(json_word(value)));
                self.state = State::Key;
            }
            State::Between => {
                let next = self.buffer.strip_prefix(", ").and_then(|rest| rest.split_once('('));
                let Some((name, rest)) = next else { return false };
                self.name = Some(name.to_owned());
                self.buffer = rest.to_owned();
            }
        }
        true
    }
}

fn json_word(value: String) -> String {
    match value.as_str() {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ => value,
    }
}

/// Where a value ends: at the comma or bracket that is not its own.
fn value_end(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b',' | b')' if depth == 0 => return Some(at),
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}
