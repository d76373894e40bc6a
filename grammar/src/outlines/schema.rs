//! JSON Schema to regular expressions by outlines-core.
//!
//! Its conversion ignores the keywords that it does not know, joins `allOf` by concatenation, drops what recurs, and
//! writes the items of an array twice for every level of nesting. So it gets a schema of our own making, with nothing
//! but what it does right, references expanded, and only if the expression will not be too long.

use outlines_core::json_schema::{BOOLEAN, INTEGER, NUMBER, STRING, STRING_INNER, UUID, regex_from_value};
use serde_json::{Map, Value, json};

use crate::lower::parse;
use crate::{GrammarError, Limits};

/// Bytes of the regular expression.
pub(super) const CONVERTED_BYTES: usize = 256 * 1024;
/// Nesting of arrays and objects where a schema leaves a value open.
const OPEN_DEPTH: usize = 2;
/// Digits of a repetition's two counts, with their punctuation.
const COUNTS: usize = 48;
const TYPES: [&str; 7] = ["boolean", "null", "integer", "number", "string", "array", "object"];

/// The keywords that restrict values, by the type that they are about.
const ANY: &[&str] = &[
    "type",
    "enum",
    "const",
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "extends",
    "disallow",
];
const OF_TYPE: [(&str, &[&str]); 4] = [
    ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "divisibleBy"]),
    ("string", &["minLength", "maxLength", "pattern", "format"]),
    (
        "array",
        &[
            "items",
            "prefixItems",
            "additionalItems",
            "unevaluatedItems",
            "contains",
            "minContains",
            "maxContains",
            "minItems",
            "maxItems",
            "uniqueItems",
        ],
    ),
    (
        "object",
        &[
            "properties",
            "patternProperties",
            "additionalProperties",
            "unevaluatedProperties",
            "propertyNames",
            "required",
            "minProperties",
            "maxProperties",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
        ],
    ),
];

/// The regular expression of a schema's texts: compact, properties in the schema's order and no others.
///
/// # Errors
/// [`GrammarError::Keyword`] for what is not enforced, [`GrammarError::Limit`] for what would be too long.
pub(super) fn to_regex(text: &str, limits: &Limits) -> Result<String, GrammarError> {
    convert(text, limits).map(|(regex, _)| regex)
}

/// The regular expression, and what its length was expected to be at most.
pub(super) fn convert(text: &str, limits: &Limits) -> Result<(String, usize), GrammarError> {
    let root = parse(text, limits)?;
    let mut lowering =
        Lowering { root: &root, depth: limits.depth, expanding: vec![String::new()], leaves: 0 };
    let part = lowering.schema(&root, &Place::default())?;
    let regex = regex_from_value(&part.schema, Some(""), None);
    Ok((regex.map_err(|error| GrammarError::Refused(error.to_string()))?, part.bytes))
}

/// A schema for outlines-core, and at least as many bytes as its regular expression will have.
struct Part {
    schema: Value,
    bytes: usize,
}

/// Where in a schema, as a JSON pointer, and how deep with the references expanded.
#[derive(Default)]
struct Place {
    path: String,
    depth: usize,
}

impl Place {
    fn below(&self, key: &str) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        Self { path: format!("{}/{key}", self.path), depth: self.depth + 1 }
    }

    fn refuse(&self, keyword: &str, why: &str) -> GrammarError {
        let message = format!("{why} (grammar backend 'outlines')");
        GrammarError::Keyword { keyword: keyword.to_owned(), path: self.path.clone(), message }
    }
}

struct Lowering<'a> {
    root: &'a Value,
    depth: usize,
    /// References that are being expanded; the first one is the whole schema.
    expanding: Vec<String>,
    /// Bytes of the leaves so far: the expression will have all of them.
    leaves: usize,
}

type Entries = Map<String, Value>;

