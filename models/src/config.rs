use serde_json::{Map, Value};

use crate::files::file_error;
use crate::{ModelError, ModelFiles};

/// Largest JSON file parsed.
const MAX_JSON: usize = 32 << 20;

/// A JSON object of a checkpoint, read key by key; every error names the file and the key. A key whose value is
/// `null` counts as absent except where said.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    file: String,
    /// The path of this object inside the file, with a trailing dot; empty at the root.
    path: String,
    map: Map<String, Value>,
}

/// A key's value where absence and `null` mean different things.
pub(crate) enum Setting<T> {
    Absent,
    Null,
    Value(T),
}

impl<T> Setting<T> {
    /// `default` where the key is absent, nothing where it is `null`.
    pub fn or(self, default: T) -> Option<T> {
        match self {
            Setting::Absent => Some(default),
            Setting::Null => None,
            Setting::Value(value) => Some(value),
        }
    }
}

impl Config {
    /// The object in file `name`; `None` if there is no such file.
    pub fn read(files: &ModelFiles, name: &str) -> Result<Option<Self>, ModelError> {
        let Some(bytes) = files.read(name)? else {
            return Ok(None);
        };
        let file = files.label_of(name);
        if bytes.len() > MAX_JSON {
            return Err(file_error(
                file,
                format!("is {} bytes long, at most {MAX_JSON} are accepted", bytes.len()),
            ));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(Some(Self { file, path: String::new(), map })),
            Ok(_) => Err(file_error(file, "is not a JSON object")),
            Err(error) => Err(file_error(file, format!("is not valid JSON: {error}"))),
        }
    }

    pub fn error(&self, key: &str, message: impl Into<String>) -> ModelError {
        ModelError::Config {
            file: self.file.clone(),
            key: format!("{}{key}", self.path),
            message: message.into(),
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    pub fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn mismatch(&self, key: &str, value: &Value, expected: &str) -> ModelError {
        let mut shown = value.to_string();
        if shown.len() > 40 {
            shown = shown.chars().take(40).chain("…".chars()).collect();
        }
        self.error(key, format!("is {shown}, expected {expected}"))
    }

    /// An integer between 1 and `max`.
    pub fn optional_size(&self, key: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=max).contains(&size) => Ok(Some(size)),
            _ => Err(self.mismatch(key, value, &format!("an integer from 1 to {max}"))),
        }
    }

    pub fn size(&self, key: &str, max: usize) -> Result<usize, ModelError> {
        self.optional_size(key, max)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// As [`Config::optional_size`], telling an absent key from `null`.
    pub fn size_setting(&self, key: &str, max: usize) -> Result<Setting<usize>, ModelError> {
        Ok(match (self.optional_size(key, max)?, self.map.contains_key(key)) {
            (Some(size), _) => Setting::Value(size),
            (None, true) => Setting::Null,
            (None, false) => Setting::Absent,
        })
    }

    /// A finite number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        number(value).map(Some).ok_or_else(|| self.mismatch(key, value, "a number"))
    }

    /// A finite number above zero.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.optional_number(key)? {
            Some(number) if number <= 0.0 => {
                Err(self.error(key, format!("is {number}, expected a number above 0")))
            }
            other => Ok(other),
        }
    }

    pub fn positive(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_positive(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// As [`Config::optional_positive`], telling an absent key from `null`.
    pub fn positive_setting(&self, key: &str) -> Result<Setting<f64>, ModelError> {
        Ok(match (self.optional_positive(key)?, self.map.contains_key(key)) {
            (Some(number), _) => Setting::Value(number),
            (None, true) => Setting::Null,
            (None, false) => Setting::Absent,
        })
    }

    /// A list of `len` finite numbers above zero.
    pub fn positives(&self, key: &str, len: usize) -> Result<Vec<f64>, ModelError> {
        let value = self.value(key).ok_or_else(|| self.error(key, "is missing"))?;
        let expected = format!("a list of {len} numbers above 0");
        let Some(list) = value.as_array() else {
            return Err(self.mismatch(key, value, &expected));
        };
        let numbers: Vec<f64> = list.iter().filter_map(number).filter(|number| *number > 0.0).collect();
        if list.len() != len || numbers.len() != len {
            return Err(self.error(key, format!("has {} entries, expected {expected}", list.len())));
        }
        Ok(numbers)
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.mismatch(key, value, "true or false")),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.mismatch(key, value, "a string")),
        }
    }

    pub fn text(&self, key: &str) -> Result<&str, ModelError> {
        self.optional_text(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A list of strings.
    pub fn optional_texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let texts = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        match texts {
            Some(Some(texts)) => Ok(Some(texts)),
            _ => Err(self.mismatch(key, value, "a list of strings")),
        }
    }

    /// A nested object.
    pub fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self {
                file: self.file.clone(),
                path: format!("{}{key}.", self.path),
                map: map.clone(),
            })),
            Some(value) => Err(self.mismatch(key, value, "an object")),
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}
