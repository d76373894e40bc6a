//! Whether a given value satisfies a schema: what `enum` and `const` leave is decided so, whatever stands beside them.

use serde_json::{Map, Value, json};

use super::document::{Draft, Place};
use super::format::{Format, format};
use super::shape::{Atom, Node, Source};
use super::{MAX_DEPTH, Normalizer};
use crate::GrammarError;

/// Lists of at least so many values are looked up by their texts.
const LONG_LIST: usize = 16;

impl<'a> Normalizer<'a> {
    pub(super) fn holds_all(&mut self, value: &Value, node: &Node<'a>) -> Result<bool, GrammarError> {
        for &atom in node {
            if !self.holds(value, atom)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds(&mut self, value: &Value, atom: Atom<'a>) -> Result<bool, GrammarError> {
        let positive = match atom.source {
            Source::Never => false,
            Source::Value(expected) => same(value, expected.0),
            Source::Schema(place) => self.valid(value, place)?,
        };
        Ok(positive != atom.negated)
    }

    fn valid(&mut self, value: &Value, place: Place<'a>) -> Result<bool, GrammarError> {
        let entries = match place.value {
            Value::Bool(holds) => return Ok(*holds),
            Value::Object(entries) => entries,
            _ => return Err(GrammarError::Json("a schema is an object or a boolean".into())),
        };
        self.spend(1)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(GrammarError::limit("depth of references", self.depth, MAX_DEPTH));
        }
        let alone = self.document.draft(place) == Draft::Seven && entries.contains_key("$ref");
        for (key, keyword) in entries {
            let counts = !alone || key == "$ref";
            if counts && !self.keyword_holds(value, place, entries, (key, keyword))? {
                self.depth -= 1;
                return Ok(false);
            }
        }
        self.depth -= 1;
        Ok(true)
    }

    fn keyword_holds(
        &mut self,
        value: &Value,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        (key, keyword): (&str, &'a Value),
    ) -> Result<bool, GrammarError> {
        let sub = |this: &Self, schema: &'a Value| this.document.enter(schema, place.resource);
        Ok(match key {
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let target = self.target(place, key, keyword)?;
                self.valid(value, target)?
            }
            "const" => same(value, keyword),
            "enum" => {
                let values = self.list(place, key, keyword)?;
                self.is_listed(value, values)
            }
            "allOf" | "anyOf" | "oneOf" => {
                let mut count = 0;
                let all = self.list(place, key, keyword)?;
                for schema in all {
                    count += usize::from(self.valid(value, sub(self, schema))?);
                }
                match key {
                    "allOf" => count == all.len(),
                    "anyOf" => count > 0,
                    _ => count == 1,
                }
            }
            "not" => !self.valid(value, sub(self, keyword))?,
            "if" => {
                let branch = if self.valid(value, sub(self, keyword))? { "then" } else { "else" };
                match entries.get(branch) {
                    Some(schema) => self.valid(value, sub(self, schema))?,
                    None => true,
                }
            }
            "type" => {
                let nullable = entries.get("nullable") == Some(&Value::Bool(true)) && value.is_null();
                let names: Vec<&Value> =
                    keyword.as_array().map_or(vec![keyword], |names| names.iter().collect());
                nullable || names.iter().any(|name| is_of(value, name))
            }
            _ => match value {
                Value::Number(number) => number_holds(number.as_f64().unwrap_or(0.0), entries, key, keyword)
                    .ok_or_else(|| self.document.refuse(place.value, key, "it is not a number"))?,
                Value::String(text) => self.text_holds(text, place, key, keyword)?,
                Value::Array(items) => self.array_holds(items, place, entries, (key, keyword))?,
                Value::Object(object) => self.object_holds(object, place, entries, (key, keyword))?,
                Value::Null | Value::Bool(_) => true,
            },
        })
    }

    fn is_listed(&mut self, value: &Value, values: &'a [Value]) -> bool {
        if values.len() < LONG_LIST {
            return values.iter().any(|one| same(value, one));
        }
        let list = self.lists.entry(values.as_ptr() as usize);
        let list = list.or_insert_with(|| values.iter().map(|value| canonical(value).to_string()).collect());
        list.contains(&canonical(value).to_string())
    }

    fn text_holds(
        &mut self,
        text: &str,
        place: Place<'a>,
        key: &str,
        keyword: &'a Value,
    ) -> Result<bool, GrammarError> {
        let length = text.chars().count() as u64;
        Ok(match key {
            "minLength" => length >= self.count(place, key, keyword)?,
            "maxLength" => length <= self.count(place, key, keyword)?,
            "pattern" => {
                let pattern = self.pattern(place, key, keyword.as_str().unwrap_or_default())?;
                self.matches(&pattern, text)?
            }
            "format" => match format(keyword.as_str().unwrap_or_default()) {
                Format::Pattern(pattern) => self.matches(&pattern, text)?,
                Format::Unknown => true,
                Format::Library(_) | Format::Unsupported => {
                    return Err(self.document.refuse(
                        place.value,
                        key,
                        "beside given values it is not decided",
                    ));
                }
            },
            _ => true,
        })
    }

    fn array_holds(
        &mut self,
        items: &[Value],
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        (key, keyword): (&str, &'a Value),
    ) -> Result<bool, GrammarError> {
        let old = keyword.is_array() || self.document.draft(place) < Draft::Draft2020;
        let prefix = if old { "items" } else { "prefixItems" };
        let prefix = entries.get(prefix).and_then(Value::as_array).map_or(0, Vec::len);
        match key {
            "minItems" => Ok(items.len() as u64 >= self.count(place, key, keyword)?),
            "maxItems" => Ok(items.len() as u64 <= self.count(place, key, keyword)?),
            "uniqueItems" => Ok(*keyword != Value::Bool(true)
                || items
                    .iter()
                    .enumerate()
                    .all(|(at, item)| items.iter().skip(at + 1).all(|other| !same(item, other)))),
            "prefixItems" | "items" if keyword.is_array() => {
                for (item, schema) in items.iter().zip(self.list(place, key, keyword)?) {
                    if !self.valid(item, self.document.enter(schema, place.resource))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "additionalItems" if !entries.get("items").is_some_and(Value::is_array) => Ok(true),
            "items" | "additionalItems" => {
                let skipped = if key == "additionalItems" {
                    entries.get("items").and_then(Value::as_array).map_or(0, Vec::len)
                } else {
                    prefix
                };
                for item in items.iter().skip(skipped) {
                    if !self.valid(item, self.document.enter(keyword, place.resource))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "contains" => {
                let mut count = 0;
                for item in items {
                    count += u64::from(self.valid(item, self.document.enter(keyword, place.resource))?);
                }
                let bound = |name| entries.get(name).and_then(Value::as_f64);
                Ok(count as f64 >= bound("minContains").unwrap_or(1.0)
                    && bound("maxContains").is_none_or(|max| count as f64 <= max))
            }
            "unevaluatedItems" => {
                Err(self.document.refuse(place.value, key, "beside given values it is not decided"))
            }
            _ => Ok(true),
        }
    }

    fn object_holds(
        &mut self,
        object: &Map<String, Value>,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        (key, keyword): (&str, &'a Value),
    ) -> Result<bool, GrammarError> {
        match key {
            "required" => Ok(self
                .list(place, key, keyword)?
                .iter()
                .all(|name| name.as_str().is_some_and(|name| object.contains_key(name)))),
            "minProperties" => Ok(object.len() as u64 >= self.count(place, key, keyword)?),
            "maxProperties" => Ok(object.len() as u64 <= self.count(place, key, keyword)?),
            "properties" | "patternProperties" | "additionalProperties" => {
                self.members_hold(object, place, entries, key)
            }
            "propertyNames" => {
                for name in object.keys() {
                    let name = Value::String(name.clone());
                    if !self.valid(&name, self.document.enter(keyword, place.resource))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "dependencies" | "dependentRequired" | "dependentSchemas" => {
                let Some(dependencies) = keyword.as_object() else { return Ok(true) };
                for (name, dependency) in dependencies.iter().filter(|(name, _)| object.contains_key(*name)) {
                    let holds = match dependency {
                        Value::Array(names) => names
                            .iter()
                            .all(|other| other.as_str().is_some_and(|other| object.contains_key(other))),
                        Value::String(other) => object.contains_key(other),
                        schema => self.valid(
                            &Value::Object(object.clone()),
                            self.document.enter(schema, place.resource),
                        )?,
                    };
                    if !holds {
                        let _ = name;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "unevaluatedProperties" => {
                Err(self.document.refuse(place.value, key, "beside given values it is not decided"))
            }
            _ => Ok(true),
        }
    }

    /// `properties`, `patternProperties` and `additionalProperties`, of which `key` is the one asked for.
    fn members_hold(
        &mut self,
        object: &Map<String, Value>,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        key: &str,
    ) -> Result<bool, GrammarError> {
        for (name, value) in object {
            let mut schemas = Vec::new();
            schemas.extend(
                entries.get("properties").and_then(|named| named.get(name)).map(|one| ("properties", one)),
            );
            for (pattern, schema) in
                entries.get("patternProperties").and_then(Value::as_object).into_iter().flatten()
            {
                let pattern = self.pattern(place, "patternProperties", pattern)?;
                if self.matches(&pattern, name)? {
                    schemas.push(("patternProperties", schema));
                }
            }
            if schemas.is_empty() {
                schemas.extend(entries.get("additionalProperties").map(|one| ("additionalProperties", one)));
            }
            for (_, schema) in schemas.into_iter().filter(|(of, _)| *of == key) {
                if !self.valid(value, self.document.enter(schema, place.resource))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

/// None if the keyword's value is not a number.
pub(super) fn number_holds(
    value: f64,
    entries: &Map<String, Value>,
    key: &str,
    keyword: &Value,
) -> Option<bool> {
    let exclusive = |name: &str| entries.get(name) == Some(&Value::Bool(true));
    Some(match key {
        "minimum" if exclusive("exclusiveMinimum") => value > keyword.as_f64()?,
        "maximum" if exclusive("exclusiveMaximum") => value < keyword.as_f64()?,
        "minimum" => value >= keyword.as_f64()?,
        "maximum" => value <= keyword.as_f64()?,
        "exclusiveMinimum" if !keyword.is_boolean() => value > keyword.as_f64()?,
        "exclusiveMaximum" if !keyword.is_boolean() => value < keyword.as_f64()?,
        "multipleOf" => {
            let ratio = value / keyword.as_f64()?;
            (ratio - ratio.round()).abs() < 1e-9 * ratio.abs().max(1.0)
        }
        _ => true,
    })
}

/// Equal for values that are the same, and for no others.
fn canonical(value: &Value) -> Value {
    match value {
        // Adding zero takes the sign from zero.
        Value::Number(number) => json!(number.as_f64().map(|number| number + 0.0)),
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect()
        }
        other => other.clone(),
    }
}

/// Equality of JSON values: 1 and 1.0 are one number, objects have no order.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}
