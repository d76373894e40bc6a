//! Tokens into a tree.

use super::functions::Function;
use super::lex::{Placed, Token, lex};
use super::{MAX_DEPTH, MAX_VARIABLES, TemplateError};

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub pipeline: Pipeline,
    pub then: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipeline {
    /// Variables that get the result: one, or index and element of a range.
    pub variables: Vec<String>,
    /// Whether they are new.
    pub declares: bool,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(super) struct Command {
    pub operand: Operand,
    pub arguments: Vec<Operand>,
}

/// Something with a value, and the fields taken from it.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub base: Base,
    pub fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Base {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Variable(String),
    Function(Function),
    Pipeline(Box<Pipeline>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens: &tokens, variables: vec!["$".to_owned()], depth: 0, loops: 0 };
    let (nodes, end) = parser.list()?;
    match end {
        Stop::Text => Ok(nodes),
        _ => Err(parser.error("unexpected {{end}} or {{else}}")),
    }
}

/// What a list of nodes ended with.
enum Stop {
    Text,
    End,
    Else,
    /// `else if` or `else with`, which stands before its pipeline.
    ElseBranch(&'static str),
}

struct Parser<'a> {
    tokens: &'a [Placed],
    /// Those that can be named here.
    variables: Vec<String>,
    depth: usize,
    loops: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, message: impl Into<String>) -> TemplateError {
        let line = self.tokens.first().map_or(0, |placed| placed.line);
        TemplateError::Syntax { line, message: message.into() }
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.first().map(|placed| &placed.token)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(&first.token)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        if found {
            self.next();
        }
        found
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        if self.take(&Token::Close) { Ok(()) } else { Err(self.error("unexpected token in an action")) }
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        if self.depth == MAX_DEPTH {
            return Err(TemplateError::TooDeep);
        }
        self.depth += 1;
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    /// Nodes up to an `end`, an `else`, or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => return Ok((nodes, Stop::Text)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text.clone())),
                Some(_) => match self.peek() {
                    Some(Token::Word(word)) if word == "end" => {
                        self.next();
                        self.close()?;
                        return Ok((nodes, Stop::End));
                    }
                    Some(Token::Word(word)) if word == "else" => {
                        self.next();
                        let branch = ["if", "with"]
                            .into_iter()
                            .find(|word| self.take(&Token::Word((*word).to_owned())));
                        if let Some(branch) = branch {
                            return Ok((nodes, Stop::ElseBranch(branch)));
                        }
                        self.close()?;
                        return Ok((nodes, Stop::Else));
                    }
                    _ => nodes.push(self.action()?),
                },
            }
        }
    }

    fn action(&mut self) -> Result<Node, TemplateError> {
        let keyword = match self.peek() {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        match keyword {
            "if" | "with" | "range" => {
                self.next();
                self.deeper(|parser| parser.branch(keyword))
            }
            "break" | "continue" => {
                self.next();
                if self.loops == 0 {
                    return Err(self.error(format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                self.close()?;
                Ok(if keyword == "break" { Node::Break } else { Node::Continue })
            }
            "define" | "template" | "block" => Err(self.error(format!("{{{{{keyword}}}}} is not supported"))),
            _ => {
                let pipeline = self.pipeline(false)?;
                self.close()?;
                Ok(Node::Action(pipeline))
            }
        }
    }

    fn branch(&mut self, keyword: &str) -> Result<Node, TemplateError> {
        let outside = self.variables.len();
        let pipeline = self.pipeline(keyword == "range")?;
        self.close()?;
        self.loops += usize::from(keyword == "range");
        let (then, end) = self.list()?;
        self.loops -= usize::from(keyword == "range");
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Text => return Err(self.error("unexpected end of the template: an {{end}} is missing")),
            Stop::ElseBranch(_) if keyword == "range" => {
                return Err(self.error("unexpected else branch of a range"));
            }
            // The `end` that closes the inner branch closes this one too.
            Stop::ElseBranch(inner) => vec![self.deeper(|parser| parser.branch(inner))?],
            Stop::Else => match self.list()? {
                (nodes, Stop::End) => nodes,
                _ => return Err(self.error("expected {{end}} after {{else}}")),
            },
        };
        self.variables.truncate(outside);
        let branch = Branch { pipeline, then, otherwise };
        Ok(match keyword {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// Up to `}}` or `)`, which stay.
    fn pipeline(&mut self, of_range: bool) -> Result<Pipeline, TemplateError> {
        let mut pipeline = self.variables_of(of_range)?;
        loop {
            pipeline.commands.push(self.command(pipeline.commands.is_empty())?);
            if !self.take(&Token::Pipe) {
                break;
            }
        }
        if pipeline.declares {
            self.variables.extend(pipeline.variables.iter().cloned());
            if self.variables.len() > MAX_VARIABLES {
                return Err(TemplateError::TooManyVariables);
            }
        }
        Ok(pipeline)
    }

    /// `$x :=`, `$x =` or `$i, $x :=`.
    fn variables_of(&mut self, of_range: bool) -> Result<Pipeline, TemplateError> {
        let tokens: Vec<&Token> = self.tokens.iter().take(4).map(|placed| &placed.token).collect();
        let (variables, sign) = match tokens[..] {
            [Token::Variable(name), sign @ (Token::Declare | Token::Assign), ..] => {
                (vec![name.clone()], sign)
            }
            [
                Token::Variable(a),
                Token::Comma,
                Token::Variable(b),
                sign @ (Token::Declare | Token::Assign),
            ] if of_range => (vec![a.clone(), b.clone()], sign),
            _ => return Ok(Pipeline::default()),
        };
        let declares = *sign == Token::Declare;
        if let Some(unknown) = variables.iter().find(|name| !declares && !self.variables.contains(name)) {
            return Err(self.error(format!("undefined variable {unknown:?}")));
        }
        self.tokens = self.tokens.get(2 * variables.len()..).unwrap_or_default();
        Ok(Pipeline { variables, declares, commands: Vec::new() })
    }

    fn command(&mut self, first: bool) -> Result<Command, TemplateError> {
        let operand = self.operand()?.ok_or_else(|| self.error("missing value for command"))?;
        let mut arguments = Vec::new();
        while let Some(argument) = self.operand()? {
            arguments.push(argument);
        }
        let is_function = matches!(operand.base, Base::Function(_)) && operand.fields.is_empty();
        if !is_function && (!first || !arguments.is_empty()) {
            return Err(self.error("can't give an argument to what is no function"));
        }
        Ok(Command { operand, arguments })
    }

    /// A value with its fields; `None` where something else comes.
    fn operand(&mut self) -> Result<Option<Operand>, TemplateError> {
        let base = match self.peek() {
            Some(Token::Dot) => Base::Dot,
            Some(Token::Field(name)) => {
                self.next();
                let mut fields = vec![name.clone()];
                self.fields(&mut fields);
                return Ok(Some(Operand { base: Base::Dot, fields }));
            }
            Some(Token::Variable(name)) if self.variables.contains(name) => Base::Variable(name.clone()),
            Some(Token::Variable(name)) => return Err(self.error(format!("undefined variable {name:?}"))),
            Some(Token::Quoted(text)) => Base::Text(text.clone()),
            Some(Token::Int(number)) => Base::Int(*number),
            Some(Token::Float(number)) => Base::Float(*number),
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                "nil" => Base::Nil,
                name => match Function::named(name) {
                    Some(function) => Base::Function(function),
                    None => return Err(self.error(format!("function {name:?} not defined"))),
                },
            },
            Some(Token::LeftParen) => {
                self.next();
                let inner = self.deeper(|parser| parser.pipeline(false))?;
                if self.peek() != Some(&Token::RightParen) {
                    return Err(self.error("unclosed left paren"));
                }
                Base::Pipeline(Box::new(inner))
            }
            _ => return Ok(None),
        };
        self.next();
        let mut fields = Vec::new();
        self.fields(&mut fields);
        Ok(Some(Operand { base, fields }))
    }

    /// `.a.b` right behind a value.
    fn fields(&mut self, fields: &mut Vec<String>) {
        while let Some(Placed { token: Token::Field(name), spaced: false, .. }) = self.tokens.first() {
            fields.push(name.clone());
            self.next();
        }
    }
}

/// Whether field `name` is asked for anywhere.
pub(super) fn mentions(nodes: &[Node], name: &str) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Action(pipeline) => pipeline.mentions(name),
        Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
            branch.pipeline.mentions(name)
                || mentions(&branch.then, name)
                || mentions(&branch.otherwise, name)
        }
    })
}

impl Pipeline {
    pub fn mentions(&self, name: &str) -> bool {
        self.commands.iter().flat_map(|command| [&command.operand].into_iter().chain(&command.arguments)).any(
            |operand| {
                let inner = match &operand.base {
                    Base::Pipeline(inner) => inner.mentions(name),
                    _ => false,
                };
                inner || operand.fields.iter().any(|field| field == name)
            },
        )
    }
}

/// The node that prints field `name`.
pub(super) fn print_field(name: &str) -> Node {
    let operand = Operand { base: Base::Dot, fields: vec![name.to_owned()] };
    Node::Action(Pipeline {
        commands: vec![Command { operand, arguments: Vec::new() }],
        ..Pipeline::default()
    })
}
