//! The functions that templates may call.

use std::time::{SystemTime, UNIX_EPOCH};

use super::format::{go_json_text, printf};
use super::value::Value;
use super::{MAX_OUTPUT_BYTES, TemplateError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Json,
    CurrentDate,
    YesterdayDate,
    ToTypeScriptType,
}

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

impl Function {
    pub fn named(name: &str) -> Option<Self> {
        use Function::*;
        Some(match name {
            "and" => And,
            "or" => Or,
            "not" => Not,
            "eq" => Eq,
            "ne" => Ne,
            "lt" => Lt,
            "le" => Le,
            "gt" => Gt,
            "ge" => Ge,
            "len" => Len,
            "index" => Index,
            "slice" => Slice,
            "print" => Print,
            "printf" => Printf,
            "println" => Println,
            "json" => Json,
            "currentDate" => CurrentDate,
            "yesterdayDate" => YesterdayDate,
            "toTypeScriptType" => ToTypeScriptType,
            _ => return None,
        })
    }

    /// The bytes of its arguments that a call reads.
    pub fn reads(self, arguments: &[Value]) -> usize {
        match self {
            Function::Print
            | Function::Printf
            | Function::Println
            | Function::Json
            | Function::ToTypeScriptType => arguments.iter().map(Value::size).sum(),
            Function::Eq
            | Function::Ne
            | Function::Lt
            | Function::Le
            | Function::Gt
            | Function::Ge
            | Function::Slice => arguments.iter().map(Value::text_len).sum(),
            Function::And
            | Function::Or
            | Function::Not
            | Function::Len
            | Function::Index
            | Function::CurrentDate
            | Function::YesterdayDate => 0,
        }
    }

    /// The result for `arguments`. `and` and `or` get only those they look at.
    pub fn call(self, arguments: &[Value]) -> Result<Value, TemplateError> {
        let wrong =
            || TemplateError::Failed(format!("wrong number of arguments for {self:?}: {}", arguments.len()));
        let first = arguments.first().ok_or_else(wrong);
        match self {
            Function::And | Function::Or => arguments.last().cloned().ok_or_else(wrong),
            Function::Not => Ok(Value::Bool(!first?.is_true())),
            Function::Eq if arguments.len() > 1 => Ok(Value::Bool(
                arguments.iter().skip(1).any(|other| arguments.first().is_some_and(|a| a.equals(other))),
            )),
            Function::Ne | Function::Lt | Function::Le | Function::Gt | Function::Ge => match arguments {
                [a, b] => self.compare(a, b),
                _ => Err(wrong()),
            },
            Function::Eq => Err(wrong()),
            Function::Len => Ok(Value::Int(first?.len()? as i64)),
            Function::Index => {
                arguments.iter().skip(1).try_fold(first?.clone(), |value, index| value.element(index))
            }
            Function::Slice => slice(first?, arguments.get(1..).unwrap_or_default()),
            Function::Print => joined(arguments, false),
            Function::Println => joined(arguments, true),
            Function::Printf => match first? {
                Value::Text(format) => printf(format, arguments.get(1..).unwrap_or_default()),
                other => Err(TemplateError::Failed(format!("printf of {}", other.kind()))),
            },
            Function::Json => Ok(Value::text(&go_json_text(&first?.to_json()))),
            Function::CurrentDate => Ok(Value::text(&date(now()))),
            Function::YesterdayDate => Ok(Value::text(&date(now().saturating_sub(SECONDS_A_DAY)))),
            Function::ToTypeScriptType => Ok(Value::text(&type_script(first?)?)),
        }
    }

    fn compare(self, a: &Value, b: &Value) -> Result<Value, TemplateError> {
        if self == Function::Ne {
            return Ok(Value::Bool(!a.equals(b)));
        }
        let order = a.compare(b).ok_or_else(|| {
            TemplateError::Failed(format!("incompatible types for comparison: {} and {}", a.kind(), b.kind()))
        })?;
        Ok(Value::Bool(match self {
            Function::Lt => order.is_lt(),
            Function::Le => order.is_le(),
            Function::Gt => order.is_gt(),
            _ => order.is_ge(),
        }))
    }
}

/// `slice x from to`; each of them may be left out.
fn slice(value: &Value, indexes: &[Value]) -> Result<Value, TemplateError> {
    let len = value.len()?;
    let at = |position: usize, default: usize| match indexes.get(position) {
        None => Ok(default),
        Some(Value::Int(at)) => usize::try_from(*at)
            .ok()
            .filter(|at| *at <= len)
            .ok_or_else(|| TemplateError::Failed(format!("slice: index out of range: {at}"))),
        Some(other) => Err(TemplateError::Failed(format!("slice: index is {}", other.kind()))),
    };
    let (from, to) = (at(0, 0)?, at(1, len)?);
    if from > to {
        return Err(TemplateError::Failed(format!("slice: invalid index: {from} > {to}")));
    }
    match value {
        Value::List(items, begin, _) => Ok(Value::List(items.clone(), begin + from, begin + to)),
        Value::Text(text) => match text.get(from..to) {
            Some(part) => Ok(Value::text(part)),
            None => Err(TemplateError::Failed("slice: cuts a character in two".to_owned())),
        },
        other => Err(TemplateError::Failed(format!("can't slice {}", other.kind()))),
    }
}

/// Go's Sprint puts blanks between operands of which neither is a string; Sprintln between all.
fn joined(arguments: &[Value], line: bool) -> Result<Value, TemplateError> {
    let mut text = String::new();
    let mut after_text = true;
    for (index, argument) in arguments.iter().enumerate() {
        let is_text = matches!(argument, Value::Text(_));
        if index > 0 && (line || !(is_text || after_text)) {
            text.push(' ');
        }
        text += &argument.print();
        after_text = is_text;
        if text.len() > MAX_OUTPUT_BYTES {
            return Err(TemplateError::TooMuchOutput);
        }
    }
    if line {
        text.push('\n');
    }
    Ok(Value::text(&text))
}

/// A JSON schema's type in TypeScript's words.
fn type_script(property: &Value) -> Result<String, TemplateError> {
    let any_of = property.field("anyOf")?;
    if !any_of.items().is_empty() {
        let types: Result<Vec<String>, _> = any_of.items().iter().take(100).map(type_script).collect();
        return Ok(types?.join(" | "));
    }
    let kind = property.field("type")?;
    let word = |kind: &Value| match &*kind.print() {
        "string" => "string",
        "number" | "integer" => "number",
        "boolean" => "boolean",
        "array" => "any[]",
        "object" => "Record<string, any>",
        "null" => "null",
        _ => "any",
    };
    let words: Vec<&str> = kind.items().iter().map(word).collect();
    Ok(if words.is_empty() { word(&kind).to_owned() } else { words.join(" | ") })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The day of a Unix time, as `2026-11-21`, in UTC. After H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(seconds: u64) -> String {
    let days = seconds / SECONDS_A_DAY + 719_468;
    let era_day = days % 146_097;
    let year_of_era = (era_day - era_day / 1_460 + era_day / 36_524 - era_day / 146_096) / 365;
    let day_of_year = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + days / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::date;

    /// Against `date -u -d @SECONDS +%F`.
    #[test]
    fn days() {
        let cases = [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_798_761_599, "2026-12-31"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (seconds, day) in cases {
            assert_eq!(date(seconds), day);
        }
    }
}
