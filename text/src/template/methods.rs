//! Methods of Python's `str`, `list` and `dict`: those minijinja's own compatibility layer lacks or has otherwise, then
//! that layer.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// `value.name(args...)`.
pub(super) fn python_method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (_, Some(text)) => string_method(text, name, args)?,
        (ValueKind::Seq | ValueKind::Iterable, _) => list_method(value, name, args)?,
        (ValueKind::Map, _) if name == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "split" => split(text, args, Side::Left)?,
        "rsplit" => split(text, args, Side::Right)?,
        "partition" => partition(text, args, Side::Left)?,
        "rpartition" => partition(text, args, Side::Right)?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let before = at.and_then(|at| text.get(..at)).ok_or_else(|| invalid("substring not found"))?;
            before.chars().count().into()
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Value::from_iter(split_lines(text, keep.unwrap_or(false)).into_iter().map(Value::from))
        }
        "ljust" | "rjust" | "center" => justify(text, name, args)?,
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            format!("{sign}{}{digits}", "0".repeat(missing(text, width))).into()
        }
        "title" => {
            let () = from_args(args)?;
            title(text).into()
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            text.chars().map(swap).collect::<String>().into()
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(list.clone()))
        }
        "index" => {
            let (item,): (&Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|other| other == *item);
            at.map(|at| Some(at.into())).ok_or_else(|| invalid("the item is not in the list"))
        }
        _ => Ok(None),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// `split(sep=None, maxsplit=-1)`, and `rsplit`.
fn split(text: &str, args: &[Value], side: Side) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(given) => Some(given),
        None => kwargs.get::<Option<Value>>("sep")?,
    };
    let limit = match limit {
        Some(given) => Some(given),
        None => kwargs.get::<Option<i64>>("maxsplit")?,
    };
    kwargs.assert_all_used()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX - 1);
    let separator = separator.filter(|value| !value.is_none());
    let parts = match separator {
        None => split_blanks(text, limit, side),
        Some(value) => {
            let separator = value.as_str().filter(|separator| !separator.is_empty());
            let separator =
                separator.ok_or_else(|| invalid("split: the separator must be a string, not empty"))?;
            match side {
                Side::Left => text.splitn(limit + 1, separator).map(Value::from).collect(),
                Side::Right => {
                    let mut parts: Vec<Value> = text.rsplitn(limit + 1, separator).map(Value::from).collect();
                    parts.reverse();
                    parts
                }
            }
        }
    };
    Ok(Value::from(parts))
}

/// Words, and after `limit` splits the rest as it is, but for the blanks at the cut.
fn split_blanks(text: &str, limit: usize, side: Side) -> Vec<Value> {
    let trim = |text| if side == Side::Left { str::trim_start(text) } else { str::trim_end(text) };
    let mut parts = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let cut = match side {
            _ if parts.len() == limit => None,
            Side::Left => rest.split_once(char::is_whitespace),
            Side::Right => rest.rsplit_once(char::is_whitespace).map(|(before, word)| (word, before)),
        };
        let (word, left) = cut.unwrap_or((rest, ""));
        parts.push(Value::from(word));
        rest = trim(left);
    }
    if side == Side::Right {
        parts.reverse();
    }
    parts
}

fn partition(text: &str, args: &[Value], side: Side) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("partition: empty separator"));
    }
    let found = if side == Side::Left { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match (found, side) {
        (Some((before, after)), _) => [before, separator, after],
        (None, Side::Left) => [text, "", ""],
        (None, Side::Right) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// Python's line boundaries, of which `\r\n` is one.
pub(super) fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    let boundary = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((line, tail)) = rest.split_once(boundary) {
        let end = rest.len() - tail.len();
        let crlf = tail.strip_prefix('\n').filter(|_| rest.get(line.len()..end) == Some("\r"));
        let tail = crlf.unwrap_or(tail);
        let whole = rest.get(..rest.len() - tail.len()).unwrap_or(line);
        lines.push(if keep { whole } else { line });
        rest = tail;
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Every first letter after what is no letter in capitals, the others small.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            out.extend(c.to_lowercase());
        } else {
            let mut capital = c.to_uppercase();
            out.extend(capital.next());
            out.extend(capital.flat_map(char::to_lowercase));
        }
        within = c.is_alphabetic();
    }
    out
}

/// `ljust`, `rjust` and `center`: `(width, fill=' ')`.
fn justify(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid("the fill must be one character"));
    }
    let missing = missing(text, width);
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // An odd blank goes left where the width is odd, as in CPython.
        _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)).into())
}

/// Characters that `text` lacks to be `width` long.
fn missing(text: &str, width: i64) -> usize {
    usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count())
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
