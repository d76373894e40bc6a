//! From a specification to a grammar that has proved that it starts.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use weirgate_engine::{Grammar, GrammarFault, GrammarSource};

use crate::cache::Cache;
use crate::lower::{Lowered, Whitespace};
use crate::matcher::State;
use crate::outlines;
use crate::stages::{Plan, Ready, Stage, Staged};
use crate::triggers::{Trigger, Triggers};
use crate::vocabulary::VocabularyError;
use crate::watch::Watch;
use crate::{GrammarError, GrammarSpec, Limits, Vocabulary};

/// What a compiled grammar is taken to hold beside what grows with its text, and per byte of text.
const FIXED_BYTES: usize = 64 * 1024;
const BYTES_PER_BYTE: usize = 64;
/// Sets of triggers that are kept, each with some masks over the vocabulary.
const MAX_WATCHERS: usize = 64;

/// Sets of tokens that are allowed or not as a whole, where a state lets all of one's texts follow: the library's for
/// strings; and of these short words, for formats and patterns, and what begins like no word, where the name of a further
/// property may follow that is none of those listed.
fn slices() -> Vec<String> {
    let mut slices = SlicedBiasComputer::json_slices();
    slices.push(r#"[a-zA-Z0-9]{1,10}"#.to_owned());
    slices.push(r#"[^"\\\x00-\x1F\x7Fa-zA-Z0-9_$@-][^"\\\x00-\x1F\x7F]{0,9}"#.to_owned());
    slices
}

/// What compiles grammars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Backend {
    /// The one that can do the most: llguidance.
    #[default]
    Auto,
    Llguidance,
    /// outlines-core for JSON Schema, with an automaton of our own for regular expressions; llguidance for the rest.
    Outlines,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Llguidance => "llguidance",
            Self::Outlines => "outlines",
        }
    }
}

/// Compiles grammars for one vocabulary and keeps them. Shared between threads; a compilation takes the calling one.
pub struct Compiler {
    vocabulary: Vocabulary,
    environment: TokEnv,
    slicer: ParserFactory,
    /// All tokens, those of the fewest bytes first.
    by_length: Vec<u32>,
    backend: Backend,
    whitespace: Whitespace,
    cache: Mutex<Cache>,
    /// By what they watch for; a model has few forms of tool calls.
    watchers: Mutex<HashMap<Vec<Trigger>, Arc<Triggers>>>,
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").field("vocabulary", &self.vocabulary.len()).finish_non_exhaustive()
    }
}

/// A grammar over a vocabulary, in its initial state.
pub struct Compiled {
    start: Start,
    vocab: usize,
    bytes: usize,
}

