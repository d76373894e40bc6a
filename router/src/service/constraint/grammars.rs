//! Compiles what requests ask for, on threads of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokenizers::Tokenizer;
use weirgate_engine::GrammarSource;
use weirgate_grammar::{Backend, Compiler, GrammarError, Limits, Vocabulary, Whitespace};

use super::lenient::{Checks, Relaxer};
use super::{Constraint, Form};
use crate::service::error::ValidationError;
use crate::service::workers::WorkerPool;
use crate::tools::Thinking;

/// Somebody waits for a grammar; the streams come first all the same.
const NICE: i32 = 10;
/// Bytes of compiled grammars that are kept.
const CACHE_BYTES: usize = 64 << 20;

/// Compiles constraints for one tokenizer. The first one to come prepares the compiler.
pub(crate) struct Grammars {
    shared: Arc<Shared>,
    workers: WorkerPool,
}

struct Shared {
    tokenizer: Arc<Tokenizer>,
    style: (Backend, Whitespace),
    compiler: OnceLock<Result<Compiler, String>>,
    limits: Limits,
}

/// A constraint that is ready.
pub(crate) struct Enforced {
    pub grammar: Arc<dyn GrammarSource>,
    /// Where less is enforced than was asked for.
    pub checks: Option<Arc<Checks>>,
}

/// Stops a compilation whose request is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Grammars {
    /// # Errors
    /// When the system cannot start a thread.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        style: (Backend, Whitespace),
        threads: usize,
    ) -> std::io::Result<Self> {
        let shared = Shared { tokenizer, style, compiler: OnceLock::new(), limits: Limits::default() };
        Ok(Self { shared: Arc::new(shared), workers: WorkerPool::with_niceness("grammar", threads, NICE)? })
    }

    /// Compiles a constraint. Waits for nothing but its turn; dropped, it is given up.
    ///
    /// # Errors
    /// What is wrong with the constraint, or that this model's tokenizer allows none.
    pub async fn compile(
        &self,
        constraint: &Constraint,
        thinking: Thinking,
    ) -> Result<Enforced, ValidationError> {
        let field = constraint.field;
        let (shared, constraint) = (self.shared.clone(), constraint.clone());
        let cancelled = Arc::new(AtomicBool::new(false));
        let guard = StopOnDrop(cancelled.clone());
        let job = move || shared.compile(&constraint, &thinking, &cancelled);
        let done = self.workers.run(job).await;
        drop(guard);
        done.unwrap_or_else(|_| Err(field.refused("its compilation failed".to_owned())))
    }
}

impl Shared {
    fn compile(
        &self,
        constraint: &Constraint,
        thinking: &Thinking,
        cancelled: &AtomicBool,
    ) -> Result<Enforced, ValidationError> {
        let field = constraint.field;
        let compiler = self.compiler.get_or_init(|| compiler(&self.tokenizer, self.style)).as_ref();
        let compiler = compiler.map_err(|message| field.refused(message.clone()))?;
        let wrong = |error: GrammarError| match error {
            GrammarError::Json(_) | GrammarError::Regex(_) => field.invalid(error.to_string()),
            _ => field.refused(error.to_string()),
        };
        let relaxer = Relaxer { compiler, limits: &self.limits, cancelled };
        let (constraint, checks) = relaxer.relax(constraint.clone()).map_err(wrong)?;
        let plan = constraint.plan(thinking).map_err(|message| field.refused(message))?;
        let limits = constraint.limits(&self.limits);
        let compiled = compiler.compile_plan(&plan, &limits, cancelled).map_err(wrong)?;
        Ok(Enforced { grammar: Arc::new(compiled), checks })
    }
}

impl Constraint {
    /// A request's tools are compiled as one; each may be as large as a schema by itself is allowed to be, within reason.
    fn limits(&self, single: &Limits) -> Limits {
        match &self.form {
            Form::Whole(_) => single.clone(),
            Form::Calls(_) => Limits {
                bytes: 2 * single.bytes,
                time: single.time + Duration::from_secs(1),
                ..single.clone()
            },
        }
    }
}

fn compiler(tokenizer: &Tokenizer, (backend, whitespace): (Backend, Whitespace)) -> Result<Compiler, String> {
    let unusable = |error: String| format!("this model's tokenizer cannot be used with grammars: {error}");
    let json = tokenizer.to_string(false).map_err(|error| unusable(error.to_string()))?;
    let vocabulary =
        Vocabulary::from_tokenizer_json(json.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let compiler = Compiler::new(vocabulary, CACHE_BYTES).map_err(|error| unusable(error.to_string()))?;
    Ok(compiler.with_backend(backend).with_whitespace(whitespace))
}
