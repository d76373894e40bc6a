//! A schema's text: its drafts, identifiers and references.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use serde_json::{Map, Value};

use crate::GrammarError;

/// Values under these are data, not schemas.
const DATA: [&str; 4] = ["enum", "const", "default", "examples"];
/// Values under these are schemas by name.
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependencies", "dependentSchemas"];

/// A subschema and the resource that its references start from. Equal only to itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub value: &'a Value,
    pub resource: usize,
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.value, other.value) && self.resource == other.resource
    }
}

impl Eq for Place<'_> {}

impl Hash for Place<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (std::ptr::from_ref(self.value) as usize, self.resource).hash(state);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Draft {
    /// Draft 7 and before: nothing beside `$ref` counts.
    Seven,
    Draft2019,
    Draft2020,
}

impl Draft {
    /// By `$schema`; what is not known is the newest.
    fn of(entries: &Map<String, Value>, otherwise: Self) -> Self {
        match entries.get("$schema").and_then(Value::as_str) {
            Some(uri)
                if ["draft-07", "draft-06", "draft-04", "draft-03"].iter().any(|old| uri.contains(old)) =>
            {
                Self::Seven
            }
            Some(uri) if uri.contains("2019-09") => Self::Draft2019,
            Some(_) => Self::Draft2020,
            None => otherwise,
        }
    }
}

struct Resource<'a> {
    uri: String,
    root: &'a Value,
    draft: Draft,
}

pub(super) struct Document<'a> {
    root: &'a Value,
    resources: Vec<Resource<'a>>,
    by_uri: HashMap<String, usize>,
    /// Resource of each subschema that begins one.
    begins: HashMap<usize, usize>,
    anchors: HashMap<(usize, &'a str), &'a Value>,
    dynamic: Vec<&'a str>,
}

impl<'a> Document<'a> {
    pub fn new(root: &'a Value) -> Self {
        let draft = root.as_object().map_or(Draft::Draft2020, |entries| Draft::of(entries, Draft::Draft2020));
        let mut document = Self {
            root,
            resources: vec![Resource { uri: String::new(), root, draft }],
            by_uri: HashMap::new(),
            begins: HashMap::new(),
            anchors: HashMap::new(),
            dynamic: Vec::new(),
        };
        document.index(root, 0);
        document
    }