enum Start {
    Parser(Box<Mutex<Matcher>>),
    Automaton(Arc<outlines::Automaton>),
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Compiled {
    /// Its size in memory, estimated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl GrammarSource for Compiled {
    fn start(&self) -> Box<dyn Grammar> {
        match &self.start {
            Start::Parser(start) => {
                let start = start.lock().unwrap_or_else(PoisonError::into_inner);
                Box::new(State { matcher: start.deep_clone(), vocab: self.vocab })
            }
            Start::Automaton(automaton) => Box::new(outlines::State::new(Arc::clone(automaton), self.vocab)),
        }
    }
}

impl Compiler {
    /// `cache_bytes` bounds the grammars that are kept. Takes tens of milliseconds and some 80 MB for 128k tokens.
    ///
    /// # Errors
    /// [`VocabularyError::Empty`] when no token has bytes.
    pub fn new(vocabulary: Vocabulary, cache_bytes: usize) -> Result<Self, VocabularyError> {
        if vocabulary.is_empty() {
            return Err(VocabularyError::Empty);
        }
        let environment: TokEnv = vocabulary.environment();
        let forces = environment.tokenize_is_canonical();
        let capabilities = InferenceCapabilities { ff_tokens: forces, ..InferenceCapabilities::default() };
        let mut slicer = ParserFactory::new(&environment, capabilities, &slices())
            .map_err(|error| VocabularyError::Json(error.to_string()))?;
        slicer.quiet();
        let cache = Mutex::new(Cache::new(cache_bytes));
        let (backend, whitespace) = (Backend::default(), Whitespace::default());
        let mut by_length: Vec<u32> = (0..vocabulary.len() as u32).collect();
        by_length.sort_by_key(|&id| vocabulary.bytes(id).len());
        Ok(Self {
            vocabulary,
            environment,
            slicer,
            by_length,
            backend,
            whitespace,
            cache,
            watchers: Mutex::default(),
        })
    }

    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Of llguidance's JSON; outlines' is always compact.
    pub fn with_whitespace(self, whitespace: Whitespace) -> Self {
        Self { whitespace, ..self }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Compiles a grammar, or takes it from the cache. Everything that can fail early is done here: the limits, the
    /// compilation, and the first steps of a generation. `cancelled` and the time are looked at between these, and while
    /// a schema is rewritten.
    ///
    /// # Errors
    /// [`GrammarError`], which says what is wrong with the grammar.
    pub fn compile(
        &self,
        spec: &GrammarSpec,
        limits: &Limits,
        cancelled: &AtomicBool,
    ) -> Result<Arc<Compiled>, GrammarError> {
        let key = (spec.clone(), limits.clone());
        if let Some(compiled) = self.cache().get(&key) {
            return Ok(compiled);
        }
        let watch = Watch::new(limits, cancelled);
        limits.check_text(spec)?;
        let start = self.start(spec, &watch)?;
        let own = match &start {
            Start::Parser(_) => FIXED_BYTES,
            Start::Automaton(automaton) => automaton.bytes(),
        };
        let bytes = own + spec.size() * BYTES_PER_BYTE;
        let compiled = Arc::new(Compiled { start, vocab: self.vocabulary.len(), bytes });
        self.cache().insert(key, &compiled);
        Ok(compiled)
    }

    /// Compiles and rehearses. The masks computed on trial leave states behind, for the first sequences to use.
    fn start(&self, spec: &GrammarSpec, watch: &Watch<'_>) -> Result<Start, GrammarError> {
        let vocab = self.vocabulary.len();
        if self.backend == Backend::Outlines
            && let Some(automaton) = outlines::compile(spec, watch.limits, &self.environment)?
        {
            watch.check()?;
            let mut state = outlines::State::new(Arc::clone(&automaton), vocab);
            self.rehearse(&mut state, watch).map_err(|error| error.refusal(None))?;
            return Ok(Start::Automaton(automaton));
        }
        let Lowered { grammar, schema } = Lowered::new(spec, watch, &self.vocabulary, self.whitespace)?;
        watch.check()?;
        let built = self.build(grammar, watch.limits);
        let matcher = built.map_err(|message| refusal(message, schema.as_ref()))?;
        watch.check()?;
        let mut state = State { matcher: matcher.clone(), vocab };
        self.rehearse(&mut state, watch).map_err(|error| error.refusal(schema.as_ref()))?;
        Ok(Start::Parser(Box::new(Mutex::new(matcher))))
    }

    /// Compiles all grammars of a plan.
    ///
    /// # Errors
    /// As for [`Compiler::compile`].
    pub fn compile_plan(
        &self,
        plan: &Plan,
        limits: &Limits,
        cancelled: &AtomicBool,
    ) -> Result<Staged, GrammarError> {
        let ready = |stage: &Stage<GrammarSpec>| {
            Ok(match stage {
                Stage::Free { triggers, may_end } => Ready::Free {
                    triggers: self.watcher(triggers.iter().map(|(trigger, _)| trigger.clone()).collect()),
                    next: triggers.iter().map(|(_, stage)| *stage).collect(),
                    may_end: *may_end,
                },
                Stage::Optional { mark, taken, otherwise } => Ready::Optional {
                    mark: self.vocabulary.added(mark),
                    taken: *taken,
                    otherwise: *otherwise,
                },
                Stage::Constrained(spec) => Ready::Constrained(self.compile(spec, limits, cancelled)?),
            })
        };
        let stages = plan.iter().map(ready).collect::<Result<Vec<_>, _>>()?;
        Ok(Staged { stages, vocab: self.vocabulary.len() })
    }

    fn watcher(&self, triggers: Vec<Trigger>) -> Arc<Triggers> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.len() >= MAX_WATCHERS && !watchers.contains_key(&triggers) {
            watchers.clear();
        }
        let new = || Arc::new(Triggers::new(&triggers, self.vocabulary.clone()));
        Arc::clone(watchers.entry(triggers.clone()).or_insert_with(new))
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self, grammar: TopLevelGrammar, limits: &Limits) -> Result<Matcher, String> {
        let mut parser_limits = self.slicer.limits().clone();
        parser_limits.max_lexer_states = limits.states;
        parser_limits.verbose_errors = false;
        let init = llguidance::api::GrammarInit::Serialized(grammar);
        let logger = llguidance::Logger::new(0, 0);
        let capabilities = InferenceCapabilities {
            ff_tokens: self.environment.tokenize_is_canonical(),
            ..InferenceCapabilities::default()
        };
        let parser = self.slicer.create_parser_from_init_ext(init, logger, capabilities, parser_limits);
        let matcher = Matcher::new(parser);
        matcher.get_error().map_or(Ok(matcher), Err)
    }

