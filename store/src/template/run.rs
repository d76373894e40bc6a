//! Carries a tree out.

use super::functions::Function;
use super::parse::{Base, Branch, Command, Node, Operand, Pipeline};
use super::value::Value;
use super::{MAX_OUTPUT_BYTES, MAX_STEPS, TemplateError};

pub(super) fn run(nodes: &[Node], data: Value) -> Result<String, TemplateError> {
    let variables = vec![("$".to_owned(), data.clone())];
    let mut run = Run { variables, out: String::new(), steps: 0, made: 0 };
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

struct Run {
    /// Innermost last.
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
    /// Bytes of all texts that functions made.
    made: usize,
}

impl Run {
    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(TemplateError::TooManySteps) } else { Ok(()) }
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
        let pairs = self.commands(&branch.pipeline, dot)?.pairs()?;
        if pairs.is_empty() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, value) in pairs {
            self.step()?;
            let flow = self.scoped(|run| {
                let bound = match &branch.pipeline.variables[..] {
                    [one] => vec![(one, value.clone())],
                    [index, element] => vec![(index, key), (element, value.clone())],
                    _ => Vec::new(),
                };
                for (name, value) in bound {
                    run.bind(name, value, branch.pipeline.declares);
                }
                run.nodes(&branch.then, &value)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, declares: bool) {
        match self.variables.iter_mut().rev().find(|(known, _)| known == name && !declares) {
            Some((_, variable)) => *variable = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.declares);
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
                return function.call(&arguments);
            }
        }
        arguments.extend(last);
        let value = function.call(&arguments)?;
        if let Value::Text(text) = &value {
            self.made += text.len();
            if self.made > MAX_OUTPUT_BYTES {
                return Err(TemplateError::TooMuchOutput);
            }
        }
        Ok(value)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        self.step()?;
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Nil => Value::Nil,
            Base::Bool(flag) => Value::Bool(*flag),
            Base::Int(number) => Value::Int(*number),
            Base::Float(number) => Value::Float(*number),
            Base::Text(text) => Value::text(text),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map(|(_, value)| value.clone()).unwrap_or(Value::Nil)
            }
            Base::Function(function) => self.call(*function, &[], None, dot)?,
            Base::Pipeline(inner) => self.pipeline(inner, dot)?,
        };
        operand.fields.iter().try_fold(base, |value, field| match field.as_str() {
            "ToTypeScriptType" => Function::ToTypeScriptType.call(&[value]),
            field => value.field(field),
        })
    }
}
