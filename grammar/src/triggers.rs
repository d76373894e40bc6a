//! Free text that is watched for the texts after which a grammar begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weirgate_types::TokenId;

use crate::Vocabulary;

/// A text to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trigger {
    pub text: String,
    /// Counts only at the beginning, after nothing but blanks.
    pub at_start: bool,
}

/// How far each trigger is matched; `None` for one that can no longer come.
type Matched = Box<[Option<u16>]>;

/// Watches for triggers. States are numbered as they turn up; their number is bounded by the triggers' length.
pub(crate) struct Triggers {
    patterns: Vec<Pattern>,
    vocabulary: Vocabulary,
    states: Mutex<States>,
}

#[derive(Default)]
struct States {
    numbers: HashMap<Matched, u32>,
    known: Vec<(Matched, Option<Arc<[u32]>>)>,
}

/// What a token leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Free(u32),
    /// This trigger ends with the token.
    Hit(usize),
    /// A trigger ends within the token: what follows it would escape the grammar.
    Straddles,
}

/// A trigger with its Knuth-Morris-Pratt table: `borders[k]` is the longest proper border of the first `k + 1` bytes.
struct Pattern {
    bytes: Box<[u8]>,
    borders: Box<[usize]>,
    at_start: bool,
}

impl Pattern {
    fn new(trigger: &Trigger) -> Self {
        let bytes = trigger.text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for k in 1..bytes.len() {
            while border > 0 && bytes[border] != bytes[k] {
                border = borders[border - 1];
            }
            if bytes[border] == bytes[k] {
                border += 1;
            }
            borders[k] = border;
        }
        Self { bytes: bytes.into(), borders: borders.into(), at_start: trigger.at_start }
    }

    /// The state after `byte`; the pattern is complete when it equals its length.
    fn advance(&self, matched: Option<u16>, byte: u8) -> Option<u16> {
        let mut matched = usize::from(matched?);
        if self.at_start {
            let blank = matched == 0 && byte.is_ascii_whitespace() && self.bytes.first() != Some(&byte);
            return match self.bytes.get(matched) {
                Some(next) if *next == byte => Some(matched as u16 + 1),
                _ => blank.then_some(0),
            };
        }
        while matched > 0 && self.bytes.get(matched) != Some(&byte) {
            matched = self.borders.get(matched - 1).copied().unwrap_or(0);
        }
        Some(if self.bytes.get(matched) == Some(&byte) { matched as u16 + 1 } else { 0 })
    }
}

impl Triggers {
    /// Triggers are short: those beyond 65,535 bytes never come.
    pub fn new(triggers: &[Trigger], vocabulary: Vocabulary) -> Self {
        let usable =
            |trigger: &&Trigger| !trigger.text.is_empty() && u16::try_from(trigger.text.len()).is_ok();
        let patterns: Vec<Pattern> = triggers.iter().filter(usable).map(Pattern::new).collect();
        let begin: Matched = patterns.iter().map(|_| Some(0)).collect();
        let this = Self { patterns, vocabulary, states: Mutex::default() };
        this.number(begin);
        this
    }

    /// The state at the beginning.
    pub const START: u32 = 0;

    /// Where `token` leads from `state`.
    pub fn step(&self, state: u32, token: TokenId) -> Step {
        let Some(mut matched) = self.matched(state) else { return Step::Straddles };
        match self.run(&mut matched, self.vocabulary.written(token)) {
            None => Step::Free(self.number(matched)),
            Some((hit, 0)) => Step::Hit(hit),
            Some(_) => Step::Straddles,
        }
    }