    /// First mask, forced text or else one byte of text, second mask, one byte more, third mask.
    fn rehearse(&self, state: &mut dyn Grammar, watch: &Watch<'_>) -> Result<(), Trial> {
        for _ in 0..3 {
            let mut mask = vec![0; self.vocabulary.len().div_ceil(32)];
            state.fill_mask(&mut mask)?;
            watch.check().map_err(Trial::Stopped)?;
            if mask.iter().all(|&word| word == 0) {
                let done = state.is_final()?;
                return if done { Ok(()) } else { Err(Trial::Stopped(GrammarError::Empty)) };
            }
            let forced = state.forced()?;
            let step = if forced.is_empty() { self.shortest(&mask).into_iter().collect() } else { forced };
            for token in step {
                state.advance(token)?;
            }
        }
        Ok(())
    }

    /// The allowed token with the fewest bytes.
    fn shortest(&self, mask: &[u32]) -> Option<u32> {
        let allowed = |id: &u32| mask.get(*id as usize / 32).is_some_and(|word| (word >> (id % 32)) & 1 == 1);
        self.by_length.iter().copied().find(allowed)
    }
}

enum Trial {
    Failed(GrammarFault),
    Stopped(GrammarError),
}

impl Trial {
    fn refusal(self, schema: Option<&Value>) -> GrammarError {
        match self {
            Self::Stopped(error) => error,
            Self::Failed(GrammarFault::Failed(message)) => refusal(message, schema),
            Self::Failed(fault) => GrammarError::Refused(fault.to_string()),
        }
    }
}

impl From<GrammarFault> for Trial {
    fn from(fault: GrammarFault) -> Self {
        Self::Failed(fault)
    }
}

/// Names the keyword behind the library's refusal of a schema, where it is one.
fn refusal(message: String, schema: Option<&Value>) -> GrammarError {
    let listed = message.split_once("Unimplemented keys: [\"").map(|(_, rest)| rest);
    let keyword = listed
        .and_then(|rest| rest.split('"').next())
        .or_else(|| ["oneOf", "format"].into_iter().find(|keyword| message.contains(keyword)));
    let found = keyword.zip(schema).and_then(|(keyword, schema)| Some((keyword, pointer(schema, keyword)?)));
    match found {
        Some((keyword, path)) => GrammarError::Keyword { keyword: keyword.to_owned(), path, message },
        None => GrammarError::Refused(message),
    }
}

/// Where a keyword first occurs.
fn pointer(value: &Value, keyword: &str) -> Option<String> {
    match value {
        Value::Object(entries) if entries.contains_key(keyword) => Some(String::new()),
        Value::Object(entries) => entries.iter().find_map(|(key, value)| {
            let escaped = key.replace('~', "~0").replace('/', "~1");
            pointer(value, keyword).map(|rest| format!("/{escaped}{rest}"))
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(at, value)| pointer(value, keyword).map(|rest| format!("/{at}{rest}"))),
        _ => None,
    }
}
