//! From a schema's keywords to alternatives.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::constraints::CONSTRAINTS;
use super::document::{Draft, Place};
use super::pattern::{any_of, translated};
use super::shape::{Atom, Node, Object, Shape, Source, Text, add, simplified};
use super::{MAX_DEPTH, Normalizer};
use crate::GrammarError;

type Shapes<'a> = Result<Vec<Shape<'a>>, GrammarError>;
type GivenValues<'a> = Result<Option<Vec<&'a Value>>, GrammarError>;

/// Given values that count as one alternative's work.
const VALUES_PER_WORK: usize = 8;

impl<'a> Normalizer<'a> {
    /// The alternatives of a schema or of its complement.
    pub(super) fn alternatives(&mut self, atom: Atom<'a>) -> Result<Rc<Vec<Shape<'a>>>, GrammarError> {
        if let Some(shapes) = self.atoms.get(&atom) {
            return Ok(Rc::clone(shapes));
        }
        if !self.busy.insert(atom) {
            let at = if let Source::Schema(place) = atom.source { place.value } else { &Value::Null };
            return Err(self.document.refuse(
                at,
                "$ref",
                "it refers to itself without an object or array between",
            ));
        }
        self.depth += 1;
        let shapes = if self.depth > MAX_DEPTH {
            Err(GrammarError::limit("depth of references", self.depth, MAX_DEPTH))
        } else if atom.negated {
            self.complement(atom)
        } else {
            match atom.source {
                Source::Never => Ok(Vec::new()),
                Source::Value(value) => Ok(vec![Shape::of(value.0)]),
                Source::Schema(place) => self.read(place),
            }
        };
        self.depth -= 1;
        self.busy.remove(&atom);
        let shapes = Rc::new(shapes?);
        self.spend(shapes.iter().map(Shape::size).sum())?;
        self.atoms.insert(atom, Rc::clone(&shapes));
        Ok(shapes)
    }

    fn complement(&mut self, atom: Atom<'a>) -> Shapes<'a> {
        let shapes = self.alternatives(atom.not())?;
        let mut left = Vec::new();
        for shape in Shape::all() {
            match self.without(shape, &shapes)? {
                Some(parts) => left.extend(parts),
                None => {
                    let (at, keyword) = match atom.source {
                        Source::Schema(place) => (place.value, first_keyword(place.value)),
                        Source::Value(value) => (value.0, "const"),
                        Source::Never => (&Value::Null, "not"),
                    };
                    return Err(self.document.refuse(
                        at,
                        keyword,
                        "what does not satisfy it cannot be expressed",
                    ));
                }
            }
        }
        Ok(simplified(left))
    }

    fn read(&mut self, place: Place<'a>) -> Shapes<'a> {
        let entries = match place.value {
            Value::Bool(true) => return Ok(Shape::all()),
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(entries) => entries,
            _ => return Err(GrammarError::Json("a schema is an object or a boolean".into())),
        };
        if self.document.draft(place) == Draft::Seven
            && let Some(reference) = entries.get("$ref")
        {
            let target = self.target(place, "$ref", reference)?;
            return Ok(self.alternatives(Atom::schema(target))?.to_vec());
        }
        let mut result = Shape::all();
        let constraining = constraining(entries);
        for (key, keyword) in entries {
            if Some(key.as_str()) == constraining {
                let own = self.constraints(place, entries)?;
                result = self.product(result, &own)?;
            } else if let Some(more) = self.combination(place, entries, (key, keyword))? {
                result = self.product(result, &more)?;
            }
        }
        self.close(place, entries, &mut result)?;
        Ok(result)
    }

    /// The alternatives of a keyword that combines schemas.
    fn combination(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        (key, keyword): (&str, &'a Value),
    ) -> Result<Option<Vec<Shape<'a>>>, GrammarError> {
        let at = |this: &Self, schema: &'a Value| Atom::schema(this.document.enter(schema, place.resource));
        Ok(Some(match key {
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let target = self.target(place, key, keyword)?;
                self.alternatives(Atom::schema(target))?.to_vec()
            }
            "const" => vec![Shape::of(keyword)],
            "enum" => simplified(self.list(place, key, keyword)?.iter().map(Shape::of).collect()),
            "allOf" => {
                let mut all = Shape::all();
                for schema in self.list(place, key, keyword)? {
                    let one = self.alternatives(at(self, schema))?;
                    all = self.product(all, &one)?;
                }
                all
            }
            "anyOf" => {
                let mut any = Vec::new();
                for schema in self.list(place, key, keyword)? {
                    any.extend(self.alternatives(at(self, schema))?.iter().cloned());
                }
                simplified(any)
            }
            "oneOf" => self.exactly_one(place, keyword)?,
            "not" => self.alternatives(at(self, keyword).not())?.to_vec(),
            "if" if entries.contains_key("then") || entries.contains_key("else") => {
                let mut both = Vec::new();
                for (branch, condition) in [("then", at(self, keyword)), ("else", at(self, keyword).not())] {
                    let mut node = vec![condition];
                    add(
                        &mut node,
                        &entries.get(branch).map(|schema| at(self, schema)).into_iter().collect::<Vec<_>>(),
                    );
                    both.extend(self.expand(&node)?.iter().cloned());
                }
                simplified(both)
            }
            "dependencies" | "dependentRequired" | "dependentSchemas" => {
                self.dependencies(place, key, keyword)?
            }
            "propertyNames" => self.names(place, keyword)?,
            _ => return Ok(None),
        }))
    }

    fn exactly_one(&mut self, place: Place<'a>, keyword: &'a Value) -> Shapes<'a> {
        let mut all = Vec::new();
        for schema in self.list(place, "oneOf", keyword)? {
            all.push(self.alternatives(Atom::schema(self.document.enter(schema, place.resource)))?);
        }
        let mut result = Vec::new();
        for (at, one) in all.iter().enumerate() {
            let others: Vec<Shape<'a>> = all
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != at)
                .flat_map(|(_, shapes)| shapes.iter().cloned())
                .collect();
            for shape in one.iter() {
                match self.without(shape.clone(), &others)? {
                    Some(parts) => result.extend(parts),
                    None => {
                        let message = "values of several alternatives cannot be told from values of one";
                        return Err(self.document.refuse(place.value, "oneOf", message));
                    }
                }
            }
        }
        Ok(simplified(result))
    }

