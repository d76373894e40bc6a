//! Both of two shapes at once.

use std::collections::HashSet;

use serde_json::{Number, Value};

use super::holds::number_holds;
use super::shape::{Array, Atom, Bound, Node, Numbers, Object, Shape, Text, add, simplified};
use super::{MAX_ALTERNATIVES, MAX_TRIAL, Normalizer};
use crate::GrammarError;

impl<'a> Normalizer<'a> {
    /// What satisfies one of `left` and one of `right`.
    pub(super) fn product(
        &mut self,
        left: Vec<Shape<'a>>,
        right: &[Shape<'a>],
    ) -> Result<Vec<Shape<'a>>, GrammarError> {
        if left.len() == 6 && left.iter().all(Shape::is_whole) {
            return Ok(right.to_vec());
        }
        let mut both = Vec::new();
        for a in &left {
            for b in right.iter().filter(|b| a.is_same_type(b)) {
                both.extend(self.meet(a, b)?);
            }
            if both.len() > MAX_ALTERNATIVES {
                return Err(GrammarError::limit(
                    "number of alternatives once combined",
                    both.len(),
                    MAX_ALTERNATIVES,
                ));
            }
        }
        Ok(simplified(both))
    }

    /// None if it is certain that nothing satisfies both.
    pub(super) fn meet(&mut self, a: &Shape<'a>, b: &Shape<'a>) -> Result<Option<Shape<'a>>, GrammarError> {
        self.spend(a.size() + b.size())?;
        if b.is_whole() {
            return Ok(Some(a.clone()));
        }
        if a.is_whole() {
            return Ok(Some(b.clone()));
        }
        Ok(match (a, b) {
            (Shape::Boolean { yes, no }, Shape::Boolean { yes: other_yes, no: other_no }) => {
                let (yes, no) = (*yes && *other_yes, *no && *other_no);
                (yes || no).then_some(Shape::Boolean { yes, no })
            }
            (Shape::Number(a), Shape::Number(b)) => numbers(a, b).map(Shape::Number),
            (Shape::Text(a), Shape::Text(b)) => self.texts(a, b)?.map(Shape::Text),
            (Shape::Array(a), Shape::Array(b)) => self.arrays(a, b)?.map(Shape::Array),
            (Shape::Object(a), Shape::Object(b)) => self.objects(a, b)?.map(Shape::Object),
            _ => None,
        })
    }

    fn texts(&mut self, a: &Text, b: &Text) -> Result<Option<Text>, GrammarError> {
        let mut text = a.clone();
        text.excluded.extend(b.excluded.iter().cloned());
        text.min = a.min.max(b.min);
        text.max = least(a.max, b.max);
        for pattern in &b.patterns {
            if !text.patterns.contains(pattern) {
                text.patterns.push(pattern.clone());
            }
        }
        for format in &b.formats {
            if !text.formats.contains(format) {
                text.formats.push(format);
            }
        }
        text.values = match (text.values.take(), &b.values) {
            (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
            (a, b) => a.or_else(|| b.clone()),
        };
        self.settled(text)
    }

    /// Applies the constraints to the values, if these are given; none if nothing is left.
    pub(super) fn settled(&mut self, mut text: Text) -> Result<Option<Text>, GrammarError> {
        if text.max.is_some_and(|max| text.min > max) {
            return Ok(None);
        }
        let Some(values) = text.values.take() else {
            let combined = text.patterns.len() > 1;
            return Ok((!combined || !self.is_empty_text(&text)).then_some(text));
        };
        let mut left = Text { formats: text.formats.clone(), ..Text::default() };
        let mut kept = indexmap::IndexSet::with_capacity(values.len());
        for value in values {
            let length = value.chars().count() as u64;
            let mut holds = length >= text.min
                && text.max.is_none_or(|max| length <= max)
                && !text.excluded.contains(&value);
            for pattern in &text.patterns {
                holds = holds && self.matches(pattern, &value)?;
            }
            if holds {
                kept.insert(value);
            }
        }
        let some = !kept.is_empty();
        left.values = Some(kept);
        Ok(some.then_some(left))
    }

    fn is_empty_text(&mut self, text: &Text) -> bool {
        let key = (text.patterns.clone(), text.min, text.max);
        if let Some(&empty) = self.empty.get(&key) {
            return empty;
        }
        let empty = self.patterns.is_empty(&text.patterns, text.min, text.max);
        self.empty.insert(key, empty);
        empty
    }

    fn arrays(&mut self, a: &Array<'a>, b: &Array<'a>) -> Result<Option<Array<'a>>, GrammarError> {
        let mut array = Array {
            min: a.min.max(b.min),
            max: least(a.max, b.max),
            unique: a.unique.or(b.unique),
            contains: a.contains.clone(),
            ..Array::default()
        };
        array.contains.extend(b.contains.iter().filter(|one| !a.contains.contains(one)).cloned());
        for at in 0..a.prefix.len().max(b.prefix.len()) {
            let mut item = a.item(at);
            add(&mut item, &b.item(at));
            array.prefix.push(item);
        }
        array.items = both(a.items.as_ref(), b.items.as_ref());
        if array.max.is_some_and(|max| array.min > max) {
            return Ok(None);
        }
        let needed = array.prefix.len().min(usize::try_from(array.min).unwrap_or(usize::MAX));
        for node in array.prefix.iter().take(needed) {
            if self.is_impossible(node)? {
                return Ok(None);
            }
        }
        Ok(Some(array))
    }

    fn objects(&mut self, a: &Object<'a>, b: &Object<'a>) -> Result<Option<Object<'a>>, GrammarError> {
        let (min, max) = (a.min.max(b.min), least(a.max, b.max));
        for name in a.required.union(&b.required) {
            let mut member = self.member(a, name)?;
            add(&mut member, &self.member(b, name)?);
            if self.is_impossible(&member)? {
                return Ok(None);
            }
        }
        let mut object = Object {
            min,
            max,
            required: a.required.union(&b.required).cloned().collect(),
            ..Object::default()
        };
        if max.is_some_and(|max| min > max || object.required.len() as u64 > max) {
            return Ok(None);
        }
        for name in a.named.keys().chain(b.named.keys().filter(|name| !a.named.contains_key(*name))) {
            let mut member = self.member(a, name)?;
            add(&mut member, &self.member(b, name)?);
            object.named.insert(name.clone(), member);
        }
        // Patterns that overlap are refused by the library, so a name has at most one.
        for (pattern, node) in &a.matching {
            let mut node = node.clone();
            add(
                &mut node,
                b.matching.get(pattern).or(b.additional.as_ref()).map_or(&[], |node| node.as_slice()),
            );
            object.matching.insert(pattern.clone(), node);
        }
        for (pattern, node) in b.matching.iter().filter(|(pattern, _)| !a.matching.contains_key(*pattern)) {
            let mut first = a.additional.clone().unwrap_or_default();
            add(&mut first, node);
            object.matching.insert(pattern.clone(), first);
        }
        object.additional = both(a.additional.as_ref(), b.additional.as_ref());
        Ok(Some(object))
    }

    /// What the value under a name must satisfy.
    pub(super) fn member(&mut self, object: &Object<'a>, name: &str) -> Result<Node<'a>, GrammarError> {
        if let Some(node) = object.named.get(name) {
            return Ok(node.clone());
        }
        let mut node = Vec::new();
        let mut found = false;
        for (pattern, more) in &object.matching {
            if self.matches(pattern, name)? {
                add(&mut node, more);
                found = true;
            }
        }
        if !found {
            node = object.additional.clone().unwrap_or_default();
        }
        Ok(node)
    }

    /// Whether it is certain that nothing satisfies a node. What cannot be expanded now is taken to be possible.
    pub(super) fn is_impossible(&mut self, node: &Node<'a>) -> Result<bool, GrammarError> {
        if node.iter().any(|atom| atom.is_never() || node.contains(&atom.not())) {
            return Ok(true);
        }
        if node.len() < 2 || self.trial >= MAX_TRIAL {
            return Ok(false);
        }
        self.trial += 1;
        let shapes = self.expand(node);
        self.trial -= 1;
        match shapes {
            Ok(shapes) => Ok(shapes.is_empty()),
            Err(error @ (GrammarError::Limit { .. } | GrammarError::Cancelled)) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

fn both<'a>(a: Option<&Node<'a>>, b: Option<&Node<'a>>) -> Option<Node<'a>> {
    match (a, b) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (Some(a), Some(b)) => {
            let mut node: Vec<Atom<'a>> = a.clone();
            add(&mut node, b);
            Some(node)
        }
    }
}

pub(super) fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

pub(super) fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(0.0)
}

/// Equal for equal numbers: 1 and 1.0 are one.
pub(super) fn key(number: &Number) -> u64 {
    // Adding zero takes the sign from zero.
    (float(number) + 0.0).to_bits()
}

pub(super) fn keys(numbers: &[Number]) -> HashSet<u64> {
    numbers.iter().map(key).collect()
}

/// The stricter of two bounds: the greater one where `sign` is 1, the less where it is -1.
fn stricter(a: &Bound, b: &Bound, sign: f64) -> Bound {
    match (a, b) {
        (Some((x, x_out)), Some((y, y_out))) => {
            let (left, right) = (float(x) * sign, float(y) * sign);
            if left > right || (left == right && *x_out) {
                Some((x.clone(), *x_out))
            } else {
                Some((y.clone(), *y_out))
            }
        }
        (one, None) | (None, one) => one.clone(),
    }
}

pub(super) fn numbers(a: &Numbers, b: &Numbers) -> Option<Numbers> {
    let mut number = Numbers {
        values: None,
        integer: a.integer || b.integer,
        min: stricter(&a.min, &b.min, 1.0),
        max: stricter(&a.max, &b.max, -1.0),
        multiples: a.multiples.clone(),
    };
    number.multiples.extend(b.multiples.iter().filter(|one| !a.multiples.contains(one)).cloned());
    number.values = match (&a.values, &b.values) {
        (Some(a), Some(b)) => {
            let b = keys(b);
            Some(a.iter().filter(|x| b.contains(&key(x))).cloned().collect())
        }
        (one, other) => one.clone().or_else(|| other.clone()),
    };
    settled_numbers(number)
}

/// Applies the constraints to the values, if these are given; none if nothing is left.
pub(super) fn settled_numbers(mut number: Numbers) -> Option<Numbers> {
    let Some(values) = number.values.take() else {
        let (Some((min, min_out)), Some((max, max_out))) = (&number.min, &number.max) else {
            return Some(number);
        };
        let (min, max) = (float(min), float(max));
        let (low, high) = if number.integer {
            let low = if *min_out { min.floor() + 1.0 } else { min.ceil() };
            let high = if *max_out { max.ceil() - 1.0 } else { max.floor() };
            (low, high)
        } else {
            (min, max)
        };
        let open = !number.integer && (*min_out || *max_out);
        return (low < high || (low == high && !open)).then_some(number);
    };
    let holds = |value: &Number| {
        let value = float(value);
        (!number.integer || value.fract() == 0.0)
            && number
                .min
                .as_ref()
                .is_none_or(|(min, out)| value > float(min) || (value == float(min) && !out))
            && number
                .max
                .as_ref()
                .is_none_or(|(max, out)| value < float(max) || (value == float(max) && !out))
            && number.multiples.iter().all(|multiple| {
                let (entries, multiple) = (serde_json::Map::new(), Value::Number(multiple.clone()));
                number_holds(value, &entries, "multipleOf", &multiple) == Some(true)
            })
    };
    let values: Vec<Number> = values.into_iter().filter(holds).collect();
    (!values.is_empty()).then(|| Numbers { values: Some(values), ..Numbers::default() })
}
