//! Which modules a PEFT configuration names, in PEFT's own way of reading it.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::ModelError;
use crate::config::Config;

/// PEFT's word for every linear module but the head.
const ALL_LINEAR: &str = "all-linear";

/// `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern`.
pub(super) struct Targets {
    named: Names,
    excluded: Names,
    layers: Option<BTreeSet<u64>>,
    /// What comes before a layer's number.
    pattern: Vec<Regex>,
}

enum Names {
    All,
    /// Whole names, or their ends.
    Ends(Vec<String>),
    /// Of the whole name.
    Matching(Regex),
}

impl Targets {
    /// `None` where a pattern is not one that can be read here: then the tensors alone tell.
    pub fn read(config: &Config) -> Result<Option<Self>, ModelError> {
        let named = match config.value("target_modules") {
            None => return Err(config.error("target_modules", "is missing")),
            Some(Value::String(text)) if text.eq_ignore_ascii_case(ALL_LINEAR) => Some(Names::All),
            Some(_) => names(config, "target_modules")?,
        };
        let excluded = match config.value("exclude_modules") {
            None => Some(Names::Ends(Vec::new())),
            Some(_) => names(config, "exclude_modules")?,
        };
        let pattern = layers_pattern(config)?;
        let (Some(named), Some(excluded), Some(pattern)) = (named, excluded, pattern) else {
            return Ok(None);
        };
        Ok(Some(Self { named, excluded, layers: layers(config)?, pattern }))
    }

    /// Whether the module of this whole name is adapted.
    pub fn contain(&self, module: &str) -> bool {
        if self.excluded.contain(module) || !self.named.contain(module) {
            return false;
        }
        let Some(layers) = &self.layers else { return true };
        // A pattern, or a whole name, says already which layers it means.
        let said = match &self.named {
            Names::All => false,
            Names::Ends(ends) => ends.iter().any(|end| end == module),
            Names::Matching(_) => true,
        };
        let number =
            self.pattern.iter().find_map(|pattern| pattern.captures(module)?.get(1)?.as_str().parse().ok());
        said || number.is_some_and(|number: u64| layers.contains(&number))
    }
}

impl Names {
    fn contain(&self, module: &str) -> bool {
        match self {
            Names::All => true,
            Names::Ends(ends) => ends.iter().any(|end| {
                module.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Names::Matching(pattern) => pattern.is_match(module),
        }
    }
}

/// A pattern of the whole name, or a list of names.
fn names(config: &Config, key: &str) -> Result<Option<Names>, ModelError> {
    if let Some(Value::String(text)) = config.value(key) {
        return Ok(Regex::new(&format!("^(?:{text})$")).ok().map(Names::Matching));
    }
    let listed = config.optional_texts(key)?.unwrap_or_default();
    Ok(Some(Names::Ends(listed.into_iter().map(str::to_owned).collect())))
}

/// A layer's number, or a list of them.
fn layers(config: &Config) -> Result<Option<BTreeSet<u64>>, ModelError> {
    const KEY: &str = "layers_to_transform";
    let wrong = || config.error(KEY, "is not a layer's number or a list of them");
    match config.value(KEY) {
        None => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(Value::Array(list)) => {
            list.iter().map(Value::as_u64).collect::<Option<_>>().map(Some).ok_or_else(wrong)
        }
        Some(value) => value.as_u64().map(|layer| Some(BTreeSet::from([layer]))).ok_or_else(wrong),
    }
}

fn layers_pattern(config: &Config) -> Result<Option<Vec<Regex>>, ModelError> {
    const KEY: &str = "layers_pattern";
    let given = match config.value(KEY) {
        Some(Value::String(text)) => vec![text.as_str()],
        _ => config.optional_texts(KEY)?.unwrap_or_default(),
    };
    let given: Vec<&str> = given.into_iter().filter(|pattern| !pattern.is_empty()).collect();
    let whole = |pattern: &str| Regex::new(&format!(r"^.*\.{pattern}\.(\d+)\.")).ok();
    Ok(if given.is_empty() {
        whole(r"[^.]*").map(|any| vec![any])
    } else {
        given.into_iter().map(whole).collect()
    })
}

/// The number that the first key of `patterns` which names `module` stands for.
pub(super) fn by_pattern(patterns: Option<&Config>, module: &str) -> Result<Option<f64>, ModelError> {
    let Some(patterns) = patterns else { return Ok(None) };
    for key in patterns.keys() {
        let pattern = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|_| patterns.error(key, "is not a pattern that can be read"))?;
        if pattern.is_match(module) {
            return patterns.optional_number(key);
        }
    }
    Ok(None)
}
