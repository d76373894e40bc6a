//! Jinja, set up as transformers sets it up.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::json::{Style, python_float, to_json};
use super::methods::python_method;
use super::strftime::strftime;

/// Jinja's own name for a template given as a string; it appears in error messages.
pub(super) const TEMPLATE_NAME: &str = "<string>";
/// Instructions one rendering may take. A conversation of 1,000 messages takes about 100,000.
const FUEL: u64 = 5_000_000;
/// Bytes of a template.
const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// The function that `{% generation %}` calls.
const GENERATION: &str = "_generation";

/// Compiles one template. The error is Jinja's message.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, String> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(format!("the template has {} bytes; the limit is {MAX_TEMPLATE_BYTES}", source.len()));
    }
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| error.to_string())?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python_method);
    environment.set_formatter(write_value);
    environment.add_filter("tojson", tojson);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function(GENERATION, generation);
    let source = with_generation_calls(&source.replace("\r\n", "\n").replace('\r', "\n"));
    environment.add_template_owned(TEMPLATE_NAME, source).map_err(|error| error.to_string())?;
    Ok(environment)
}

/// JSON to template values; objects keep their order.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        serde_json::Value::Object(map) => Value::from_pairs(
            map.iter().map(|(key, value)| (key.clone(), from_json(value))).collect::<Vec<_>>(),
        ),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), _, _) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (_, _, n) => Value::from(n.unwrap_or(f64::NAN)),
        },
    }
}

/// `{% generation %}` marks the assistant's text for training. To transformers it is a call block, so what is set in it
/// is not seen after it; here it becomes one, with the same whitespace control.
fn with_generation_calls(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else { return out + tag };
        let (tag, after) = tag.split_at(end + 2);
        match tag.trim_matches(|c: char| "{}%-+".contains(c) || c.is_whitespace()) {
            "generation" => out.push_str(&tag.replace("generation", &format!("call {GENERATION}()"))),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endcall")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

fn generation(state: &mut State, kwargs: Kwargs) -> Result<Value, Error> {
    kwargs.get::<Value>("caller")?.call(state, &[])
}

/// What `{{ value }}` prints.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        let text = python_float(f64::try_from(value.clone())?);
        return fmt::Write::write_str(out, &text).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

/// Jinja's test asks for a length and items, which strings and objects have, too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::SyntaxError, message))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(&chrono::Local::now(), format)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "strftime_now: the format is not valid"))
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional.get(at) {
            Some(value) => Some(value.clone()),
            None => kwargs.get(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let mut style = Style::new(argument(1, "indent")?.map(|indent| indentation(&indent)).transpose()?);
    style.ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    style.sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    if let Some(pair) = argument(2, "separators")? {
        style.item_separator = separator(&pair, 0)?;
        style.key_separator = separator(&pair, 1)?;
    }
    kwargs.assert_all_used()?;
    to_json(value, &style)
}

/// A number of spaces (none below zero), or the text itself.
fn indentation(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let spaces = i64::try_from(value.clone())?;
    Ok(" ".repeat(usize::try_from(spaces).unwrap_or(0)))
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let value = pair.get_item_by_index(index)?;
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"))
}
