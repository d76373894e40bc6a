//! From alternatives to the library's keywords.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};

use super::Normalizer;
use super::finish::Final;
use super::pattern::none_of;
use super::shape::{Array, Bound, Node, Numbers, Object, Shape, Text};
use crate::GrammarError;

/// A node on its own or within another.
struct Entry<'a> {
    shapes: Vec<Final<'a>>,
    /// Nodes of its members and items.
    uses: usize,
    is_possible: bool,
}

struct Emitter<'a> {
    ids: HashMap<Node<'a>, usize>,
    entries: Vec<Entry<'a>>,
    /// Names of nodes that are written once and referred to.
    named: HashMap<usize, String>,
}

/// Work for two patterns of one object, in alternatives.
const PAIR_WORK: usize = 16;
/// Nodes within one another that are written in place.
const MAX_NESTED: usize = 16;

pub(super) fn emit<'a>(normalizer: &mut Normalizer<'a>, root: Node<'a>) -> Result<Value, GrammarError> {
    let mut emitter = Emitter { ids: HashMap::new(), entries: Vec::new(), named: HashMap::new() };
    emitter.reach(normalizer, root)?;
    emitter.find_possible(normalizer)?;
    if !emitter.entries.first().is_some_and(|entry| entry.is_possible) {
        return Err(GrammarError::Empty);
    }
    let mut wanted = VecDeque::new();
    let mut schema = emitter.whole(normalizer, 0, &mut wanted)?;
    let mut definitions = Map::new();
    while let Some(id) = wanted.pop_front() {
        if let Some(name) = emitter.named.get(&id).cloned() {
            let definition = emitter.whole(normalizer, id, &mut wanted)?;
            definitions.insert(name, definition);
        }
    }
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let (false, Some(entries)) = (definitions.is_empty(), schema.as_object_mut()) {
        entries.insert("$defs".into(), Value::Object(definitions));
    }
    Ok(schema)
}

/// The nodes that a shape's members and items have.
fn children<'a>(normalizer: &mut Normalizer<'a>, shape: &Final<'a>) -> Result<Vec<Node<'a>>, GrammarError> {
    let mut nodes = Vec::new();
    match shape {
        Final::Shape(Shape::Object(object)) => {
            nodes.extend(object.named.values().cloned());
            nodes.extend(object.matching.values().cloned());
            nodes.extend(object.additional.clone());
            for name in object.required.iter().filter(|name| !object.named.contains_key(*name)) {
                nodes.push(normalizer.member(object, name)?);
            }
        }
        Final::Shape(Shape::Array(array)) => {
            nodes.extend(array.prefix.iter().cloned());
            nodes.extend(array.items.clone());
        }
        _ => {}
    }
    Ok(nodes)
}

impl<'a> Emitter<'a> {
    /// Expands all nodes that the root leads to.
    fn reach(&mut self, normalizer: &mut Normalizer<'a>, root: Node<'a>) -> Result<(), GrammarError> {
        self.ids.insert(root.clone(), 0);
        let mut waiting = VecDeque::from([root]);
        while let Some(node) = waiting.pop_front() {
            let shapes = normalizer.finished(&node)?;
            for shape in &shapes {
                for child in children(normalizer, shape)? {
                    normalizer.spend(1)?;
                    if !self.ids.contains_key(&child) {
                        self.ids.insert(child.clone(), self.ids.len());
                        waiting.push_back(child);
                    }
                }
            }
            self.entries.push(Entry { shapes, uses: 0, is_possible: false });
        }
        let mut uses = vec![0; self.entries.len()];
        for entry in &self.entries {
            for shape in &entry.shapes {
                for child in children(normalizer, shape)? {
                    if let Some(count) = uses.get_mut(self.id(&child)) {
                        *count += 1;
                    }
                }
            }
        }
        for (entry, uses) in self.entries.iter_mut().zip(uses) {
            entry.uses = uses;
        }
        Ok(())
    }

    fn id(&self, node: &Node<'a>) -> usize {
        self.ids.get(node).copied().unwrap_or_default()
    }

    fn is_possible(&self, node: &Node<'a>) -> bool {
        self.entries.get(self.id(node)).is_some_and(|entry| entry.is_possible)
    }

