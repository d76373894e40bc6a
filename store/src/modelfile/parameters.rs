//! Options in the types that Ollama's API gives them.

use serde_json::{Number, Value};
use thiserror::Error;

use crate::entry::Parameters;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterType {
    Integer,
    Float,
    Boolean,
    /// Several texts; a Modelfile repeats the command.
    Strings,
}

impl ParameterType {
    const fn name(self) -> &'static str {
        match self {
            ParameterType::Integer => "integer",
            ParameterType::Float => "float32",
            ParameterType::Boolean => "boolean",
            ParameterType::Strings => "array",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParameterError {
    #[error("unknown parameter '{0}'")]
    Unknown(String),
    #[error("parameter \"{name}\" must be of type {expected}, not {value:?}")]
    Type { name: String, expected: &'static str, value: String },
}

/// The type of an option of Ollama's API; `None` for a name it does not have.
pub fn parameter_type(name: &str) -> Option<ParameterType> {
    Some(match name {
        "num_keep" | "seed" | "num_predict" | "top_k" | "repeat_last_n" | "mirostat" | "num_ctx"
        | "num_batch" | "num_gpu" | "main_gpu" | "num_thread" => ParameterType::Integer,
        "top_p" | "min_p" | "tfs_z" | "typical_p" | "temperature" | "repeat_penalty" | "presence_penalty"
        | "frequency_penalty" | "mirostat_tau" | "mirostat_eta" => ParameterType::Float,
        "penalize_newline" | "low_vram" | "f16_kv" | "logits_all" | "vocab_only" | "use_mmap"
        | "use_mlock" | "numa" => ParameterType::Boolean,
        "stop" => ParameterType::Strings,
        _ => return None,
    })
}

/// Gives the PARAMETER lines of a Modelfile their types. Later ones replace earlier ones; `stop` accumulates.
///
/// # Errors
/// A name that is unknown, or a text that is not of its type.
pub fn read_parameters<'a>(
    lines: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Parameters, ParameterError> {
    let mut parameters = Parameters::new();
    for (name, text) in lines {
        let kind =
            parameter_type(name).ok_or_else(|| ParameterError::Unknown(name.chars().take(100).collect()))?;
        let value = typed(kind, text).ok_or_else(|| ParameterError::Type {
            name: name.to_owned(),
            expected: kind.name(),
            value: text.chars().take(100).collect(),
        })?;
        match (kind, parameters.get_mut(name)) {
            (ParameterType::Strings, Some(Value::Array(known))) => known.push(value),
            (ParameterType::Strings, _) => {
                parameters.insert(name.to_owned(), Value::Array(vec![value]));
            }
            _ => {
                parameters.insert(name.to_owned(), value);
            }
        }
    }
    Ok(parameters)
}

fn typed(kind: ParameterType, text: &str) -> Option<Value> {
    match kind {
        ParameterType::Integer => text.trim().parse::<i64>().ok().map(Value::from),
        ParameterType::Float => go_float(text.trim().parse().ok()?),
        ParameterType::Boolean => match text.trim() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(Value::Bool(false)),
            _ => None,
        },
        ParameterType::Strings => Some(Value::String(text.to_owned())),
    }
}

/// As Go writes a float32: the fewest digits that tell it apart, none after the point where it is whole.
pub(crate) fn go_float(number: f32) -> Option<Value> {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Some(Value::from(number as i64));
    }
    let shortest: f64 = number.to_string().parse().ok()?;
    Number::from_f64(shortest).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_get_their_types() {
        let lines = [
            ("temperature", "0.6"),
            ("top_k", "10"),
            ("stop", "USER:"),
            ("stop", "ASSISTANT:"),
            ("top_p", "0.9"),
            ("top_p", "1.0"),
            ("seed", "-1"),
            ("penalize_newline", "false"),
        ];
        let expected = json!({
            "temperature": 0.6, "top_k": 10, "stop": ["USER:", "ASSISTANT:"], "top_p": 1, "seed": -1,
            "penalize_newline": false,
        });
        assert_eq!(Value::Object(read_parameters(lines).unwrap()), expected);
    }

    #[test]
    fn other_lines_are_refused() {
        let text = |name, value| read_parameters([(name, value)]).unwrap_err().to_string();
        assert_eq!(text("unknown", "1"), "unknown parameter 'unknown'");
        assert_eq!(text("top_k", "1.5"), "parameter \"top_k\" must be of type integer, not \"1.5\"");
        for (name, value) in
            [("temperature", "warm"), ("temperature", "nan"), ("temperature", "inf"), ("numa", "2")]
        {
            assert!(text(name, value).contains(name), "{name} {value}");
        }
    }

    /// The contract's Options schema has these and no other names; `min_p` came later.
    #[test]
    fn the_contracts_options_are_known() {
        let names = "num_keep seed num_predict top_k top_p tfs_z typical_p repeat_last_n temperature repeat_penalty \
                     presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta penalize_newline stop numa \
                     num_ctx num_batch num_gpu main_gpu low_vram f16_kv vocab_only use_mmap use_mlock num_thread \
                     logits_all min_p";
        for name in names.split_whitespace() {
            assert!(parameter_type(name).is_some(), "{name}");
        }
        assert!(parameter_type("stream").is_none());
    }
}