impl Lowering<'_> {
    fn schema(&mut self, schema: &Value, place: &Place) -> Result<Part, GrammarError> {
        if place.depth > self.depth {
            return Err(GrammarError::limit("nesting depth", place.depth, self.depth));
        }
        let part = match schema {
            Value::Bool(true) => self.open(OPEN_DEPTH + 1, place)?,
            Value::Object(entries) => self.object(entries, place)?,
            Value::Bool(false) => {
                return Err(place.refuse("false", "a value that cannot be is not supported"));
            }
            _ => return Err(GrammarError::Json("a schema is an object or a boolean".into())),
        };
        if part.bytes > CONVERTED_BYTES {
            return Err(too_long(part.bytes));
        }
        Ok(part)
    }

    fn leaf(&mut self, schema: Value, bytes: usize) -> Result<Part, GrammarError> {
        self.leaves = self.leaves.saturating_add(bytes);
        if self.leaves > CONVERTED_BYTES {
            return Err(too_long(self.leaves));
        }
        Ok(Part { schema, bytes })
    }

    fn object(&mut self, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        for keyword in ["$ref", "allOf", "anyOf", "oneOf"] {
            if let Some(value) = entries.get(keyword) {
                only(entries, &[keyword], place)?;
                return match keyword {
                    "$ref" => self.reference(value, place),
                    _ => self.alternatives(keyword, value, place),
                };
            }
        }
        let types = types(entries, place)?;
        if let Some(values) = values(entries, place)? {
            only(entries, &["enum", "const", "type"], place)?;
            return self
                .values(values.iter().filter(|value| types.iter().any(|name| is_a(value, name))), place);
        }
        only(entries, &["type"], place)?;
        let restricted = |name: &&str| OF_TYPE.iter().any(|(of, list)| of == name && has(entries, list));
        // Without a type, the keywords that are there tell it; other types would be valid, too, but are not meant.
        let types = match entries.contains_key("type") {
            true => types,
            false => types.into_iter().filter(|name| restricted(name)).collect(),
        };
        match types.as_slice() {
            [] => self.open(OPEN_DEPTH + 1, place),
            [name] => self.typed(name, entries, place),
            types => {
                let parts = types.iter().map(|name| self.typed(name, entries, place));
                Ok(any_of(parts.collect::<Result<_, _>>()?))
            }
        }
    }

    fn reference(&mut self, value: &Value, place: &Place) -> Result<Part, GrammarError> {
        let pointer = value.as_str().and_then(|text| text.strip_prefix('#'));
        let plain = pointer.filter(|text| !text.contains('%') && (text.is_empty() || text.starts_with('/')));
        let Some(pointer) = plain else { return Err(place.refuse("$ref", "only '#/…' is supported")) };
        if self.expanding.iter().any(|other| other == pointer) {
            return Err(place.refuse("$ref", "recursion is not supported"));
        }
        let root = self.root;
        let Some(target) = root.pointer(pointer) else {
            return Err(place.refuse("$ref", "there is nothing at that place"));
        };
        self.expanding.push(pointer.to_owned());
        let part = self.schema(target, &place.below("$ref"))?;
        self.expanding.pop();
        Ok(part)
    }

    fn alternatives(&mut self, keyword: &str, value: &Value, place: &Place) -> Result<Part, GrammarError> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            return Err(GrammarError::Json(format!("'{keyword}' is a list of schemas")));
        };
        if keyword == "allOf" && list.len() > 1 {
            return Err(place.refuse(keyword, "more than one schema is not supported"));
        }
        if keyword == "oneOf" && !disjoint(list) {
            return Err(place.refuse(keyword, "schemas of the same type are not supported"));
        }
        let within = place.below(keyword);
        let parts =
            list.iter().enumerate().map(|(at, schema)| self.schema(schema, &within.below(&at.to_string())));
        Ok(any_of(parts.collect::<Result<_, _>>()?))
    }

    fn values<'v>(
        &mut self,
        values: impl Iterator<Item = &'v Value>,
        place: &Place,
    ) -> Result<Part, GrammarError> {
        let mut kept = Vec::new();
        let mut bytes = 2;
        for value in values {
            if !plain_keys(value) {
                return Err(
                    place.refuse("enum", "an object's keys may have letters, digits, '_' and '-' only")
                );
            }
            bytes += self.leaf(Value::Null, 2 * value.to_string().len() + 1)?.bytes;
            kept.push(value.clone());
        }
        if kept.is_empty() {
            return Err(GrammarError::Empty);
        }
        Ok(Part { schema: json!({ "enum": kept }), bytes })
    }

    /// Any value, nested to a depth.
    fn open(&mut self, depth: usize, place: &Place) -> Result<Part, GrammarError> {
        let kept = if depth == 0 { &TYPES[..5] } else { &TYPES[..] };
        let parts = kept.iter().filter(|name| **name != "integer").map(|name| match *name {
            "array" => Ok(array(self.open(depth - 1, place)?, 0, None)),
            "object" => Ok(map(self.open(depth - 1, place)?, 0)),
            name => self.typed(name, &Entries::new(), place),
        });
        Ok(any_of(parts.collect::<Result<_, _>>()?))
    }

    fn typed(&mut self, name: &str, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        match name {
            "null" => self.leaf(json!({ "type": name }), 4),
            "boolean" => self.leaf(json!({ "type": name }), BOOLEAN.len()),
            "integer" | "number" => {
                allow("number", entries, &[], place)?;
                let text = if name == "integer" { INTEGER } else { NUMBER };
                self.leaf(json!({ "type": name }), text.len())
            }
            "string" => self.string(entries, place),
            "array" => self.array(entries, place),
            _ => self.members(entries, place),
        }
    }

    fn string(&mut self, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        if let Some(format) = entries.get("format") {
            allow("string", entries, &["format"], place)?;
            // The converter's expressions for other formats take texts that are not of the format, or not JSON.
            return match format.as_str() {
                Some("uuid") => self.leaf(json!({ "type": "string", "format": "uuid" }), UUID.len()),
                _ => Err(place.refuse("format", "only 'uuid' is supported")),
            };
        }
        allow("string", entries, &["minLength", "maxLength"], place)?;
        let (min, max) = (count(entries, "minLength", place)?, count(entries, "maxLength", place)?);
        let mut schema = json!({ "type": "string" });
        for (keyword, value) in [("minLength", min), ("maxLength", max)] {
            if let Some(value) = value {
                schema[keyword] = value.into();
            }
        }
        self.leaf(schema, STRING.len().max(STRING_INNER.len() + COUNTS))
    }

    fn array(&mut self, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        let allowed = ["items", "prefixItems", "minItems", "maxItems"];
        allow("array", entries, &allowed, place)?;
        let min = count(entries, "minItems", place)?.unwrap_or(0);
        let max = count(entries, "maxItems", place)?;
        if let Some(prefix) = entries.get("prefixItems") {
            return self.tuple(prefix, (min, max), place);
        }
        let none = json!({ "type": "array", "maxItems": 0 });
        match entries.get("items") {
            Some(Value::Array(_)) => Err(place.refuse("items", "a list of schemas is not supported")),
            _ if max.is_some_and(|max| max < min) => Err(GrammarError::Empty),
            Some(Value::Bool(false)) if min > 0 => Err(GrammarError::Empty),
            Some(Value::Bool(false)) => self.leaf(none, 4),
            _ if max == Some(0) => self.leaf(none, 4),
            Some(items) => Ok(array(self.schema(items, &place.below("items"))?, min, max)),
            None => Ok(array(self.open(OPEN_DEPTH, place)?, min, max)),
        }
    }

    /// Exactly the items that have schemas of their own.
    fn tuple(
        &mut self,
        prefix: &Value,
        (min, max): (u64, Option<u64>),
        place: &Place,
    ) -> Result<Part, GrammarError> {
        let Some(list) = prefix.as_array() else {
            return Err(GrammarError::Json("'prefixItems' is a list of schemas".into()));
        };
        let length = list.len() as u64;
        if min > length || max.is_some_and(|max| max < length) {
            return Err(place.refuse("prefixItems", "another number of items is not supported"));
        }
        let within = place.below("prefixItems");
        let parts = list.iter().enumerate().map(|(at, schema)| {
            let part = self.schema(schema, &within.below(&at.to_string()))?;
            Ok(any_of(vec![part]))
        });
        let parts = parts.collect::<Result<Vec<Part>, GrammarError>>()?;
        let bytes = parts.iter().map(|part| part.bytes + 1).sum::<usize>() + 4;
        let schemas: Vec<Value> = parts.into_iter().map(|part| part.schema).collect();
        Ok(Part { schema: json!({ "type": "array", "prefixItems": schemas }), bytes })
    }

    fn members(&mut self, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        if let Some(properties) =
            entries.get("properties").filter(|p| p.as_object().is_none_or(|p| !p.is_empty()))
        {
            return self.properties(properties, entries, place);
        }
        let allowed = ["properties", "required", "additionalProperties", "minProperties", "maxProperties"];
        allow("object", entries, &allowed, place)?;
        if entries.get("required").and_then(Value::as_array).is_some_and(|names| !names.is_empty()) {
            return Err(place.refuse("required", "a name without a property is not supported"));
        }
        let min = count(entries, "minProperties", place)?.unwrap_or(0);
        let max = count(entries, "maxProperties", place)?;
        let none = json!({ "type": "object", "maxProperties": 0 });
        match entries.get("additionalProperties") {
            _ if min > 1 => Err(place.refuse("minProperties", "more than 1 is not supported")),
            _ if max.is_some_and(|max| max > 0) => Err(place.refuse("maxProperties", "only 0 is supported")),
            Some(Value::Bool(false)) if min > 0 => Err(GrammarError::Empty),
            _ if max == Some(0) && min > 0 => Err(GrammarError::Empty),
            Some(Value::Bool(false)) => self.leaf(none, 4),
            _ if max == Some(0) => self.leaf(none, 4),
            None | Some(Value::Bool(true)) => Ok(map(self.open(OPEN_DEPTH, place)?, min)),
            Some(value) => Ok(map(self.schema(value, &place.below("additionalProperties"))?, min)),
        }
    }

    fn properties(&mut self, value: &Value, entries: &Entries, place: &Place) -> Result<Part, GrammarError> {
        // No property is written but those that the schema lists, so what it says of others need not be read.
        allow("object", entries, &["properties", "required", "additionalProperties"], place)?;
        let Some(properties) = value.as_object() else {
            return Err(GrammarError::Json("'properties' is an object".into()));
        };
        let names: Vec<&str> = match entries.get("required") {
            None => Vec::new(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            // Draft 3's.
            Some(_) => return Err(GrammarError::Json("'required' is a list of names".into())),
        };
        if names.iter().any(|name| !properties.contains_key(*name)) {
            return Err(place.refuse("required", "a name without a property is not supported"));
        }
        let within = place.below("properties");
        let (mut lowered, mut sizes) = (Entries::new(), Vec::new());
        for (name, schema) in properties {
            let part = self.schema(schema, &within.below(name))?;
            let name = written(name);
            sizes.push(2 * name.len() + part.bytes + 8);
            lowered.insert(name, part.schema);
        }
        let sum = sizes.iter().sum::<usize>();
        // Where none is required, each one in turn may be the first.
        let bytes = if names.is_empty() { sum.saturating_mul(sizes.len()) } else { sum };
        let names: Vec<String> = names.into_iter().map(written).collect();
        let schema = json!({ "type": "object", "properties": lowered, "required": names });
        Ok(Part { schema, bytes: bytes.saturating_add(8) })
    }
}