    pub fn root(&self) -> Place<'a> {
        self.enter(self.root, 0)
    }

    pub fn draft(&self, place: Place<'a>) -> Draft {
        self.resources.get(place.resource).map_or(Draft::Draft2020, |resource| resource.draft)
    }

    /// A subschema within a resource, or the one that it begins.
    pub fn enter(&self, value: &'a Value, resource: usize) -> Place<'a> {
        let begun = self.begins.get(&(std::ptr::from_ref(value) as usize)).copied();
        Place { value, resource: begun.unwrap_or(resource) }
    }

    // The document's depth is bounded before, so recursion is safe.
    fn index(&mut self, value: &'a Value, mut resource: usize) {
        let Some(entries) = value.as_object() else { return };
        let text = |key| entries.get(key).and_then(Value::as_str);
        let old = self.resources.get(resource).is_some_and(|outer| outer.draft == Draft::Seven);
        let id = text("$id").or_else(|| text("id")).filter(|_| !(old && entries.contains_key("$ref")));
        match id.map(|id| id.split_once('#').unwrap_or((id, ""))) {
            Some(("", anchor)) if !anchor.is_empty() => {
                self.anchors.entry((resource, anchor)).or_insert(value);
            }
            Some((id, _)) if !id.is_empty() => resource = self.begin(entries, value, id, resource),
            _ => {}
        }
        for (key, dynamic) in [("$anchor", false), ("$dynamicAnchor", true)] {
            if let Some(anchor) = text(key) {
                self.anchors.entry((resource, anchor)).or_insert(value);
                if dynamic {
                    self.dynamic.push(anchor);
                }
            }
        }
        for (key, value) in entries {
            match value {
                Value::Object(named) if NAMED.contains(&key.as_str()) => {
                    named.values().for_each(|value| self.index(value, resource));
                }
                Value::Object(_) if !DATA.contains(&key.as_str()) => self.index(value, resource),
                Value::Array(items) if !DATA.contains(&key.as_str()) => {
                    items.iter().for_each(|value| self.index(value, resource));
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, entries: &Map<String, Value>, value: &'a Value, id: &str, outer: usize) -> usize {
        let (base, draft) =
            self.resources.get(outer).map_or(("", Draft::Draft2020), |outer| (&outer.uri, outer.draft));
        let (uri, draft) = (resolve(base, id), Draft::of(entries, draft));
        let resource = self.resources.len();
        self.resources.push(Resource { uri: uri.clone(), root: value, draft });
        self.by_uri.entry(uri).or_insert(resource);
        self.begins.insert(std::ptr::from_ref(value) as usize, resource);
        resource
    }

    /// What a reference refers to; none if that is not in the document.
    pub fn refer(&self, from: Place<'a>, reference: &str) -> Option<Place<'a>> {
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = if uri.is_empty() {
            from.resource
        } else {
            *self.by_uri.get(&resolve(&self.resources.get(from.resource)?.uri, uri))?
        };
        let root = self.resources.get(resource)?.root;
        let fragment = percent_decoded(fragment);
        if fragment.is_empty() {
            return Some(self.enter(root, resource));
        }
        match fragment.strip_prefix('/') {
            None => self.anchors.get(&(resource, fragment.as_str())).map(|value| self.enter(value, resource)),
            Some(path) => path.split('/').try_fold(self.enter(root, resource), |place, step| {
                let step = step.replace("~1", "/").replace("~0", "~");
                let value = match place.value {
                    Value::Object(entries) => entries.get(&step)?,
                    Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                    _ => return None,
                };
                Some(self.enter(value, place.resource))
            }),
        }
    }

    /// A dynamic reference whose anchor occurs once is a plain one.
    pub fn is_plain_dynamic(&self, reference: &str) -> bool {
        let anchor = reference.rsplit('#').next().unwrap_or_default();
        self.dynamic.iter().filter(|name| **name == anchor).count() < 2
    }

    pub fn is_one_resource(&self) -> bool {
        self.resources.len() < 3
    }

    /// An error about keyword `keyword` of the subschema.
    pub fn refuse(&self, at: &Value, keyword: &str, message: impl Into<String>) -> GrammarError {
        let mut path = String::new();
        locate(self.root, at, &mut path);
        GrammarError::Keyword { keyword: keyword.to_owned(), path, message: message.into() }
    }
}

/// Writes the JSON pointer of a value that is within another, by its address.
fn locate(within: &Value, value: &Value, path: &mut String) -> bool {
    if std::ptr::eq(within, value) {
        return true;
    }
    let length = path.len();
    let mut step = |key: &str, child: &Value| {
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let found = locate(child, value, path);
        if !found {
            path.truncate(length);
        }
        found
    };
    match within {
        Value::Object(entries) => entries.iter().any(|(key, child)| step(key, child)),
        Value::Array(items) => items.iter().enumerate().any(|(at, child)| step(&at.to_string(), child)),
        _ => false,
    }
}

/// A URI reference against a base (RFC 3986, without dot segments).
fn resolve(base: &str, reference: &str) -> String {
    let has_scheme = reference.split_once(':').is_some_and(|(scheme, _)| !scheme.contains(['/', '?', '#']));
    let (prefix, path) = match base.split_once("://") {
        Some((scheme, rest)) => base.split_at(scheme.len() + 3 + rest.find('/').unwrap_or(rest.len())),
        None => ("", base),
    };
    let uri = if has_scheme || base.is_empty() {
        reference.to_owned()
    } else if reference.starts_with('/') {
        format!("{prefix}{reference}")
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{prefix}{folder}{}", reference.trim_start_matches("./"))
    };
    uri.trim_end_matches('#').to_owned()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