    /// Marks the nodes that some finite value satisfies.
    fn find_possible(&mut self, normalizer: &mut Normalizer<'a>) -> Result<(), GrammarError> {
        let mut left: Vec<usize> = (0..self.entries.len()).rev().collect();
        loop {
            let before = left.len();
            let mut impossible = Vec::new();
            // From the last, as what a node needs was mostly reached after it.
            for id in left {
                let shapes = self.entries.get_mut(id).map(|entry| std::mem::take(&mut entry.shapes));
                let shapes = shapes.unwrap_or_default();
                let mut possible = false;
                for shape in &shapes {
                    normalizer.tick()?;
                    possible = possible || self.shape_is_possible(normalizer, shape)?;
                }
                if let Some(entry) = self.entries.get_mut(id) {
                    (entry.shapes, entry.is_possible) = (shapes, possible);
                }
                if !possible {
                    impossible.push(id);
                }
            }
            if impossible.len() == before {
                return Ok(());
            }
            left = impossible;
        }
    }

    fn shape_is_possible(
        &self,
        normalizer: &mut Normalizer<'a>,
        shape: &Final<'a>,
    ) -> Result<bool, GrammarError> {
        match shape {
            Final::Values(values) => Ok(!values.is_empty()),
            Final::Shape(Shape::Object(object)) => {
                for name in &object.required {
                    let member = normalizer.member(object, name)?;
                    if !self.is_possible(&member) {
                        return Ok(false);
                    }
                }
                let others = object.additional.as_ref().is_none_or(|node| self.is_possible(node))
                    || object.matching.values().any(|node| self.is_possible(node))
                    || object
                        .named
                        .iter()
                        .any(|(name, node)| !object.required.contains(name) && self.is_possible(node));
                Ok(others || object.required.len() as u64 >= object.min)
            }
            Final::Shape(Shape::Array(array)) => {
                let count = usize::try_from(array.min).unwrap_or(usize::MAX).min(array.prefix.len() + 1);
                Ok((0..count.min(array.min as usize)).all(|at| self.is_possible(&array.item(at))))
            }
            Final::Shape(_) => Ok(true),
        }
    }

    /// A node as a reference, or in place where it occurs once.
    fn node(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        node: &Node<'a>,
        (wanted, depth): (&mut VecDeque<usize>, usize),
    ) -> Result<Value, GrammarError> {
        let id = self.id(node);
        let Some(entry) = self.entries.get(id) else { return Ok(Value::Bool(false)) };
        if !entry.is_possible {
            return Ok(Value::Bool(false));
        }
        let is_simple = match entry.shapes.as_slice() {
            [Final::Shape(Shape::Text(text))] => text.values.as_ref().is_none_or(|values| values.len() < 4),
            [Final::Shape(Shape::Null | Shape::Boolean { .. } | Shape::Number(_))] => true,
            shapes => {
                shapes.len() == 6
                    && shapes.iter().all(|shape| matches!(shape, Final::Shape(shape) if shape.is_whole()))
            }
        };
        let is_root = id == 0;
        if is_simple || (entry.uses < 2 && depth < MAX_NESTED && !is_root) {
            return self.schema(normalizer, id, (wanted, depth + 1));
        }
        if is_root {
            return Ok(json!({ "$ref": "#" }));
        }
        let count = self.named.len();
        let name = self.named.entry(id).or_insert_with(|| {
            wanted.push_back(id);
            format!("n{count}")
        });
        Ok(json!({ "$ref": format!("#/$defs/{name}") }))
    }

    fn whole(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        id: usize,
        wanted: &mut VecDeque<usize>,
    ) -> Result<Value, GrammarError> {
        self.schema(normalizer, id, (wanted, 0))
    }

    fn schema(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        id: usize,
        (wanted, depth): (&mut VecDeque<usize>, usize),
    ) -> Result<Value, GrammarError> {
        let Some(entry) = self.entries.get_mut(id) else { return Ok(Value::Bool(false)) };
        let shapes = std::mem::take(&mut entry.shapes);
        let whole = |shape: &Final<'a>| matches!(shape, Final::Shape(shape) if shape.is_whole());
        if shapes.len() == 6 && shapes.iter().all(whole) {
            self.put_back(id, shapes);
            return Ok(Value::Bool(true));
        }
        let mut any = Vec::new();
        for shape in &shapes {
            if self.shape_is_possible(normalizer, shape)? {
                any.push(match shape {
                    Final::Values(values) => json!({ "enum": values }),
                    Final::Shape(shape) => self.shape(normalizer, shape, (wanted, depth))?,
                });
            }
        }
        self.put_back(id, shapes);
        Ok(match any.len() {
            1 => any.pop().unwrap_or(Value::Bool(false)),
            _ => json!({ "anyOf": any }),
        })
    }