fn too_long(bytes: usize) -> GrammarError {
    GrammarError::limit("regular expression's size in bytes", format!("{bytes} or more"), CONVERTED_BYTES)
}

/// A list's members as alternatives, which the converter puts in parentheses.
fn any_of(parts: Vec<Part>) -> Part {
    let bytes = parts.iter().map(|part| part.bytes.saturating_add(1)).fold(2, usize::saturating_add);
    let schemas: Vec<Value> = parts.into_iter().map(|part| part.schema).collect();
    Part { schema: json!({ "anyOf": schemas }), bytes }
}

fn array(items: Part, min: u64, max: Option<u64>) -> Part {
    let mut schema = json!({ "type": "array", "items": items.schema, "minItems": min });
    if let Some(max) = max {
        schema["maxItems"] = max.into();
    }
    Part { schema, bytes: items.bytes.saturating_mul(2).saturating_add(16 + COUNTS) }
}

fn map(value: Part, min: u64) -> Part {
    let bytes = value.bytes.saturating_add(STRING.len()).saturating_mul(2).saturating_add(24);
    let schema =
        json!({ "type": "object", "additionalProperties": any_of(vec![value]).schema, "minProperties": min });
    Part { schema, bytes }
}

fn has(entries: &Entries, keywords: &[&str]) -> bool {
    keywords.iter().any(|keyword| entries.contains_key(*keyword))
}