    fn dependencies(&mut self, place: Place<'a>, key: &str, keyword: &'a Value) -> Shapes<'a> {
        let dependencies = keyword
            .as_object()
            .ok_or_else(|| self.document.refuse(place.value, key, "it is not an object"))?;
        let mut result = Shape::all();
        for (name, dependency) in dependencies {
            let absent = Object {
                named: [(name.clone(), vec![Atom::NEVER])].into_iter().collect(),
                ..Object::default()
            };
            let mut required: indexmap::IndexSet<String> = [name.clone()].into_iter().collect();
            let mut node = Vec::new();
            match dependency {
                Value::Array(names) => {
                    required.extend(names.iter().filter_map(Value::as_str).map(str::to_owned))
                }
                Value::String(other) => {
                    required.insert(other.clone());
                }
                schema => node.push(Atom::schema(self.document.enter(schema, place.resource))),
            }
            let present = vec![Shape::Object(Object { required, ..Object::default() })];
            let then = self.expand(&node)?;
            let mut either = self.product(present, &then)?;
            either.push(Shape::Object(absent));
            either.extend(Shape::all().into_iter().filter(|shape| !matches!(shape, Shape::Object(_))));
            result = self.product(result, &either)?;
        }
        Ok(result)
    }

    /// `propertyNames`: a closed set of names or a pattern for all.
    fn names(&mut self, place: Place<'a>, keyword: &'a Value) -> Shapes<'a> {
        let shapes = self.alternatives(Atom::schema(self.document.enter(keyword, place.resource)))?;
        let mut object = Object { additional: Some(vec![Atom::NEVER]), ..Object::default() };
        for shape in shapes.iter() {
            let Shape::Text(text) = shape else { continue };
            if text.is_unbounded() {
                return Ok(Shape::all());
            }
            match text.as_pattern() {
                Some(pattern) => object.matching.insert(pattern, Vec::new()),
                None => {
                    let message = "names that satisfy several keywords at once cannot be expressed";
                    return Err(self.document.refuse(place.value, "propertyNames", message));
                }
            };
        }
        let mut all: Vec<Shape<'a>> =
            Shape::all().into_iter().filter(|shape| !matches!(shape, Shape::Object(_))).collect();
        all.push(Shape::Object(object));
        Ok(all)
    }

    /// `unevaluatedProperties` and `unevaluatedItems`, where what is evaluated can be read off the alternatives.
    fn close(
        &mut self,
        place: Place<'a>,
        entries: &'a Map<String, Value>,
        shapes: &mut [Shape<'a>],
    ) -> Result<(), GrammarError> {
        for key in ["unevaluatedProperties", "unevaluatedItems"] {
            let Some(keyword) = entries.get(key) else { continue };
            let atom = Atom::schema(self.document.enter(keyword, place.resource));
            if *keyword == Value::Bool(true) {
                continue;
            }
            if !self.is_plain(place, 0)? {
                let message = "beside alternatives, conditions or 'contains' it is not supported";
                return Err(self.document.refuse(place.value, key, message));
            }
            for shape in shapes.iter_mut() {
                match shape {
                    Shape::Object(object)
                        if key == "unevaluatedProperties" && object.additional.is_none() =>
                    {
                        object.additional = Some(vec![atom]);
                    }
                    Shape::Array(array) if key == "unevaluatedItems" && array.items.is_none() => {
                        array.items = Some(vec![atom]);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether nothing but `allOf` and references combine schemas here.
    fn is_plain(&mut self, place: Place<'a>, depth: usize) -> Result<bool, GrammarError> {
        let Some(entries) = place.value.as_object() else { return Ok(true) };
        self.spend(1)?;
        let mut plain = depth < MAX_DEPTH;
        for (key, keyword) in entries {
            plain = plain
                && match key.as_str() {
                    "anyOf" | "oneOf" | "not" | "if" | "dependentSchemas" | "dependencies" | "contains"
                    | "propertyNames" => false,
                    "allOf" => {
                        let mut all = true;
                        for schema in self.list(place, key, keyword)? {
                            let part = self.document.enter(schema, place.resource);
                            all = all && self.is_plain(part, depth + 1)?;
                        }
                        all
                    }
                    "$ref" | "$dynamicRef" | "$recursiveRef" => {
                        let target = self.target(place, key, keyword)?;
                        self.is_plain(target, depth + 1)?
                    }
                    _ => true,
                };
        }
        Ok(plain)
    }

    /// Values that a node's own are among, if they are given; found through references and combinations.
    pub(super) fn given(&mut self, node: &Node<'a>) -> GivenValues<'a> {
        // Values of one keyword alone are what their alternatives are.
        for atom in node.iter().filter(|atom| !atom.negated) {
            let found = match atom.source {
                Source::Value(value) => Some(vec![value.0]),
                Source::Schema(place) => self.given_at(place, 0)?,
                Source::Never => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn given_at(&mut self, place: Place<'a>, depth: usize) -> GivenValues<'a> {
        self.spend(1)?;
        let Some(entries) = place.value.as_object().filter(|_| depth < MAX_DEPTH) else { return Ok(None) };
        let alone = self.document.draft(place) == Draft::Seven && entries.contains_key("$ref");
        for (key, keyword) in entries.iter().filter(|(key, _)| !alone || *key == "$ref") {
            let found = match key.as_str() {
                "const" => Some(vec![keyword]),
                "enum" => keyword.as_array().map(|values| values.iter().collect()),
                "$ref" => match self.target(place, key, keyword) {
                    Ok(target) => self.given_at(target, depth + 1)?,
                    Err(_) => None,
                },
                "allOf" | "anyOf" | "oneOf" => self.given_in(place, (key, keyword), depth + 1)?,
                _ => None,
            };
            if let Some(values) = found {
                self.spend(values.len() / VALUES_PER_WORK)?;
                return Ok(Some(values));
            }
        }
        Ok(None)
    }

    /// Of all of the alternatives, or of one of the schemas that all hold.
    fn given_in(
        &mut self,
        place: Place<'a>,
        (key, keyword): (&str, &'a Value),
        depth: usize,
    ) -> GivenValues<'a> {
        let mut values = Vec::new();
        for schema in keyword.as_array().into_iter().flatten() {
            let found = self.given_at(self.document.enter(schema, place.resource), depth)?;
            match found {
                Some(found) if key == "allOf" => return Ok(Some(found)),
                Some(found) => values.extend(found),
                None if key == "allOf" => {}
                None => return Ok(None),
            }
        }
        Ok((key != "allOf" && keyword.is_array()).then_some(values))
    }

    /// What a reference refers to.
    pub(super) fn target(
        &self,
        place: Place<'a>,
        key: &str,
        keyword: &Value,
    ) -> Result<Place<'a>, GrammarError> {
        let reference =
            keyword.as_str().ok_or_else(|| self.document.refuse(place.value, key, "it is not a string"))?;
        let plain = match key {
            "$dynamicRef" => self.document.is_plain_dynamic(reference),
            "$recursiveRef" => self.document.is_one_resource(),
            _ => true,
        };
        if !plain {
            return Err(self.document.refuse(
                place.value,
                key,
                "what it refers to depends on where it is used",
            ));
        }
        self.document.refer(place, reference).ok_or_else(|| {
            self.document.refuse(place.value, key, format!("'{reference}' is not within the schema"))
        })
    }

    pub(super) fn list(
        &self,
        place: Place<'a>,
        key: &str,
        keyword: &'a Value,
    ) -> Result<&'a [Value], GrammarError> {
        let items = keyword.as_array().map(Vec::as_slice);
        items.ok_or_else(|| self.document.refuse(place.value, key, "it is not an array"))
    }

    pub(super) fn count(&self, place: Place<'a>, key: &str, keyword: &Value) -> Result<u64, GrammarError> {
        let whole = || {
            keyword
                .as_f64()
                .filter(|number| *number >= 0.0 && number.fract() == 0.0)
                .map(|number| number as u64)
        };
        let count = keyword.as_u64().or_else(whole);
        count.ok_or_else(|| self.document.refuse(place.value, key, "it is not a count"))
    }

    /// A pattern in the library's form, tried.
    pub(super) fn pattern(
        &mut self,
        place: Place<'a>,
        key: &str,
        source: &str,
    ) -> Result<String, GrammarError> {
        let pattern = translated(source);
        self.tick()?;
        match self.patterns.matches(&pattern, "", self.watch)? {
            Ok(_) => Ok(pattern),
            Err(message) => Err(self.document.refuse(place.value, key, message)),
        }
    }

    pub(super) fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, GrammarError> {
        self.tick()?;
        self.patterns.matches(pattern, text, self.watch)?.map_err(GrammarError::Regex)
    }
}

impl Text {
    fn is_unbounded(&self) -> bool {
        *self == Self::default()
    }

    /// One pattern for all its constraints, where one keyword has them.
    fn as_pattern(&self) -> Option<String> {
        let bounded = self.min > 0 || self.max.is_some();
        match (&self.values, self.patterns.as_slice()) {
            _ if !self.formats.is_empty() || !self.excluded.is_empty() => None,
            (Some(values), _) => Some(any_of(values.iter().map(String::as_str))),
            (None, [pattern]) if !bounded => Some(pattern.clone()),
            (None, []) if bounded => {
                let max = self.max.map(|max| max.to_string()).unwrap_or_default();
                Some(format!(r"^[\s\S]{{{},{max}}}$", self.min))
            }
            _ => None,
        }
    }
}

/// Where the constraints on single types count, all together: where the names stand, so that keys come in the schema's
/// order, or else where the first constraint stands.
fn constraining(entries: &Map<String, Value>) -> Option<&str> {
    let names = ["properties", "required"].into_iter().find(|key| entries.contains_key(*key));
    names.or_else(|| entries.keys().map(String::as_str).find(|key| CONSTRAINTS.contains(key)))
}

fn first_keyword(schema: &Value) -> &str {
    let keys = schema.as_object().into_iter().flat_map(Map::keys);
    keys.map(String::as_str).find(|key| !key.starts_with('$') && *key != "description").unwrap_or("not")
}
