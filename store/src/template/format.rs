//! Values as text: JSON as Go writes it, and `printf`.

use serde_json::Value as Json;

use super::value::Value;
use super::{MAX_OUTPUT_BYTES, TemplateError};
use crate::manifest::go_json;

/// Widest field that is filled up.
const MAX_WIDTH: usize = 1_000;

pub(super) fn go_json_text(json: &Json) -> String {
    let mut text = String::from_utf8(go_json(json)).unwrap_or_default();
    text.pop();
    text
}

/// Go's `Sprintf` for `%s %v %q %d %x %f %t %%` with `-`, `0`, a width and a precision.
pub(super) fn printf(format: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (text, directive) = rest.split_at(at);
        out += text;
        let body = directive.get(1..).unwrap_or_default();
        let spec = body.find(|c: char| !matches!(c, '-' | '+' | '#' | ' ' | '.') && !c.is_ascii_digit());
        let Some((spec, verb, after)) = spec.and_then(|end| {
            let verb = body.get(end..)?.chars().next()?;
            Some((body.get(..end)?, verb, body.get(end + verb.len_utf8()..)?))
        }) else {
            out += "%!(NOVERB)";
            return Ok(Value::text(&out));
        };
        rest = after;
        if verb == '%' {
            out.push('%');
        } else if let Some(argument) = arguments.next() {
            out += &Spec::read(spec).format(verb, argument);
        } else {
            out += &format!("%!{verb}(MISSING)");
        }
        if out.len() > MAX_OUTPUT_BYTES {
            return Err(TemplateError::TooMuchOutput);
        }
    }
    out += rest;
    Ok(Value::text(&out))
}

struct Spec {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn read(text: &str) -> Self {
        let number = |text: &str| text.parse::<usize>().unwrap_or(0).min(MAX_WIDTH);
        let (flags, precision) = match text.split_once('.') {
            Some((flags, precision)) => (flags, Some(number(precision))),
            None => (text, None),
        };
        let width = flags.trim_start_matches(['-', '+', '#', ' ', '0']);
        let flags = flags.strip_suffix(width).unwrap_or_default();
        Self { left: flags.contains('-'), zeros: flags.contains('0'), width: number(width), precision }
    }

    fn format(&self, verb: char, value: &Value) -> String {
        let cut = |text: String| match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text,
        };
        let text = match (verb, value) {
            ('s' | 'v', Value::Float(_)) | ('v', _) => value.print(),
            ('s', _) => cut(value.print()),
            ('q', _) => Json::from(cut(value.print())).to_string(),
            ('d', Value::Int(number)) => number.to_string(),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('t', Value::Bool(flag)) => flag.to_string(),
            ('f', Value::Float(number)) => format!("{number:.*}", self.precision.unwrap_or(6)),
            (verb, value) => format!("%!{verb}({})", value.print()),
        };
        let missing = self.width.saturating_sub(text.chars().count());
        match (self.left, self.zeros) {
            (true, _) => text + &" ".repeat(missing),
            (false, true) => "0".repeat(missing) + &text,
            (false, false) => " ".repeat(missing) + &text,
        }
    }
}