/// Refuses the keywords about every type but these.
fn only(entries: &Entries, allowed: &[&str], place: &Place) -> Result<(), GrammarError> {
    let typed = OF_TYPE.iter().flat_map(|(_, list)| *list).filter(|_| !allowed.contains(&"type"));
    let mut refused = ANY.iter().chain(typed).filter(|keyword| !allowed.contains(keyword));
    match refused.find(|keyword| entries.contains_key(**keyword)) {
        Some(keyword) => {
            Err(place.refuse(keyword, &format!("not supported beside '{}'", allowed.join("', '"))))
        }
        None => Ok(()),
    }
}

/// Refuses the keywords about one type but these; those about other types do not concern it.
fn allow(name: &str, entries: &Entries, allowed: &[&str], place: &Place) -> Result<(), GrammarError> {
    let list = OF_TYPE.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, list)| *list);
    let off =
        |keyword: &&&str| *keyword == &"uniqueItems" && entries.get("uniqueItems") == Some(&json!(false));
    let mut refused = list.iter().filter(|keyword| !allowed.contains(keyword) && !off(keyword));
    match refused.find(|keyword| entries.contains_key(**keyword)) {
        Some(keyword) => Err(place.refuse(keyword, "cannot be enforced")),
        None => Ok(()),
    }
}

