//! What a schema comes to: alternatives, each of one type, of constraints that the library can express.

use indexmap::{IndexMap, IndexSet};
use serde_json::{Number, Value};

use super::document::Place;

/// A JSON value of the document, equal only to itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a>(pub &'a Value);

impl PartialEq for Given<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Given<'_> {}

impl std::hash::Hash for Given<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (std::ptr::from_ref(self.0) as usize).hash(state);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source<'a> {
    Schema(Place<'a>),
    Value(Given<'a>),
    Never,
}

/// A schema or its complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Atom<'a> {
    pub source: Source<'a>,
    pub negated: bool,
}

impl<'a> Atom<'a> {
    pub const NEVER: Self = Self { source: Source::Never, negated: false };

    pub fn schema(place: Place<'a>) -> Self {
        Self { source: Source::Schema(place), negated: false }
    }

    pub fn value(value: &'a Value) -> Self {
        Self { source: Source::Value(Given(value)), negated: false }
    }

    pub fn not(self) -> Self {
        Self { negated: !self.negated, ..self }
    }

    /// Whether nothing satisfies it, as far as can be seen without a look at other schemas.
    pub fn is_never(self) -> bool {
        match self.source {
            Source::Never => !self.negated,
            Source::Value(_) => false,
            Source::Schema(place) => *place.value == Value::Bool(self.negated),
        }
    }

    fn is_always(self) -> bool {
        self.not().is_never()
    }
}

/// All of these hold; without any, everything does. Kept in the order in which they were met, for the order of keys.
pub(super) type Node<'a> = Vec<Atom<'a>>;

pub(super) fn add<'a>(node: &mut Node<'a>, more: &[Atom<'a>]) {
    for &atom in more {
        if !atom.is_always() && !node.contains(&atom) {
            node.push(atom);
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape<'a> {
    Null,
    Boolean { yes: bool, no: bool },
    Number(Numbers),
    Text(Text),
    Array(Array<'a>),
    Object(Object<'a>),
}

/// A bound, and whether it is excluded.
pub(super) type Bound = Option<(Number, bool)>;

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Numbers {
    /// Nothing else, if given; then there are no other constraints.
    pub values: Option<Vec<Number>>,
    pub integer: bool,
    pub min: Bound,
    pub max: Bound,
    pub multiples: Vec<Number>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Text {
    /// Nothing else, if given; then there are no other constraints but formats.
    pub values: Option<IndexSet<String>>,
    pub excluded: IndexSet<String>,
    /// In characters.
    pub min: u64,
    pub max: Option<u64>,
    pub patterns: Vec<String>,
    /// By the library's names.
    pub formats: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Array<'a> {
    pub prefix: Vec<Node<'a>>,
    pub items: Option<Node<'a>>,
    pub min: u64,
    pub max: Option<u64>,
    /// Where `uniqueItems` stands.
    pub unique: Option<Given<'a>>,
    pub contains: Vec<Contains<'a>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contains<'a> {
    pub node: Atom<'a>,
    pub min: u64,
    pub max: Option<u64>,
    pub at: Given<'a>,
}

impl<'a> Array<'a> {
    pub fn item(&self, at: usize) -> Node<'a> {
        self.prefix.get(at).or(self.items.as_ref()).cloned().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Object<'a> {
    pub named: IndexMap<String, Node<'a>>,
    /// By pattern.
    pub matching: IndexMap<String, Node<'a>>,
    pub additional: Option<Node<'a>>,
    pub required: IndexSet<String>,
    pub min: u64,
    pub max: Option<u64>,
}

impl<'a> Shape<'a> {
    pub fn all() -> Vec<Self> {
        vec![
            Self::Null,
            Self::Boolean { yes: true, no: true },
            Self::Number(Numbers::default()),
            Self::Text(Text::default()),
            Self::Array(Array::default()),
            Self::Object(Object::default()),
        ]
    }

    pub fn is_same_type(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether it is all of its type.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean { yes, no } => *yes && *no,
            Self::Number(numbers) => *numbers == Numbers::default(),
            Self::Text(text) => *text == Text::default(),
            Self::Array(array) => *array == Array::default(),
            Self::Object(object) => *object == Object::default(),
        }
    }

    /// Exactly this value.
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Boolean { yes: *value, no: !*value },
            Value::Number(number) => {
                Self::Number(Numbers { values: Some(vec![number.clone()]), ..Numbers::default() })
            }
            Value::String(text) => {
                Self::Text(Text { values: Some([text.clone()].into_iter().collect()), ..Text::default() })
            }
            Value::Array(items) => Self::Array(Array {
                prefix: items.iter().map(|item| vec![Atom::value(item)]).collect(),
                items: Some(vec![Atom::NEVER]),
                min: items.len() as u64,
                max: Some(items.len() as u64),
                ..Array::default()
            }),
            Value::Object(entries) => Self::Object(Object {
                named: entries.iter().map(|(name, value)| (name.clone(), vec![Atom::value(value)])).collect(),
                additional: Some(vec![Atom::NEVER]),
                required: entries.keys().cloned().collect(),
                ..Object::default()
            }),
        }
    }

    /// How much work it is to look at it.
    pub fn size(&self) -> usize {
        1 + match self {
            Self::Array(array) => array.prefix.len(),
            Self::Object(object) => object.named.len() + object.matching.len(),
            _ => 0,
        }
    }
}

/// Alternatives among which equal ones are looked for.
const MAX_COMPARED: usize = 64;

/// Alternatives without those that are others' parts, given values in one.
pub(super) fn simplified<'a>(shapes: Vec<Shape<'a>>) -> Vec<Shape<'a>> {
    let mut kept: Vec<Shape<'a>> = Vec::with_capacity(shapes.len());
    let mut whole = Vec::new();
    for shape in shapes {
        let kind = std::mem::discriminant(&shape);
        if whole.contains(&kind) || (kept.len() < MAX_COMPARED && kept.contains(&shape)) {
            continue;
        }
        if shape.is_whole() {
            kept.retain(|one| !one.is_same_type(&shape));
            whole.push(kind);
        }
        let merged = kept.iter_mut().any(|one| merge(one, &shape));
        if !merged {
            kept.push(shape);
        }
    }
    kept
}

/// Takes in another's values, where both are nothing but values.
fn merge<'a>(into: &mut Shape<'a>, other: &Shape<'a>) -> bool {
    match (into, other) {
        (Shape::Boolean { yes, no }, Shape::Boolean { yes: other_yes, no: other_no }) => {
            (*yes, *no) = (*yes || *other_yes, *no || *other_no);
            true
        }
        (
            Shape::Number(Numbers { values: Some(values), .. }),
            Shape::Number(Numbers { values: Some(others), .. }),
        ) => {
            values.extend(others.iter().cloned());
            true
        }
        (
            Shape::Text(Text { values: Some(values), formats, .. }),
            Shape::Text(Text { values: Some(others), formats: other_formats, .. }),
        ) if formats == other_formats => {
            values.extend(others.iter().cloned());
            true
        }
        _ => false,
    }
}
