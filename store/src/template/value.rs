use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Number, Value as Json};

use super::TemplateError;
use super::format::go_json_text;

/// What templates compute with. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// Elements from and to the positions given.
    List(Rc<[Value]>, usize, usize),
    Map(Rc<Fields>),
}

/// An object: its keys in their order, and by name.
#[derive(Debug)]
pub(super) struct Fields {
    order: Vec<String>,
    values: BTreeMap<String, Value>,
}

impl Value {
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Value::Nil,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Value::Int(integer),
                None => Value::Float(number.as_f64().unwrap_or(0.0)),
            },
            Json::String(text) => Value::text(text),
            Json::Array(items) => Value::list(items.iter().map(Value::from_json).collect()),
            Json::Object(object) => Value::Map(Rc::new(Fields {
                order: object.keys().cloned().collect(),
                values: object.iter().map(|(key, value)| (key.clone(), Value::from_json(value))).collect(),
            })),
        }
    }

    pub fn to_json(&self) -> Json {
        match self {
            Value::Nil => Json::Null,
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Int(number) => Json::from(*number),
            Value::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::from(&**text),
            Value::List(..) => Json::Array(self.items().iter().map(Value::to_json).collect()),
            Value::Map(fields) => {
                let pair = |key: &String| Some((key.clone(), fields.values.get(key)?.to_json()));
                Json::Object(fields.order.iter().filter_map(pair).collect::<Map<_, _>>())
            }
        }
    }

    pub fn text(text: &str) -> Self {
        Value::Text(text.into())
    }

    pub fn list(items: Vec<Value>) -> Self {
        let end = items.len();
        Value::List(items.into(), 0, end)
    }

    /// The elements of a list; none of anything else.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items, begin, end) => items.get(*begin..*end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// As Go prints it; lists and objects as JSON.
    pub fn print(&self) -> String {
        match self {
            Value::Nil => String::new(),
            Value::Bool(flag) => flag.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
            Value::List(..) | Value::Map(_) => go_json_text(&self.to_json()),
        }
    }

    /// The bytes of a text; none of anything else.
    pub fn text_len(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            _ => 0,
        }
    }

    /// The bytes of the value with all that is in it, about.
    pub fn size(&self) -> usize {
        let inner: usize = match self {
            Value::List(..) => self.items().iter().map(Value::size).sum(),
            Value::Map(fields) => fields.values.iter().map(|(key, value)| key.len() + value.size()).sum(),
            Value::Text(text) => text.len(),
            Value::Nil | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        };
        size_of::<Value>() + inner
    }

    /// What `if` makes of it.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(..) => !self.items().is_empty(),
            Value::Map(fields) => !fields.order.is_empty(),
        }
    }

    /// The field of an object; nothing where it is missing.
    pub fn field(&self, name: &str) -> Result<Value, TemplateError> {
        match self {
            Value::Nil => Ok(Value::Nil),
            Value::Map(fields) => {
                let value = fields.values.get(name).or_else(|| fields.values.get(&snake_case(name)));
                Ok(value.cloned().unwrap_or(Value::Nil))
            }
            _ => Err(TemplateError::Failed(format!("can't evaluate field {name} in {}", self.kind()))),
        }
    }

    /// Keys and values as `range` visits them, one after the other: a list in its order, an object by its keys.
    pub fn pairs(&self) -> Result<Box<dyn Iterator<Item = (Value, Value)> + '_>, TemplateError> {
        Ok(match self {
            Value::Nil => Box::new(std::iter::empty()),
            Value::List(..) => {
                let items = self.items().iter().enumerate();
                Box::new(items.map(|(i, item)| (Value::Int(i as i64), item.clone())))
            }
            Value::Map(fields) => {
                Box::new(fields.values.iter().map(|(key, value)| (Value::text(key), value.clone())))
            }
            _ => return Err(TemplateError::Failed(format!("range can't iterate over {}", self.kind()))),
        })
    }

    /// The element at `index`, by position or key.
    pub fn element(&self, index: &Value) -> Result<Value, TemplateError> {
        match (self, index) {
            (Value::Map(fields), Value::Text(key)) => {
                Ok(fields.values.get(&**key).cloned().unwrap_or(Value::Nil))
            }
            (Value::List(..), Value::Int(at)) => {
                let item = usize::try_from(*at).ok().and_then(|at| self.items().get(at));
                item.cloned().ok_or_else(|| TemplateError::Failed(format!("index out of range: {at}")))
            }
            (Value::Text(text), Value::Int(at)) => {
                let byte = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
                byte.map(|byte| Value::Int(i64::from(*byte)))
                    .ok_or_else(|| TemplateError::Failed(format!("index out of range: {at}")))
            }
            _ => Err(TemplateError::Failed(format!("can't index {} with {}", self.kind(), index.kind()))),
        }
    }

    pub fn len(&self) -> Result<usize, TemplateError> {
        match self {
            Value::Nil => Ok(0),
            Value::Text(text) => Ok(text.len()),
            Value::List(..) => Ok(self.items().len()),
            Value::Map(fields) => Ok(fields.order.len()),
            _ => Err(TemplateError::Failed(format!("len of {}", self.kind()))),
        }
    }

    /// Order of two values; `None` where they have none.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
            (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Text(_) => "a string",
            Value::List(..) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// `ToolCallID` → `tool_call_id`.
fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| chars.get(at));
        let begins_word = before.is_some_and(|before| before.is_lowercase())
            || (before.is_some() && chars.get(at + 1).is_some_and(|after| after.is_lowercase()));
        if c.is_uppercase() && begins_word {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn go_names_in_snake_case() {
        for (go, snake) in [
            ("Role", "role"),
            ("ToolCalls", "tool_calls"),
            ("ToolCallID", "tool_call_id"),
            ("ID", "id"),
            ("IsThinkSet", "is_think_set"),
            ("", ""),
        ] {
            assert_eq!(snake_case(go), snake);
        }
    }
}
