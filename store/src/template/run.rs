//! Carries a tree out.

use super::functions::Function;
use super::parse::{Base, Branch, Command, Node, Operand, Pipeline};
use super::value::Value;
use super::{MAX_OUTPUT_BYTES, MAX_STEPS, TemplateError};

/// Bytes that are read or copied in the time of a step.
const BYTES_A_STEP: usize = 64;

/// What the runs of one rendering have taken so far.
#[derive(Default)]
pub(super) struct Budget {
    steps: usize,
    /// Bytes of all texts that functions made.
    made: usize,
}

impl Budget {
    fn spend(&mut self, steps: usize) -> Result<(), TemplateError> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(TemplateError::TooManySteps) } else { Ok(()) }
    }

    /// For what takes the longer the more bytes it reads or copies.
    fn spend_bytes(&mut self, bytes: usize) -> Result<(), TemplateError> {
        self.spend(bytes / BYTES_A_STEP)
    }
}

pub(super) fn run(nodes: &[Node], data: Value, budget: &mut Budget) -> Result<String, TemplateError> {
    let variables = vec![("$".to_owned(), data.clone())];
    let mut run = Run { variables, out: String::new(), budget };
    run.nodes(nodes, &data)?;
    Ok(run.out)
}

/// Whether a loop goes on as usual.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'b> {
    /// Innermost last.
    variables: Vec<(String, Value)>,
    out: String,
    budget: &'b mut Budget,
}

impl Run<'_> {
    fn step(&mut self) -> Result<(), TemplateError> {
        self.budget.spend(1)
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > MAX_OUTPUT_BYTES {
            return Err(TemplateError::TooMuchOutput);
        }
        self.out += text;
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.write(&value.print())?;
                    }
                    Flow::On
                }
                Node::If(branch) => self.scoped(|run| {
                    let value = run.pipeline(&branch.pipeline, dot)?;
                    run.nodes(if value.is_true() { &branch.then } else { &branch.otherwise }, dot)
                })?,
                Node::With(branch) => self.scoped(|run| {
                    let value = run.pipeline(&branch.pipeline, dot)?;
                    match value.is_true() {
                        true => run.nodes(&branch.then, &value),
                        false => run.nodes(&branch.otherwise, dot),
                    }
                })?,
                Node::Range(branch) => self.scoped(|run| run.range(branch, dot))?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Forgets variables that `body` declares.
    fn scoped<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let outside = self.variables.len();
        let result = body(self);
        self.variables.truncate(outside);
        result
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, TemplateError> {
        let visited = self.commands(&branch.pipeline, dot)?;
        let mut pairs = visited.pairs()?.peekable();
        if pairs.peek().is_none() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, value) in pairs {
            self.budget.spend_bytes(key.text_len())?;
            self.step()?;
            let flow = self.scoped(|run| {
                let bound = match &branch.pipeline.variables[..] {
                    [one] => vec![(one, value.clone())],
                    [index, element] => vec![(index, key), (element, value.clone())],
                    _ => Vec::new(),
                };
                for (name, value) in bound {
                    run.bind(name, value, branch.pipeline.declares)?;
                }
                run.nodes(&branch.then, &value)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, declares: bool) -> Result<(), TemplateError> {
        if declares {
            self.budget.spend_bytes(name.len())?;
            self.variables.push((name.to_owned(), value));
        } else if let Some((_, variable)) = self.variable(name)? {
            *variable = value;
        }
        Ok(())
    }

    /// The innermost variable of this name; the parser has seen to it that there is one.
    fn variable(&mut self, name: &str) -> Result<Option<&mut (String, Value)>, TemplateError> {
        let found = self.variables.iter().rposition(|(known, _)| known == name);
        let looked_at = self.variables.len() - found.unwrap_or(0);
        self.budget.spend_bytes(looked_at.saturating_mul(size_of::<String>() + name.len()))?;
        Ok(found.and_then(|at| self.variables.get_mut(at)))
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.declares)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Nil))
    }

    fn command(
        &mut self,
        command: &Command,
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        self.step()?;
        match &command.operand {
            Operand { base: Base::Function(function), fields } if fields.is_empty() => {
                self.call(*function, &command.arguments, last, dot)
            }
            operand => self.operand(operand, dot),
        }
    }

    fn call(
        &mut self,
        function: Function,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let mut arguments = Vec::new();
        for operand in operands {
            let value = self.operand(operand, dot)?;
            let decided = match function {
                Function::And => !value.is_true(),
                Function::Or => value.is_true(),
                _ => false,
            };
            arguments.push(value);
            if decided {
                return self.apply(function, &arguments);
            }
        }
        arguments.extend(last);
        self.apply(function, &arguments)
    }

    fn apply(&mut self, function: Function, arguments: &[Value]) -> Result<Value, TemplateError> {
        self.budget.spend_bytes(function.reads(arguments))?;
        let value = function.call(arguments)?;
        let hands_on = matches!(function, Function::And | Function::Or | Function::Index);
        let made = if hands_on { 0 } else { value.text_len() };
        self.budget.made = self.budget.made.saturating_add(made);
        if self.budget.made > MAX_OUTPUT_BYTES { Err(TemplateError::TooMuchOutput) } else { Ok(value) }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        self.step()?;
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Nil => Value::Nil,
            Base::Bool(flag) => Value::Bool(*flag),
            Base::Int(number) => Value::Int(*number),
            Base::Float(number) => Value::Float(*number),
            Base::Text(text) => {
                self.budget.spend_bytes(text.len())?;
                Value::text(text)
            }
            Base::Variable(name) => self.variable(name)?.map_or(Value::Nil, |(_, value)| value.clone()),
            Base::Function(function) => self.call(*function, &[], None, dot)?,
            Base::Pipeline(inner) => self.pipeline(inner, dot)?,
        };
        operand.fields.iter().try_fold(base, |value, field| match field.as_str() {
            "ToTypeScriptType" => self.apply(Function::ToTypeScriptType, &[value]),
            field => {
                self.budget.spend_bytes(field.len())?;
                value.field(field)
            }
        })
    }
}
