//! Orders of an instance's keys: whether a grammar takes it in any, and which it wants.

use serde_json::{Map, Value, json};
use weirgate_engine::{Grammar, GrammarSource};

/// Masks that a search may take.
const MASKS: usize = 50_000;

/// The instance with its keys in an order in which the grammar takes all of it.
pub fn ordered(
    source: &dyn GrammarSource,
    vocab: usize,
    tokenize: &dyn Fn(&str) -> Vec<u32>,
    (instance, schema): (&Value, &Value),
) -> Option<Value> {
    let mut orders = Vec::new();
    orders_in(schema, &mut orders);
    let mut search = Search { grammar: source.start(), vocab, tokenize, orders, masks: 0 };
    let (_, ordered) = search.value(instance)?;
    search.grammar.is_final().ok()?.then_some(ordered)
}

/// Walks a grammar along an instance; every step returns how many tokens it took, or takes none.
struct Search<'a> {
    grammar: Box<dyn Grammar>,
    vocab: usize,
    tokenize: &'a dyn Fn(&str) -> Vec<u32>,
    /// Names that a schema lists, list by list.
    orders: Vec<Vec<&'a str>>,
    masks: usize,
}

impl Search<'_> {
    fn back(&mut self, tokens: usize) {
        self.grammar.rollback(tokens).expect("taken before");
    }

    fn text(&mut self, text: &str) -> Option<usize> {
        let tokens = (self.tokenize)(text);
        for (taken, &token) in tokens.iter().enumerate() {
            let mut mask = vec![0u32; self.vocab.div_ceil(32)];
            self.masks += 1;
            self.grammar.fill_mask(&mut mask).expect("no fault");
            if self.masks > MASKS || mask[token as usize / 32] & (1 << (token % 32)) == 0 {
                self.back(taken);
                return None;
            }
            self.grammar.advance(token).expect("allowed");
        }
        Some(tokens.len())
    }

    fn value(&mut self, value: &Value) -> Option<(usize, Value)> {
        match value {
            Value::Array(items) => {
                let (mut taken, mut done) = (self.text("[")?, Vec::new());
                for item in items {
                    let comma = if done.is_empty() { Some(0) } else { self.text(",") };
                    taken += comma.unwrap_or(0);
                    let Some((tokens, item)) = comma.and_then(|_| self.value(item)) else {
                        self.back(taken);
                        return None;
                    };
                    taken += tokens;
                    done.push(item);
                }
                let Some(tokens) = self.text("]") else {
                    self.back(taken);
                    return None;
                };
                Some((taken + tokens, Value::Array(done)))
            }
            Value::Object(entries) => {
                let open = self.text("{")?;
                let Some((tokens, entries)) = self.members(&self.sorted(entries), true) else {
                    self.back(open);
                    return None;
                };
                Some((open + tokens, Value::Object(entries.into_iter().rev().collect())))
            }
            other => Some((self.text(&other.to_string())?, other.clone())),
        }
    }

    /// The members that are left, in any order, the given one first; they come back last first.
    fn members(&mut self, left: &[(&str, &Value)], first: bool) -> Option<(usize, Vec<(String, Value)>)> {
        if left.is_empty() {
            return Some((self.text("}")?, Vec::new()));
        }
        for at in 0..left.len() {
            let mut rest = left.to_vec();
            let (name, value) = rest.remove(at);
            let Some(key) = self.text(&format!("{}{}:", if first { "" } else { "," }, json!(name))) else {
                continue;
            };
            let Some((tokens, value)) = self.value(value) else {
                self.back(key);
                continue;
            };
            if let Some((after, mut members)) = self.members(&rest, false) {
                members.push((name.to_owned(), value));
                return Some((key + tokens + after, members));
            }
            self.back(key + tokens);
        }
        None
    }

    /// In the order of the list that has most of the names, the others after them.
    fn sorted<'v>(&self, entries: &'v Map<String, Value>) -> Vec<(&'v str, &'v Value)> {
        let known = |order: &Vec<&str>| order.iter().filter(|name| entries.contains_key(**name)).count();
        // Of equally good ones the first.
        let best = self.orders.iter().rev().max_by_key(|order| known(order)).cloned().unwrap_or_default();
        let mut members: Vec<_> = entries.iter().map(|(name, value)| (name.as_str(), value)).collect();
        members.sort_by_key(|(key, _)| best.iter().position(|name| name == key).unwrap_or(usize::MAX));
        members
    }
}

fn orders_in<'a>(schema: &'a Value, orders: &mut Vec<Vec<&'a str>>) {
    match schema {
        Value::Object(entries) => {
            let named = entries.get("properties").and_then(Value::as_object);
            orders.extend(named.map(|named| named.keys().map(String::as_str).collect()));
            entries.values().for_each(|value| orders_in(value, orders));
        }
        Value::Array(items) => items.iter().for_each(|item| orders_in(item, orders)),
        _ => {}
    }
}

/// Where two orders of one instance part, in words.
pub fn difference(given: &Value, wanted: &Value) -> String {
    let (path, first, second) = parting(given, wanted).unwrap_or_default();
    let path = if path.is_empty() { "the whole".to_owned() } else { format!("`{path}`") };
    format!("key order: `{first}` comes before `{second}` in {path}")
}

fn parting(given: &Value, wanted: &Value) -> Option<(String, String, String)> {
    let inner = |step: String, given: &Value, wanted: &Value| {
        parting(given, wanted).map(|(path, first, second)| (format!("/{step}{path}"), first, second))
    };
    match (given, wanted) {
        (Value::Array(given), Value::Array(wanted)) => {
            given.iter().zip(wanted).enumerate().find_map(|(at, (a, b))| inner(at.to_string(), a, b))
        }
        (Value::Object(given), Value::Object(wanted)) => {
            let keys = given.keys().zip(wanted.keys()).find(|(a, b)| a != b);
            let here = keys.map(|(a, b)| (String::new(), b.clone(), a.clone()));
            here.or_else(|| given.iter().find_map(|(key, a)| inner(key.clone(), a, wanted.get(key)?)))
        }
        _ => None,
    }
}
