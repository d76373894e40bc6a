//! From the keywords about values of one type to alternatives.

use serde_json::{Map, Number, Value};

use super::Normalizer;
use super::document::Place;
use super::format::{Format, format};
use super::meet::settled_numbers;
use super::shape::{Array, Atom, Contains, Given, Numbers, Object, Shape, Text, add, simplified};
use crate::GrammarError;

/// Keywords about values of one type; the others combine schemas or only describe.
pub(super) const CONSTRAINTS: [&str; 25] = [
    "type",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

impl<'a> Normalizer<'a> {
    /// What the keywords about single types come to.
    pub(super) fn constraints(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
    ) -> Result<Vec<Shape<'a>>, GrammarError> {
        let mut types: Vec<&str> = match entries.get("type") {
            None => vec!["null", "boolean", "number", "string", "array", "object"],
            Some(Value::String(name)) => vec![name.as_str()],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            Some(_) => {
                return Err(self.document.refuse(place.value, "type", "it is not a string or an array"));
            }
        };
        if entries.get("nullable") == Some(&Value::Bool(true)) {
            types.push("null");
        }
        let mut shapes = Vec::new();
        for name in types {
            shapes.extend(match name {
                "null" => Some(Shape::Null),
                "boolean" => Some(Shape::Boolean { yes: true, no: true }),
                "number" | "integer" => self.numbers(place, entries, name == "integer")?.map(Shape::Number),
                "string" => self.text(place, entries)?.map(Shape::Text),
                "array" => self.array(place, entries)?.map(Shape::Array),
                "object" => self.object(place, entries)?.map(Shape::Object),
                other => {
                    return Err(self.document.refuse(
                        place.value,
                        "type",
                        format!("there is no type '{other}'"),
                    ));
                }
            });
        }
        Ok(simplified(shapes))
    }

    fn numbers(
        &self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        integer: bool,
    ) -> Result<Option<Numbers>, GrammarError> {
        let number = |key: &str| match entries.get(key) {
            None | Some(Value::Bool(_)) => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number.clone())),
            Some(_) => Err(self.document.refuse(place.value, key, "it is not a number")),
        };
        let is_exclusive = |key: &str| entries.get(key) == Some(&Value::Bool(true));
        let bound = |plain: &str, exclusive: &str| {
            let own = Numbers {
                min: number(plain)?.map(|bound| (bound, is_exclusive(exclusive))),
                ..Numbers::default()
            };
            let other = Numbers { min: number(exclusive)?.map(|bound| (bound, true)), ..Numbers::default() };
            Ok::<_, GrammarError>((own, other))
        };
        let upper = |bounds: Numbers| Numbers { max: bounds.min, ..Numbers::default() };
        let (min, other_min) = bound("minimum", "exclusiveMinimum")?;
        let (max, other_max) = bound("maximum", "exclusiveMaximum")?;
        let multiples: Vec<Number> = number("multipleOf")?.into_iter().collect();
        let parts = [
            min,
            other_min,
            upper(max),
            upper(other_max),
            Numbers { integer, multiples, ..Numbers::default() },
        ];
        let start = Some(Numbers::default());
        Ok(parts.iter().fold(start, |all, part| super::meet::numbers(&all?, part)).and_then(settled_numbers))
    }

    fn text(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
    ) -> Result<Option<Text>, GrammarError> {
        let mut text = Text::default();
        if let Some(keyword) = entries.get("minLength") {
            text.min = self.count(place, "minLength", keyword)?;
        }
        if let Some(keyword) = entries.get("maxLength") {
            text.max = Some(self.count(place, "maxLength", keyword)?);
        }
        if let Some(keyword) = entries.get("pattern") {
            let source = keyword
                .as_str()
                .ok_or_else(|| self.document.refuse(place.value, "pattern", "it is not a string"))?;
            text.patterns.push(self.pattern(place, "pattern", source)?);
        }
        if let Some(name) = entries.get("format").and_then(Value::as_str) {
            match format(name) {
                Format::Pattern(pattern) => text.patterns.push(pattern),
                Format::Library(name) => text.formats.push(name),
                Format::Unknown => {}
                Format::Unsupported => {
                    return Err(self.document.refuse(
                        place.value,
                        "format",
                        format!("'{name}' is not a regular language"),
                    ));
                }
            }
        }
        self.settled(text)
    }

    fn array(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
    ) -> Result<Option<Array<'a>>, GrammarError> {
        let node = |this: &Self, schema: &'a Value| {
            let mut node = Vec::new();
            add(&mut node, &[Atom::schema(this.document.enter(schema, place.resource))]);
            node
        };
        let mut array = Array::default();
        let (prefix, items) = match entries.get("items") {
            Some(Value::Array(prefix)) => (Some(prefix), entries.get("additionalItems")),
            items => (entries.get("prefixItems").and_then(Value::as_array), items),
        };
        array.prefix = prefix.into_iter().flatten().map(|schema| node(self, schema)).collect();
        array.items = items.map(|schema| node(self, schema));
        if let Some(keyword) = entries.get("minItems") {
            array.min = self.count(place, "minItems", keyword)?;
        }
        if let Some(keyword) = entries.get("maxItems") {
            array.max = Some(self.count(place, "maxItems", keyword)?);
        }
        if entries.get("uniqueItems") == Some(&Value::Bool(true)) {
            array.unique = Some(Given(place.value));
        }
        if let Some(schema) = entries.get("contains") {
            let count =
                |key: &str| entries.get(key).map(|keyword| self.count(place, key, keyword)).transpose();
            let (min, max) = (count("minContains")?.unwrap_or(1), count("maxContains")?);
            let node = Atom::schema(self.document.enter(schema, place.resource));
            if min > 0 || max.is_some() {
                array.contains.push(Contains { node, min, max, at: Given(place.value) });
                array.min = array.min.max(min);
            }
        }
        Ok(array.max.is_none_or(|max| array.min <= max).then_some(array))
    }

    fn object(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
    ) -> Result<Option<Object<'a>>, GrammarError> {
        let atom = |this: &Self, schema: &'a Value| Atom::schema(this.document.enter(schema, place.resource));
        let mut object = Object::default();
        let mut everywhere = Vec::new();
        for (source, schema) in
            entries.get("patternProperties").and_then(Value::as_object).into_iter().flatten()
        {
            let pattern = self.pattern(place, "patternProperties", source)?;
            if matches!(source.as_str(), "" | "^" | ".*" | "^.*" | "^.*$" | ".*$") {
                add(&mut everywhere, &[atom(self, schema)]);
            } else {
                let mut node = Vec::new();
                add(&mut node, &[atom(self, schema)]);
                object.matching.insert(pattern, node);
            }
        }
        let universal = entries.get("patternProperties").and_then(Value::as_object).is_some_and(|patterns| {
            patterns.keys().any(|source| matches!(source.as_str(), "" | "^" | ".*" | "^.*" | "^.*$" | ".*$"))
        });
        for node in object.matching.values_mut() {
            add(node, &everywhere);
        }
        for (name, schema) in entries.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut node = Vec::new();
            add(&mut node, &[atom(self, schema)]);
            for (pattern, more) in &object.matching {
                if self.matches(pattern, name)? {
                    add(&mut node, more);
                }
            }
            add(&mut node, &everywhere);
            object.named.insert(name.clone(), node);
        }
        if universal {
            object.additional = Some(everywhere);
        } else if let Some(schema) = entries.get("additionalProperties") {
            let mut node = Vec::new();
            add(&mut node, &[atom(self, schema)]);
            object.additional = Some(node);
        }
        if let Some(Value::Array(names)) = entries.get("required") {
            object.required = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        if let Some(keyword) = entries.get("minProperties") {
            object.min = self.count(place, "minProperties", keyword)?;
        }
        if let Some(keyword) = entries.get("maxProperties") {
            object.max = Some(self.count(place, "maxProperties", keyword)?);
        }
        let least = object.max.unwrap_or(u64::MAX);
        Ok((object.min <= least && object.required.len() as u64 <= least).then_some(object))
    }
}
