//! How deep the library's recursion over an emitted schema goes: it reads what a reference refers to where it first
//! meets it, so a chain of definitions is as deep as it is long.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Levels of schemas and references within one another, in the library's order.
pub(super) fn nesting(root: &Value) -> usize {
    let definitions = root.get("$defs").and_then(Value::as_object);
    let mut seen = HashSet::new();
    let mut levels = vec![inner(root, root, definitions, &mut seen).into_iter()];
    let mut deepest = levels.len();
    while let Some(level) = levels.last_mut() {
        match level.next() {
            Some(schema) => {
                levels.push(inner(schema, root, definitions, &mut seen).into_iter());
                deepest = deepest.max(levels.len());
            }
            None => {
                levels.pop();
            }
        }
    }
    deepest
}

fn inner<'a>(
    schema: &'a Value,
    root: &'a Value,
    definitions: Option<&'a Map<String, Value>>,
    seen: &mut HashSet<&'a str>,
) -> Vec<&'a Value> {
    let mut inner = Vec::new();
    let Some(entries) = schema.as_object() else { return inner };
    if let Some(reference) = entries.get("$ref").and_then(Value::as_str)
        && seen.insert(reference)
    {
        let name = reference.strip_prefix("#/$defs/");
        inner.extend(name.map_or(Some(root), |name| definitions?.get(name)));
    }
    for key in ["anyOf", "properties", "patternProperties", "additionalProperties", "prefixItems", "items"] {
        match entries.get(key) {
            Some(Value::Array(list)) => inner.extend(list),
            Some(Value::Object(named)) if key.ends_with("roperties") && key != "additionalProperties" => {
                inner.extend(named.values());
            }
            Some(one) => inner.push(one),
            None => {}
        }
    }
    inner
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_followed_once_and_where_they_are_first_met() {
        assert_eq!(nesting(&json!({ "type": "null" })), 1);
        assert_eq!(nesting(&json!({ "items": { "anyOf": [{}, { "items": {} }] } })), 4);
        let chain = json!({
            "properties": { "a": { "$ref": "#/$defs/n0" } },
            "$defs": {
                "n0": { "items": { "$ref": "#/$defs/n1" } },
                "n1": { "items": { "$ref": "#/$defs/n0" } }
            },
        });
        assert_eq!(nesting(&chain), 6);
        // The second reference finds what it refers to read already.
        let twice = json!({
            "anyOf": [{ "$ref": "#/$defs/n0" }, { "items": { "$ref": "#/$defs/n0" } }],
            "$defs": { "n0": { "type": "null" } },
        });
        assert_eq!(nesting(&twice), 3);
        assert_eq!(nesting(&json!({ "items": { "$ref": "#" } })), 4);
    }
}
