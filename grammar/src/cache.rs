//! Compiled grammars, kept up to a number of bytes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Compiled, GrammarSpec, Limits};

type Key = (GrammarSpec, Limits);

/// The least recently used ones go first. Keyed by the whole text, so no two grammars are ever mistaken for each other.
pub(crate) struct Cache {
    capacity: usize,
    used: usize,
    clock: u64,
    entries: HashMap<Key, (Arc<Compiled>, u64)>,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, used: 0, clock: 0, entries: HashMap::new() }
    }

    pub fn get(&mut self, key: &Key) -> Option<Arc<Compiled>> {
        self.clock += 1;
        let (compiled, touched) = self.entries.get_mut(key)?;
        *touched = self.clock;
        Some(Arc::clone(compiled))
    }

    pub fn insert(&mut self, key: Key, compiled: &Arc<Compiled>) {
        if compiled.bytes() > self.capacity || self.entries.contains_key(&key) {
            return;
        }
        while self.used + compiled.bytes() > self.capacity {
            let oldest = self.entries.iter().min_by_key(|(_, (_, touched))| *touched);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            if let Some((compiled, _)) = self.entries.remove(&oldest) {
                self.used -= compiled.bytes();
            }
        }
        self.clock += 1;
        self.used += compiled.bytes();
        self.entries.insert(key, (Arc::clone(compiled), self.clock));
    }
}