    fn put_back(&mut self, id: usize, shapes: Vec<Final<'a>>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.shapes = shapes;
        }
    }

    fn shape(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        shape: &Shape<'a>,
        place: (&mut VecDeque<usize>, usize),
    ) -> Result<Value, GrammarError> {
        Ok(match shape {
            Shape::Null => json!({ "type": "null" }),
            Shape::Boolean { yes: true, no: true } => json!({ "type": "boolean" }),
            Shape::Boolean { yes, .. } => json!({ "const": yes }),
            Shape::Number(numbers) => number(numbers),
            Shape::Text(text) => string(text),
            Shape::Array(array) => self.array(normalizer, array, place)?,
            Shape::Object(object) => self.object(normalizer, object, place)?,
        })
    }

    fn array(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        array: &Array<'a>,
        (wanted, depth): (&mut VecDeque<usize>, usize),
    ) -> Result<Value, GrammarError> {
        let mut schema = Map::from_iter([("type".to_owned(), json!("array"))]);
        if !array.prefix.is_empty() {
            let mut prefix = Vec::new();
            for node in &array.prefix {
                prefix.push(self.node(normalizer, node, (&mut *wanted, depth))?);
            }
            schema.insert("prefixItems".into(), Value::Array(prefix));
        }
        if let Some(node) = &array.items {
            schema.insert("items".into(), self.node(normalizer, node, (wanted, depth))?);
        }
        if array.min > 0 {
            schema.insert("minItems".into(), json!(array.min));
        }
        if let Some(max) = array.max {
            schema.insert("maxItems".into(), json!(max));
        }
        Ok(Value::Object(schema))
    }

    fn object(
        &mut self,
        normalizer: &mut Normalizer<'a>,
        object: &Object<'a>,
        (wanted, depth): (&mut VecDeque<usize>, usize),
    ) -> Result<Value, GrammarError> {
        let mut schema = Map::from_iter([("type".to_owned(), json!("object"))]);
        // The library looks whether any two of them overlap.
        normalizer.spend(PAIR_WORK * object.matching.len() * object.matching.len())?;
        for (key, nodes) in [("properties", &object.named), ("patternProperties", &object.matching)] {
            let mut members = Map::new();
            for (name, node) in nodes {
                members.insert(name.clone(), self.node(normalizer, node, (&mut *wanted, depth))?);
            }
            if !members.is_empty() {
                schema.insert(key.into(), Value::Object(members));
            }
        }
        if let Some(node) = &object.additional {
            schema.insert("additionalProperties".into(), self.node(normalizer, node, (wanted, depth))?);
        }
        if !object.required.is_empty() {
            schema.insert("required".into(), json!(object.required.iter().collect::<Vec<_>>()));
        }
        if object.min > 0 {
            schema.insert("minProperties".into(), json!(object.min));
        }
        if let Some(max) = object.max {
            schema.insert("maxProperties".into(), json!(max));
        }
        Ok(Value::Object(schema))
    }
}

fn number(numbers: &Numbers) -> Value {
    if let Some(values) = &numbers.values {
        return json!({ "enum": values });
    }
    let mut schema = Map::new();
    schema.insert("type".into(), json!(if numbers.integer { "integer" } else { "number" }));
    let mut bound = |bound: &Bound, plain: &str, exclusive: &str| {
        if let Some((number, is_exclusive)) = bound {
            schema.insert(if *is_exclusive { exclusive } else { plain }.into(), json!(number));
        }
    };
    bound(&numbers.min, "minimum", "exclusiveMinimum");
    bound(&numbers.max, "maximum", "exclusiveMaximum");
    let multiples: Vec<Value> = numbers
        .multiples
        .iter()
        .map(|multiple| json!({ "multipleOf": multiple, "type": "number" }))
        .collect();
    if !multiples.is_empty() {
        schema.insert("allOf".into(), Value::Array(multiples));
    }
    Value::Object(schema)
}

fn string(text: &Text) -> Value {
    let mut schema = Map::new();
    match &text.values {
        Some(values) => schema.insert("enum".into(), json!(values.iter().collect::<Vec<_>>())),
        None => schema.insert("type".into(), json!("string")),
    };
    if text.min > 0 {
        schema.insert("minLength".into(), json!(text.min));
    }
    if let Some(max) = text.max {
        schema.insert("maxLength".into(), json!(max));
    }
    let mut patterns = text.patterns.clone();
    if !text.excluded.is_empty() {
        patterns.push(none_of(text.excluded.iter().map(String::as_str)));
    }
    let mut all: Vec<Value> =
        patterns.iter().map(|pattern| json!({ "type": "string", "pattern": pattern })).collect();
    all.extend(text.formats.iter().map(|format| json!({ "type": "string", "format": format })));
    if !all.is_empty() {
        schema.insert("allOf".into(), Value::Array(all));
    }
    Value::Object(schema)
}