fn types<'t>(entries: &'t Entries, place: &Place) -> Result<Vec<&'t str>, GrammarError> {
    let named: Vec<Option<&str>> = match entries.get("type") {
        None => return Ok(TYPES.to_vec()),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
        Some(name) => vec![name.as_str()],
    };
    let known = named.into_iter().map(|name| name.filter(|name| TYPES.contains(name)));
    let known: Option<Vec<&str>> = known.collect();
    known.filter(|names| !names.is_empty()).ok_or_else(|| place.refuse("type", "there is no such type"))
}

/// The values that `enum` and `const` leave.
fn values(entries: &Entries, place: &Place) -> Result<Option<Vec<Value>>, GrammarError> {
    match (entries.get("enum"), entries.get("const")) {
        (None, None) => Ok(None),
        (Some(Value::Array(values)), None) => Ok(Some(values.clone())),
        (None, Some(value)) => Ok(Some(vec![value.clone()])),
        _ => Err(place.refuse("enum", "not a list, or beside 'const'")),
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}

/// Whether no value can be valid under two of them: each has types, and no two have one in common.
fn disjoint(schemas: &[Value]) -> bool {
    let mut seen: Vec<&str> = Vec::new();
    schemas.iter().all(|schema| {
        let Some(names) = schema.as_object().filter(|entries| entries.contains_key("type")) else {
            return false;
        };
        let Ok(names) = types(names, &Place::default()) else { return false };
        let names: Vec<&str> =
            names.into_iter().map(|name| if name == "integer" { "number" } else { name }).collect();
        let free = names.iter().all(|name| !seen.contains(name));
        seen.extend(names);
        free
    })
}

/// The converter writes the keys of an object in `enum` as they are.
fn plain_keys(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(plain_keys),
        Value::Object(entries) => entries.iter().all(|(key, value)| {
            key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) && plain_keys(value)
        }),
        _ => true,
    }
}

fn count(entries: &Entries, keyword: &str, place: &Place) -> Result<Option<u64>, GrammarError> {
    match entries.get(keyword) {
        None => Ok(None),
        Some(value) => match value.as_u64().filter(|count| u32::try_from(*count).is_ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(place.refuse(keyword, "not a count")),
        },
    }
}

/// A name as JSON has it between its quotes.
fn written(name: &str) -> String {
    let quoted = Value::from(name).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}