    /// `[ceil(vocab / 32)]` every token but those that go on after a trigger.
    pub fn mask(&self, state: u32) -> Arc<[u32]> {
        let known = self.states().known.get(state as usize).cloned();
        let Some((matched, mask)) = known else { return Arc::from([]) };
        if let Some(mask) = mask {
            return mask;
        }
        let mut mask = vec![0u32; self.vocabulary.len().div_ceil(32)];
        for id in 0..self.vocabulary.len() as u32 {
            let mut matched = matched.clone();
            if !matches!(self.run(&mut matched, self.vocabulary.written(id)), Some((_, 1..)))
                && let Some(word) = mask.get_mut(id as usize / 32)
            {
                *word |= 1 << (id % 32);
            }
        }
        let mask: Arc<[u32]> = mask.into();
        if let Some((_, slot)) = self.states().known.get_mut(state as usize) {
            *slot = Some(Arc::clone(&mask));
        }
        mask
    }

    /// Feeds bytes up to the first trigger's end; gives it and the number of bytes left.
    fn run(&self, matched: &mut Matched, bytes: &[u8]) -> Option<(usize, usize)> {
        for (at, &byte) in bytes.iter().enumerate() {
            for (number, (pattern, matched)) in self.patterns.iter().zip(matched.iter_mut()).enumerate() {
                *matched = pattern.advance(*matched, byte);
                if matched.is_some_and(|matched| usize::from(matched) == pattern.bytes.len()) {
                    return Some((number, bytes.len() - at - 1));
                }
            }
        }
        None
    }

    fn matched(&self, state: u32) -> Option<Matched> {
        self.states().known.get(state as usize).map(|(matched, _)| matched.clone())
    }

    fn number(&self, matched: Matched) -> u32 {
        let mut states = self.states();
        if let Some(number) = states.numbers.get(&matched) {
            return *number;
        }
        let number = states.known.len() as u32;
        states.numbers.insert(matched.clone(), number);
        states.known.push((matched, None));
        number
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(triggers: &[(&str, bool)], tokens: &[&str]) -> (Triggers, Vec<Vec<u8>>) {
        let triggers: Vec<Trigger> = triggers
            .iter()
            .map(|(text, at_start)| Trigger { text: (*text).into(), at_start: *at_start })
            .collect();
        let bytes: Vec<Vec<u8>> = tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
        (Triggers::new(&triggers, Vocabulary::from_bytes(bytes.clone())), bytes)
    }

    fn allowed(triggers: &Triggers, state: u32) -> Vec<u32> {
        let mask = triggers.mask(state);
        (0..triggers.vocabulary.len() as u32)
            .filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1)
            .collect()
    }

    #[test]
    fn a_trigger_is_found_wherever_the_tokens_are_cut_but_never_within_one() {
        let (triggers, _) = watch(&[("<call>", false)], &["<ca", "ll>", "ll>x", "<<call>", "a<call>b", "<"]);
        assert_eq!(allowed(&triggers, Triggers::START), [0, 1, 2, 3, 5]);
        let Step::Free(state) = triggers.step(Triggers::START, 0) else { panic!("not yet") };
        assert_eq!(allowed(&triggers, state), [0, 1, 3, 5]);
        assert_eq!(triggers.step(state, 1), Step::Hit(0));
        assert_eq!(triggers.step(state, 2), Step::Straddles);
        assert_eq!(triggers.step(Triggers::START, 3), Step::Hit(0));
        // "<ca" "<ca" "ll>": the second begins anew.
        assert_eq!(triggers.step(state, 0), Step::Free(state));
    }

    #[test]
    fn a_trigger_of_the_beginning_counts_after_blanks_only() {
        let (triggers, _) =
            watch(&[("{\"name\":", true), ("[TOOL]", false)], &["\n ", "{\"", "name\":", "x", "[TOOL]"]);
        let free = |state, token| match triggers.step(state, token) {
            Step::Free(state) => state,
            other => panic!("{other:?}"),
        };
        let blank = free(Triggers::START, 0);
        assert_eq!(triggers.step(free(blank, 1), 2), Step::Hit(0));
        let lost = free(Triggers::START, 3);
        assert_eq!(free(free(lost, 1), 2), lost);
        assert_eq!(triggers.step(lost, 4), Step::Hit(1));
    }
}
