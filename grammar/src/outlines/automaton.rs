//! An automaton whose states are built while they are needed, within bounds.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::toktrie::{Recognizer, TokEnv};
use regex_automata::hybrid::dfa::{Builder, Cache, Config, DFA};
use regex_automata::hybrid::{CacheError, LazyStateID};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::Hir;
use weirgate_engine::GrammarFault;
use weirgate_types::TokenId;

use crate::GrammarError;
use crate::watch::computed;

/// Memory of the states before they are made deterministic.
const NFA_BYTES: usize = 8 << 20;
/// Memory of the states that were needed; when it is full, all are forgotten and built again as needed.
const STATES_BYTES: usize = 4 << 20;
/// Masks that are kept, one per state.
const MASKS: usize = 64;
/// That one mask computes; a thousand times what the largest vocabularies take.
const MASK_TIME: Duration = Duration::from_secs(1);
/// Bytes of the vocabulary between looks at the clock.
const CLOCK_INTERVAL: u32 = 64;

/// A compiled regular expression, shared by all sequences under it.
pub(crate) struct Automaton {
    dfa: DFA,
    environment: TokEnv,
    shared: Mutex<Shared>,
}

impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automaton").field("nfa_states", &self.dfa.get_nfa().states().len()).finish()
    }
}

/// What was found out so far.
struct Shared {
    cache: Cache,
    /// Counts how often all states were forgotten.
    epoch: u64,
    masks: HashMap<LazyStateID, Arc<[u32]>>,
    /// Of the states that may have nothing but a match behind them, whether more can follow.
    live: HashMap<LazyStateID, bool>,
}

/// What stops a walk.
enum Stop {
    Full,
    Time,
}

impl From<CacheError> for Stop {
    fn from(_: CacheError) -> Self {
        Self::Full
    }
}

/// Where a sequence is. The states last for an epoch; the tokens tell them anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    tokens: Vec<TokenId>,
    /// Before the first token and after each one.
    states: Vec<LazyStateID>,
    epoch: u64,
}

impl Place {
    /// Forgets the last `count` tokens; false if there are fewer.
    pub fn rollback(&mut self, count: usize) -> bool {
        let left = self.tokens.len().checked_sub(count);
        if let Some(left) = left {
            self.tokens.truncate(left);
            self.states.truncate(left + 1);
        }
        left.is_some()
    }
}

impl Automaton {
    /// # Errors
    /// [`GrammarError::Limit`] when the expression needs too much memory.
    pub fn new(hir: &Hir, environment: TokEnv) -> Result<Self, GrammarError> {
        let config = thompson::Config::new()
            .nfa_size_limit(Some(NFA_BYTES))
            .which_captures(WhichCaptures::None)
            .shrink(false);
        let nfa = thompson::Compiler::new().configure(config).build_from_hir(hir);
        let nfa = nfa.map_err(|error| match error.size_limit() {
            Some(limit) => too_large("more", limit),
            None => GrammarError::Refused(error.to_string()),
        })?;
        // With every match kept, an alternative never hides a longer one. No state is forgotten behind our back.
        let config = Config::new()
            .match_kind(MatchKind::All)
            .cache_capacity(STATES_BYTES)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(0));
        let dfa = Builder::new().configure(config).build_from_nfa(nfa);
        let dfa = dfa.map_err(|error| GrammarError::Refused(error.to_string()))?;
        let cache = dfa.create_cache();
        let shared = Shared { cache, epoch: 1, masks: HashMap::new(), live: HashMap::new() };
        Ok(Self { dfa, environment, shared: Mutex::new(shared) })
    }

    /// The most that it ever holds.
    pub fn bytes(&self) -> usize {
        let mask = self.environment.tok_trie().vocab_size() / 8;
        self.dfa.memory_usage() + STATES_BYTES + MASKS * mask
    }

    /// The tokens that can come next, as `[ceil((vocab + 1) / 32)]`.
    pub(super) fn mask(&self, place: &mut Place) -> Result<Arc<[u32]>, GrammarFault> {
        self.run(place, |shared, at| {
            if let Some(mask) = shared.masks.get(&at) {
                return Ok(Arc::clone(mask));
            }
            let trie = self.environment.tok_trie();
            let mut allowed = trie.alloc_token_set();
            let mut walk = Walk {
                dfa: &self.dfa,
                shared,
                stack: vec![at],
                deadline: computed() + MASK_TIME,
                pushed: 0,
                stop: None,
            };
            trie.add_bias(&mut walk, &mut allowed, &[]);
            if let Some(stop) = walk.stop {
                return Err(stop);
            }
            let mask: Arc<[u32]> = allowed.as_slice().into();
            if shared.masks.len() >= MASKS {
                shared.masks.clear();
            }
            shared.masks.insert(at, Arc::clone(&mask));
            Ok(mask)
        })
    }

    /// Takes a token; false if it cannot come next.
    pub(super) fn advance(&self, place: &mut Place, token: TokenId) -> Result<bool, GrammarFault> {
        let to = self.run(place, |shared, at| self.take(shared, at, token))?;
        if let Some(to) = to {
            place.tokens.push(token);
            place.states.push(to);
        }
        Ok(to.is_some())
    }

    /// Whether the text may end here.
    pub(super) fn is_final(&self, place: &mut Place) -> Result<bool, GrammarFault> {
        self.run(place, |shared, at| Ok(self.dfa.next_eoi_state(&mut shared.cache, at)?.is_match()))
    }

    /// Runs `step` from the state that the sequence is in; once more with no other states if there were too many.
    fn run<T>(
        &self,
        place: &mut Place,
        mut step: impl FnMut(&mut Shared, LazyStateID) -> Result<T, Stop>,
    ) -> Result<T, GrammarFault> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..2 {
            let done = self.find(&mut shared, place).and_then(|at| step(&mut shared, at));
            match done {
                Ok(value) => return Ok(value),
                Err(Stop::Full) => shared.forget(&self.dfa),
                Err(Stop::Time) => {
                    let error = GrammarError::limit("time per mask", "more", format!("{MASK_TIME:?}"));
                    return Err(GrammarFault::Failed(error.to_string()));
                }
            }
        }
        Err(GrammarFault::Failed(too_large("more", STATES_BYTES).to_string()))
    }

    /// The state that the sequence is in, found anew if it was forgotten.
    fn find(&self, shared: &mut Shared, place: &mut Place) -> Result<LazyStateID, Stop> {
        if place.epoch == shared.epoch
            && let Some(at) = place.states.last()
        {
            return Ok(*at);
        }
        let anchored = start::Config::new().anchored(Anchored::Yes);
        let begin = self.dfa.start_state(&mut shared.cache, &anchored).map_err(|_| Stop::Full)?;
        let mut states = vec![begin];
        let mut at = begin;
        for &token in &place.tokens {
            at = self.take(shared, at, token)?.unwrap_or(at);
            states.push(at);
        }
        (place.states, place.epoch) = (states, shared.epoch);
        Ok(at)
    }

    fn take(
        &self,
        shared: &mut Shared,
        at: LazyStateID,
        token: TokenId,
    ) -> Result<Option<LazyStateID>, Stop> {
        let bytes = self.environment.tok_trie().token(token);
        let mut to = (!bytes.is_empty()).then_some(at);
        for &byte in bytes {
            let Some(from) = to else { break };
            to = shared.step(&self.dfa, from, byte)?;
        }
        Ok(to)
    }
}

