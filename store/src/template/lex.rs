//! Text and actions into tokens. White space beside trim markers is dropped here.

use super::TemplateError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Text between actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// A word: a keyword or a function.
    Word(String),
    /// `.` alone.
    Dot,
    /// `.name`
    Field(String),
    /// `$` or `$name`, with the sign.
    Variable(String),
    Quoted(String),
    Int(i64),
    Float(f64),
    Pipe,
    LeftParen,
    RightParen,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub token: Token,
    pub line: usize,
    /// Whether white space stands before it.
    pub spaced: bool,
}

pub(super) fn lex(text: &str) -> Result<Vec<Placed>, TemplateError> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new() };
    let mut trim = false;
    loop {
        let (plain, action) = match lexer.rest.find("{{") {
            Some(at) => lexer.rest.split_at(at),
            None => (lexer.rest, ""),
        };
        let trims = action.strip_prefix("{{-").is_some_and(|rest| rest.starts_with(char::is_whitespace));
        let mut kept = if trim { plain.trim_start() } else { plain };
        if trims {
            kept = kept.trim_end();
        }
        if !kept.is_empty() {
            lexer.push(Token::Text(kept.to_owned()), false);
        }
        lexer.skip(plain.len());
        if action.is_empty() {
            return Ok(lexer.tokens);
        }
        lexer.skip(if trims { 3 } else { 2 });
        trim = lexer.action()?;
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Placed>,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, token: Token, spaced: bool) {
        self.tokens.push(Placed { token, line: self.line, spaced });
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn error(&self, message: impl Into<String>) -> TemplateError {
        TemplateError::Syntax { line: self.line, message: message.into() }
    }

    /// What follows `{{`, up to and with `}}`; whether that trims the text after it.
    fn action(&mut self) -> Result<bool, TemplateError> {
        let blank = self.rest.len() - self.rest.trim_start().len();
        if self.rest.trim_start().starts_with("/*") {
            return self.comment(blank);
        }
        self.push(Token::Open, false);
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.skip(blank);
            if let Some(trims) = self.end(blank > 0) {
                self.push(Token::Close, false);
                return Ok(trims);
            }
            let token = self.token()?;
            self.push(token, blank > 0);
        }
    }

    /// Takes `}}` or `-}}`, if that comes next.
    fn end(&mut self, spaced: bool) -> Option<bool> {
        let trims = self.rest.starts_with("-}}") && spaced;
        let found = trims || self.rest.starts_with("}}");
        found.then(|| {
            self.skip(if trims { 3 } else { 2 });
            trims
        })
    }

    fn comment(&mut self, blank: usize) -> Result<bool, TemplateError> {
        self.skip(blank + "/*".len());
        let end = self.rest.find("*/").ok_or_else(|| self.error("unclosed comment"))?;
        self.skip(end + "*/".len());
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.skip(blank);
        self.end(blank > 0).ok_or_else(|| self.error("comment ends before closing delimiter"))
    }

    fn token(&mut self) -> Result<Token, TemplateError> {
        let first = self.rest.chars().next().ok_or_else(|| self.error("unclosed action"))?;
        let second = self.rest.chars().nth(1).unwrap_or(' ');
        let one = |token| Ok((token, 1));
        let (token, bytes) = match first {
            '|' => one(Token::Pipe),
            '(' => one(Token::LeftParen),
            ')' => one(Token::RightParen),
            ',' => one(Token::Comma),
            '=' => one(Token::Assign),
            ':' if second == '=' => Ok((Token::Declare, 2)),
            '"' => return self.quoted(),
            '`' => return self.raw(),
            '\'' => return self.character(),
            '.' if is_letter(second) => {
                self.skip(1);
                return Ok(Token::Field(self.name().to_owned()));
            }
            '.' if !second.is_ascii_digit() => one(Token::Dot),
            '$' => {
                self.skip(1);
                return Ok(Token::Variable(format!("${}", self.name())));
            }
            c if is_letter(c) => return Ok(Token::Word(self.name().to_owned())),
            c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => return self.number(),
            c => Err(self.error(format!("unexpected {c:?} in an action"))),
        }?;
        self.skip(bytes);
        Ok(token)
    }

    /// Letters, digits and `_`.
    fn name(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| !is_letter(c) && !c.is_numeric()).unwrap_or(self.rest.len());
        self.skip(end)
    }

    fn number(&mut self) -> Result<Token, TemplateError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        let text = self.skip(end);
        let digits = text.trim_start_matches(['+', '-']);
        let integer = match digits.strip_prefix("0x") {
            Some(hex) => {
                i64::from_str_radix(hex, 16).ok().map(|n| if text.starts_with('-') { -n } else { n })
            }
            None => text.parse().ok(),
        };
        match (integer, text.parse::<f64>()) {
            (Some(integer), _) => Ok(Token::Int(integer)),
            (None, Ok(float)) if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                Ok(Token::Float(float))
            }
            _ => Err(self.error(format!("bad number {text:?}"))),
        }
    }

    /// `"…"` with Go's escapes.
    fn quoted(&mut self) -> Result<Token, TemplateError> {
        self.skip(1);
        let mut text = String::new();
        loop {
            match self.next_char()? {
                '"' => return Ok(Token::Quoted(text)),
                '\n' => return Err(self.error("unterminated quoted string")),
                '\\' => text.push(self.escape()?),
                c => text.push(c),
            }
        }
    }

    fn raw(&mut self) -> Result<Token, TemplateError> {
        self.skip(1);
        let end = self.rest.find('`').ok_or_else(|| self.error("unterminated raw quoted string"))?;
        let text = self.skip(end).to_owned();
        self.skip(1);
        Ok(Token::Quoted(text))
    }

    fn character(&mut self) -> Result<Token, TemplateError> {
        self.skip(1);
        let c = match self.next_char()? {
            '\\' => self.escape()?,
            c => c,
        };
        match self.next_char()? {
            '\'' => Ok(Token::Int(i64::from(u32::from(c)))),
            _ => Err(self.error("unterminated character constant")),
        }
    }

    fn next_char(&mut self) -> Result<char, TemplateError> {
        let c = self.rest.chars().next().ok_or_else(|| self.error("unclosed action"))?;
        self.skip(c.len_utf8());
        Ok(c)
    }

    fn escape(&mut self) -> Result<char, TemplateError> {
        let c = self.next_char()?;
        let digits = match c {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'a' => return Ok('\x07'),
            'b' => return Ok('\x08'),
            'f' => return Ok('\x0c'),
            'v' => return Ok('\x0b'),
            '\\' | '"' | '\'' => return Ok(c),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error(format!("unknown escape \\{c}"))),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let c = code.and_then(char::from_u32).ok_or_else(|| self.error("bad escape"))?;
        self.skip(digits);
        Ok(c)
    }
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}
