//! JSON Schema, drafts 4 to 2020-12, in the part of it that the library has.
//!
//! A schema becomes alternatives, each of one type ([`shape::Shape`]), whose members and items are conjunctions of
//! schemas or of their complements ([`shape::Node`]), which are expanded in turn. So `allOf`, `oneOf`, `not`, `if`, `$ref`
//! and the dependencies are gone in what the library gets. What cannot be expressed so is refused with its place.

mod constraints;
mod document;
mod emit;
mod finish;
mod format;
mod holds;
mod meet;
mod nesting;
mod pattern;
mod read;
mod shape;
mod subtract;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::Value;

use crate::GrammarError;
use crate::watch::Watch;
use document::Document;
use pattern::Patterns;
use shape::{Atom, Node, Shape};

/// Alternatives with their members, all steps together.
const MAX_WORK: usize = 150_000;
/// Alternatives of one schema.
const MAX_ALTERNATIVES: usize = 2_000;
/// Steps from one look at the watch to the next; a step takes microseconds.
const TICKS: usize = 32;
/// References and combinations within one another.
const MAX_DEPTH: usize = 100;
/// Schemas and references within one another for the library, which takes at most 4 kB of stack for each.
const MAX_NESTING: usize = 1_000;
/// How far members are looked into for a contradiction.
const MAX_TRIAL: usize = 3;

/// A schema that means the same, in the library's keywords.
///
/// # Errors
/// [`GrammarError::Keyword`] for what cannot be expressed, [`GrammarError::Limit`] where too much would come of it,
/// [`GrammarError::Empty`] where nothing satisfies the schema, [`GrammarError::Cancelled`].
pub(crate) fn normalized(schema: &Value, watch: &Watch<'_>) -> Result<Value, GrammarError> {
    let mut normalizer = Normalizer {
        watch,
        document: Document::new(schema),
        patterns: Patterns::default(),
        atoms: HashMap::new(),
        nodes: HashMap::new(),
        empty: HashMap::new(),
        lists: HashMap::new(),
        busy: HashSet::new(),
        work: 0,
        ticks: 0,
        depth: 0,
        trial: 0,
    };
    let root = vec![Atom::schema(normalizer.document.root())];
    let normalized = emit::emit(&mut normalizer, root)?;
    let nesting = nesting::nesting(&normalized);
    if nesting > MAX_NESTING {
        return Err(GrammarError::limit("nesting depth once references are followed", nesting, MAX_NESTING));
    }
    Ok(normalized)
}

struct Normalizer<'a> {
    watch: &'a Watch<'a>,
    document: Document<'a>,
    patterns: Patterns,
    atoms: HashMap<Atom<'a>, Rc<Vec<Shape<'a>>>>,
    nodes: HashMap<Node<'a>, Rc<Vec<Shape<'a>>>>,
    /// Whether patterns exclude one another.
    empty: HashMap<(Vec<String>, u64, Option<u64>), bool>,
    /// The values of long lists, by the list's address.
    lists: HashMap<usize, HashSet<String>>,
    /// What is being expanded.
    busy: HashSet<Atom<'a>>,
    work: usize,
    ticks: usize,
    depth: usize,
    trial: usize,
}

impl<'a> Normalizer<'a> {
    fn spend(&mut self, work: usize) -> Result<(), GrammarError> {
        self.work += work;
        if self.work > MAX_WORK {
            return Err(GrammarError::limit("number of alternatives once combined", self.work, MAX_WORK));
        }
        self.tick()
    }

    /// Called in every loop that a schema can make long: looks at the watch now and then.
    fn tick(&mut self) -> Result<(), GrammarError> {
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS) { self.watch.check() } else { Ok(()) }
    }

    /// The alternatives of a node.
    fn expand(&mut self, node: &Node<'a>) -> Result<Rc<Vec<Shape<'a>>>, GrammarError> {
        if let Some(shapes) = self.nodes.get(node) {
            return Ok(Rc::clone(shapes));
        }
        let shapes = match self.given(node)? {
            Some(values) => {
                let mut shapes = Vec::new();
                for value in values {
                    if self.holds_all(value, node)? {
                        shapes.push(Shape::of(value));
                    }
                }
                shape::simplified(shapes)
            }
            None => {
                let mut shapes = Shape::all();
                for &atom in node {
                    let right = self.alternatives(atom)?;
                    shapes = self.product(shapes, &right)?;
                }
                shapes
            }
        };
        self.spend(shapes.iter().map(Shape::size).sum())?;
        let shapes = Rc::new(shapes);
        self.nodes.insert(node.clone(), Rc::clone(&shapes));
        Ok(shapes)
    }
}