fn too_large(value: &str, limit: usize) -> GrammarError {
    GrammarError::limit("automaton's size in bytes", value, limit)
}

impl Shared {
    fn forget(&mut self, dfa: &DFA) {
        self.cache.reset(dfa);
        self.epoch += 1;
        self.masks.clear();
        self.live.clear();
    }

    /// The state after a byte, if the text can still become a match.
    fn step(&mut self, dfa: &DFA, from: LazyStateID, byte: u8) -> Result<Option<LazyStateID>, Stop> {
        let to = dfa.next_state(&mut self.cache, from, byte)?;
        // Matches are reported one byte late, so that a state may stand for a match before that byte and nothing else.
        Ok((!to.is_dead() && (!to.is_match() || self.lives(dfa, to)?)).then_some(to))
    }

    fn lives(&mut self, dfa: &DFA, at: LazyStateID) -> Result<bool, Stop> {
        if let Some(live) = self.live.get(&at) {
            return Ok(*live);
        }
        let mut live = dfa.next_eoi_state(&mut self.cache, at)?.is_match();
        for byte in dfa.byte_classes().representatives(0..=u8::MAX).filter_map(|unit| unit.as_u8()) {
            if live {
                break;
            }
            live = !dfa.next_state(&mut self.cache, at, byte)?.is_dead();
        }
        self.live.insert(at, live);
        Ok(live)
    }
}

/// A walk over the vocabulary from one state; `stack` has the states along the current token.
struct Walk<'a> {
    dfa: &'a DFA,
    shared: &'a mut Shared,
    stack: Vec<LazyStateID>,
    /// By [`computed`].
    deadline: Duration,
    pushed: u32,
    stop: Option<Stop>,
}

impl Recognizer for Walk<'_> {
    fn cancellation_enabled(&self) -> bool {
        true
    }

    fn cancellation_requested(&self) -> bool {
        self.stop.is_some()
    }

    fn pop_bytes(&mut self, num: usize) {
        self.stack.truncate(self.stack.len().saturating_sub(num));
    }

    fn collapse(&mut self) {
        let top = self.stack.last().copied();
        self.stack = top.into_iter().collect();
    }

    fn trie_finished(&mut self) {}

    fn try_push_byte(&mut self, byte: u8) -> bool {
        self.pushed += 1;
        if self.pushed.is_multiple_of(CLOCK_INTERVAL) && computed() > self.deadline {
            self.stop = Some(Stop::Time);
        }
        let Some(&from) = self.stack.last().filter(|_| self.stop.is_none()) else { return false };
        match self.shared.step(self.dfa, from, byte) {
            Ok(to) => {
                self.stack.extend(to);
                to.is_some()
            }
            Err(stop) => {
                self.stop = Some(stop);
                false
            }
        }
    }
}
