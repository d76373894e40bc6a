//! Jinja, set up as transformers sets it up.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::filters::add_filters;
use super::json::{Style, indentation, python_float, to_json};
use super::methods::python_method;
use super::source::{GENERATION, ITERABLE, adapt};
use super::strftime::strftime;

/// Jinja's own name for a template given as a string; it appears in error messages.
pub(super) const TEMPLATE_NAME: &str = "<string>";
/// Instructions one rendering may take. A conversation of 1,000 messages takes about 100,000.
const FUEL: u64 = 5_000_000;
/// Bytes of a template.
const MAX_TEMPLATE_BYTES: usize = 256 * 1024;

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
    environment.add_filter(ITERABLE, iterable);
    add_filters(&mut environment);
    environment.add_template_owned(TEMPLATE_NAME, adapt(source)).map_err(|error| error.to_string())?;
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

fn generation(state: &mut State, kwargs: Kwargs) -> Result<Value, Error> {
    kwargs.get::<Value>("caller")?.call(state, &[])
}

fn iterable(value: Value) -> Result<Value, Error> {
    match value.is_none() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable")),
        false => Ok(value),
    }
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

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let value = pair.get_item_by_index(index)?;
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"))
}
