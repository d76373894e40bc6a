//! What the library has no keyword for, as more alternatives: counts of members, `contains`, `uniqueItems`.

use serde_json::{Value, json};

use super::Normalizer;
use super::shape::{Array, Atom, Node, Object, Shape, add};
use crate::GrammarError;

/// Alternatives that counting the members of one object may take.
const MAX_COUNTED: usize = 500;
/// Where in an array the item that it must contain may be, at most.
const MAX_CONTAINS: u64 = 32;
/// Values of which all arrangements are listed.
const MAX_ARRANGED: usize = 5;

/// An alternative for the library.
// Nearly all are shapes.
#[allow(clippy::large_enum_variant)]
pub(super) enum Final<'a> {
    Shape(Shape<'a>),
    /// One of these values.
    Values(Vec<Value>),
}

impl<'a> Normalizer<'a> {
    pub(super) fn finished(&mut self, node: &Node<'a>) -> Result<Vec<Final<'a>>, GrammarError> {
        let mut finished = Vec::new();
        for shape in self.expand(node)?.iter() {
            match shape {
                Shape::Object(object) => {
                    finished.extend(
                        self.counted(object)?.into_iter().map(|object| Final::Shape(Shape::Object(object))),
                    );
                }
                Shape::Array(array) => self.arranged(array, &mut finished)?,
                other => finished.push(Final::Shape(other.clone())),
            }
        }
        Ok(finished)
    }

    /// Objects whose counts the library can express: none, or no optional names beside them.
    fn counted(&mut self, object: &Object<'a>) -> Result<Vec<Object<'a>>, GrammarError> {
        let mut object = object.clone();
        let is_never = |node: &Node<'a>| node.iter().any(|atom| atom.is_never());
        let optional: Vec<String> = object
            .named
            .iter()
            .filter(|(name, node)| !object.required.contains(*name) && !is_never(node))
            .map(|(name, _)| name.clone())
            .collect();
        let required = object.required.len() as u64;
        let is_open = !object.additional.as_ref().is_some_and(is_never)
            || object.matching.values().any(|node| !is_never(node));
        if object.min <= required {
            object.min = 0;
        }
        if !is_open && object.max.is_some_and(|max| required + optional.len() as u64 <= max) {
            object.max = None;
        }
        if (object.min == 0 && object.max.is_none()) || optional.is_empty() {
            return Ok(vec![object]);
        }
        let mut counted = Vec::new();
        self.choose(object, &optional, is_open, &mut counted)?;
        Ok(counted)
    }

    /// By the first optional name that is there.
    fn choose(
        &mut self,
        object: Object<'a>,
        optional: &[String],
        is_open: bool,
        counted: &mut Vec<Object<'a>>,
    ) -> Result<(), GrammarError> {
        self.spend(object.named.len())?;
        if counted.len() > MAX_COUNTED {
            return Err(GrammarError::limit(
                "number of ways to count properties",
                counted.len(),
                MAX_COUNTED,
            ));
        }
        let required = object.required.len() as u64;
        if required >= object.min && object.max.is_none() {
            counted.push(Object { min: 0, ..object });
            return Ok(());
        }
        let mut rest = object;
        if rest.max.is_none_or(|max| required < max) {
            for (at, name) in optional.iter().enumerate() {
                let mut with = rest.clone();
                with.required.insert(name.clone());
                self.choose(with, optional.get(at + 1..).unwrap_or_default(), is_open, counted)?;
                rest.named.insert(name.clone(), vec![Atom::NEVER]);
            }
        }
        for name in optional {
            rest.named.insert(name.clone(), vec![Atom::NEVER]);
        }
        if is_open || required >= rest.min {
            counted.push(rest);
        }
        Ok(())
    }

    fn arranged(&mut self, array: &Array<'a>, finished: &mut Vec<Final<'a>>) -> Result<(), GrammarError> {
        let mut array = array.clone();
        if array.max.is_some_and(|max| max <= 1) {
            array.unique = None;
        }
        if let Some(at) = array.unique {
            let values = if array.prefix.is_empty() && array.contains.is_empty() {
                self.few_values(&array.items.clone().unwrap_or_default())?
            } else {
                None
            };
            let Some(values) = values else {
                let message = "items of more than a few given values cannot be kept from being equal";
                return Err(self.document.refuse(at.0, "uniqueItems", message));
            };
            let mut arrays = Vec::new();
            arrangements(&values, &mut Vec::new(), &mut arrays);
            arrays.retain(|items| {
                let count = items.as_array().map_or(0, Vec::len) as u64;
                count >= array.min && array.max.is_none_or(|max| count <= max)
            });
            finished.push(Final::Values(arrays));
            return Ok(());
        }
        self.containing(array, finished)
    }

    fn containing(
        &mut self,
        mut array: Array<'a>,
        finished: &mut Vec<Final<'a>>,
    ) -> Result<(), GrammarError> {
        let Some(contains) = array.contains.pop() else {
            finished.push(Final::Shape(Shape::Array(array)));
            return Ok(());
        };
        let refuse = |message| Err(self.document.refuse(contains.at.0, "contains", message));
        if contains.min != 1 || contains.max.is_some() {
            return refuse("counts other than one or more are not supported");
        }
        let Some(max) = array.max.filter(|max| *max <= MAX_CONTAINS) else {
            return refuse("without 'maxItems' of at most 32 it is not supported");
        };
        for at in 0..max {
            let mut with = array.clone();
            while with.prefix.len() as u64 <= at {
                with.prefix.push(array.items.clone().unwrap_or_default());
            }
            if let Some(item) = with.prefix.get_mut(at as usize) {
                add(item, &[contains.node]);
            }
            with.min = with.min.max(at + 1);
            self.spend(with.prefix.len())?;
            self.containing(with, finished)?;
        }
        Ok(())
    }

    /// The values of a node, if they are few.
    fn few_values(&mut self, node: &Node<'a>) -> Result<Option<Vec<Value>>, GrammarError> {
        let mut values = Vec::new();
        for shape in self.expand(node)?.iter() {
            match shape {
                Shape::Null => values.push(Value::Null),
                Shape::Boolean { yes, no } => {
                    values.extend(
                        [(*yes, true), (*no, false)]
                            .iter()
                            .filter(|(has, _)| *has)
                            .map(|(_, value)| json!(value)),
                    );
                }
                Shape::Number(numbers) => match &numbers.values {
                    Some(given) => values.extend(given.iter().cloned().map(Value::Number)),
                    None => return Ok(None),
                },
                Shape::Text(text) => match &text.values {
                    Some(given) if text.formats.is_empty() => {
                        values.extend(given.iter().cloned().map(Value::String))
                    }
                    _ => return Ok(None),
                },
                Shape::Array(_) | Shape::Object(_) => return Ok(None),
            }
        }
        Ok((values.len() <= MAX_ARRANGED).then_some(values))
    }
}

fn arrangements(values: &[Value], taken: &mut Vec<Value>, out: &mut Vec<Value>) {
    out.push(Value::Array(taken.clone()));
    for value in values {
        if !taken.iter().any(|one| super::holds::same(one, value)) {
            taken.push(value.clone());
            arrangements(values, taken, out);
            taken.pop();
        }
    }
}
