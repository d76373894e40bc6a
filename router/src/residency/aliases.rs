//! Further names of models, and of adapters of theirs.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alias {
    /// A model's own name.
    pub model: String,
    /// The adapter that answers where a request names no other.
    pub adapter: Option<String>,
}

/// By names in lower case.
#[derive(Default)]
pub(super) struct Aliases(RwLock<HashMap<String, Alias>>);

impl Aliases {
    pub fn set(&self, aliases: HashMap<String, Alias>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = aliases;
    }

    pub fn of(&self, name: &str) -> Option<Alias> {
        let name = name.strip_suffix(":latest").unwrap_or(name).to_lowercase();
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()
    }
}
