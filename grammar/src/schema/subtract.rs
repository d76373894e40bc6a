//! One shape without another, where that can be expressed.

use serde_json::Number;

use super::Normalizer;
use super::meet::{key, keys, least, settled_numbers};
use super::pattern::any_of;
use super::shape::{Array, Atom, Node, Numbers, Object, Shape, Text, simplified};
use crate::GrammarError;

/// Texts and numbers that are left out one by one.
const MAX_EXCLUDED: usize = 200;
/// Characters of a text that is left out: the pattern for it nests three times as deep.
const MAX_EXCLUDED_LENGTH: usize = 80;
/// Alternatives that may be left of one.
const MAX_PARTS: usize = 64;
/// Items of which each may be the one that differs.
const MAX_ITEMS: u64 = 8;

/// None where it cannot be expressed.
type Difference<'a> = Result<Option<Vec<Shape<'a>>>, GrammarError>;

impl<'a> Normalizer<'a> {
    /// What satisfies `shape` and none of `others`.
    pub(super) fn without(&mut self, shape: Shape<'a>, others: &[Shape<'a>]) -> Difference<'a> {
        let mut left = vec![shape];
        for other in others {
            let mut next = Vec::new();
            for shape in left {
                if !shape.is_same_type(other) || self.meet(&shape, other)?.is_none() {
                    next.push(shape);
                    continue;
                }
                match self.subtract(&shape, other)? {
                    Some(parts) => next.extend(parts),
                    None => return Ok(None),
                }
            }
            left = simplified(next);
            if left.len() > MAX_PARTS {
                return Ok(None);
            }
        }
        Ok(Some(left))
    }

    fn subtract(&mut self, a: &Shape<'a>, b: &Shape<'a>) -> Difference<'a> {
        self.spend(a.size() + b.size())?;
        if b.is_whole() || a == b {
            return Ok(Some(Vec::new()));
        }
        Ok(match (a, b) {
            (Shape::Boolean { yes, no }, Shape::Boolean { yes: not_yes, no: not_no }) => {
                let (yes, no) = (*yes && !*not_yes, *no && !*not_no);
                Some(if yes || no { vec![Shape::Boolean { yes, no }] } else { Vec::new() })
            }
            (Shape::Number(a), Shape::Number(b)) => {
                numbers(a, b).map(|parts| parts.into_iter().map(Shape::Number).collect())
            }
            (Shape::Text(a), Shape::Text(b)) => self.text_without(a, b)?,
            (Shape::Array(a), Shape::Array(b)) => self.array_without(a, b)?,
            (Shape::Object(a), Shape::Object(b)) => self.object_without(a, b)?,
            _ => Some(vec![a.clone()]),
        })
    }

    fn text_without(&mut self, a: &Text, b: &Text) -> Difference<'a> {
        if !b.formats.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let mut part = |this: &mut Self, change: &dyn Fn(&mut Text)| {
            let mut text = a.clone();
            change(&mut text);
            parts.extend(this.settled(text)?.map(Shape::Text));
            Ok::<_, GrammarError>(())
        };
        if let Some(values) = &b.values {
            let is_long = |value: &String| value.chars().count() > MAX_EXCLUDED_LENGTH;
            let many = a.excluded.len() + values.len() > MAX_EXCLUDED || values.iter().any(is_long);
            if many && a.values.is_none() {
                return Ok(None);
            }
            part(self, &|text| text.excluded.extend(values.iter().cloned()))?;
            return Ok(Some(parts));
        }
        if b.min > 0 {
            part(self, &|text| text.max = least(text.max, Some(b.min - 1)))?;
        }
        if let Some(max) = b.max {
            part(self, &|text| text.min = text.min.max(max + 1))?;
        }
        for pattern in &b.patterns {
            match &a.values {
                Some(values) => {
                    let mut kept = indexmap::IndexSet::new();
                    for value in values {
                        if !self.matches(pattern, value)? {
                            kept.insert(value.clone());
                        }
                    }
                    part(self, &|text| text.values = Some(kept.clone()))?;
                }
                None if a.patterns.iter().any(|own| self.patterns.is_within(own, pattern)) => {}
                None => return Ok(None),
            }
        }
        if !b.excluded.is_empty() {
            let only = any_of(b.excluded.iter().map(String::as_str));
            part(self, &|text| match &mut text.values {
                Some(values) => values.retain(|value| b.excluded.contains(value)),
                None if text.patterns.is_empty() => text.values = Some(b.excluded.clone()),
                None => text.patterns.push(only.clone()),
            })?;
        }
        Ok(Some(parts))
    }

    fn array_without(&mut self, a: &Array<'a>, b: &Array<'a>) -> Difference<'a> {
        if b.unique.is_some() || !b.contains.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::new();
        if b.min > 0 {
            parts.push(Array { max: least(a.max, Some(b.min - 1)), ..a.clone() });
        }
        if let Some(max) = b.max {
            parts.push(Array { min: a.min.max(max + 1), ..a.clone() });
        }
        let mut differs = |at: usize, node: &Node<'a>| {
            for atom in node {
                let mut array = a.clone();
                while array.prefix.len() <= at {
                    array.prefix.push(array.items.clone().unwrap_or_default());
                }
                array.min = array.min.max(at as u64 + 1);
                if let Some(item) = array.prefix.get_mut(at) {
                    super::shape::add(item, &[atom.not()]);
                }
                parts.push(array);
            }
        };
        for (at, node) in b.prefix.iter().enumerate() {
            differs(at, node);
        }
        let first = b.prefix.len();
        match (&b.items, a.max) {
            (None, _) => {}
            (Some(node), _) if node.as_slice() == [Atom::NEVER] => differs(first, node),
            (Some(node), Some(max)) if max <= MAX_ITEMS => {
                for at in first..usize::try_from(max).unwrap_or(usize::MAX) {
                    differs(at, node);
                }
            }
            (Some(_), _) => return Ok(None),
        }
        let mut left = Vec::new();
        for array in parts {
            // Meeting it with its own bounds drops what is impossible.
            let bounds = Shape::Array(Array { min: array.min, max: array.max, ..Array::default() });
            left.extend(self.meet(&Shape::Array(array), &bounds)?);
        }
        Ok(Some(left))
    }

    fn object_without(&mut self, a: &Object<'a>, b: &Object<'a>) -> Difference<'a> {
        let is_closed = a.matching.is_empty()
            && a.additional.as_ref().is_some_and(|node| node.iter().any(|one| one.is_never()));
        if !is_closed && (!b.matching.is_empty() || b.additional.is_some()) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for name in b.required.iter().filter(|name| !a.required.contains(*name)) {
            parts.push(Object {
                named: [(name.clone(), vec![Atom::NEVER])].into_iter().collect(),
                ..Object::default()
            });
        }
        if b.min > 0 {
            parts.push(Object { max: Some(b.min - 1), ..Object::default() });
        }
        if let Some(max) = b.max {
            parts.push(Object { min: max + 1, ..Object::default() });
        }
        let names = b.named.keys().chain(a.named.keys().filter(|name| !b.named.contains_key(*name)));
        for name in names {
            for atom in self.member(b, name)? {
                parts.push(Object {
                    named: [(name.clone(), vec![atom.not()])].into_iter().collect(),
                    required: [name.clone()].into_iter().collect(),
                    ..Object::default()
                });
            }
        }
        let mut left = Vec::new();
        for part in parts {
            left.extend(self.meet(&Shape::Object(a.clone()), &Shape::Object(part))?);
        }
        Ok(Some(left))
    }
}

fn numbers(a: &Numbers, b: &Numbers) -> Option<Vec<Numbers>> {
    if let Some(values) = &b.values {
        return numbers_but(a, values);
    }
    if let Some(values) = &a.values {
        // What of the values the other does not have.
        let both = settled_numbers(Numbers { values: Some(values.clone()), ..b.clone() });
        let both = keys(&both.and_then(|numbers| numbers.values).unwrap_or_default());
        let left: Vec<Number> = values.iter().filter(|value| !both.contains(&key(value))).cloned().collect();
        return Some(if left.is_empty() {
            Vec::new()
        } else {
            vec![Numbers { values: Some(left), ..Numbers::default() }]
        });
    }
    if (b.integer && !a.integer) || b.multiples.iter().any(|multiple| !a.multiples.contains(multiple)) {
        return None;
    }
    let mut parts = Vec::new();
    if let Some((min, out)) = &b.min {
        parts.push(Numbers { max: Some((min.clone(), !out)), ..Numbers::default() });
    }
    if let Some((max, out)) = &b.max {
        parts.push(Numbers { min: Some((max.clone(), !out)), ..Numbers::default() });
    }
    Some(parts.iter().filter_map(|part| super::meet::numbers(a, part)).collect())
}

/// The ranges between some values.
fn numbers_but(a: &Numbers, values: &[Number]) -> Option<Vec<Numbers>> {
    if values.len() > MAX_EXCLUDED {
        return None;
    }
    let mut left = vec![a.clone()];
    for value in values {
        let below = Numbers { max: Some((value.clone(), true)), ..Numbers::default() };
        let above = Numbers { min: Some((value.clone(), true)), ..Numbers::default() };
        left = left
            .iter()
            .flat_map(|part| [super::meet::numbers(part, &below), super::meet::numbers(part, &above)])
            .flatten()
            .collect();
    }
    Some(left)
}
