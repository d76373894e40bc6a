//! A sequence under a grammar. The mask of a draw depends on the tokens before it and on nothing else, so it is computed
//! as soon as they are known, on a worker thread; the sequence sits out the steps that come before its mask.
//!
//! Where only one text can follow, its tokens are taken without being drawn ([`MaskAnswer::forced`]), but never before the
//! first drawn token: a sequence is scheduled, and its prompt computed, before it grows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use weirgate_types::TokenId;

use crate::sequence::{Request, SeqKey};
use crate::{Grammar, GrammarFault, GrammarSource};

#[derive(Debug)]
pub(crate) struct Constraint {
    key: SeqKey,
    request: Arc<Request>,
    vocab: usize,
    /// `None` while a [`MaskJob`] has the grammar.
    ready: Option<Ready>,
}

#[derive(Debug)]
struct Ready {
    grammar: Box<dyn Grammar>,
    mask: Arc<[u32]>,
}

/// The computation of a sequence's next mask; [`run`](Self::run) it anywhere and hand the answer to
/// [`crate::Scheduler::take_mask`].
#[derive(Debug)]
#[must_use = "a sequence waits for its mask"]
pub struct MaskJob {
    key: SeqKey,
    request: Arc<Request>,
    vocab: usize,
    generated: usize,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Start(Arc<dyn GrammarSource>),
    Advance(Box<dyn Grammar>, TokenId),
}

/// The answer to a [`MaskJob`].
#[derive(Debug)]
pub struct MaskAnswer {
    pub(crate) key: SeqKey,
    /// Tokens that need not be drawn; they precede whatever comes next, a fault included.
    pub(crate) forced: Vec<TokenId>,
    pub(crate) next: Result<Next, GrammarFault>,
}

/// How a sequence goes on.
#[derive(Debug)]
pub(crate) struct Next {
    grammar: Box<dyn Grammar>,
    /// The mask of the draw after the forced tokens; `None` if the text is complete there and nothing can be drawn.
    mask: Option<Arc<[u32]>>,
}

impl Constraint {
    /// A sequence's constraint before its first token, and the job that gets its first mask.
    pub fn start(
        key: SeqKey,
        request: &Arc<Request>,
        source: &Arc<dyn GrammarSource>,
        vocab: usize,
    ) -> (Self, MaskJob) {
        let constraint = Self { key, request: Arc::clone(request), vocab, ready: None };
        let job = constraint.job(0, Task::Start(Arc::clone(source)));
        (constraint, job)
    }

    /// The mask of the next draw, once it is known.
    pub fn mask(&self) -> Option<&Arc<[u32]>> {
        self.ready.as_ref().map(|ready| &ready.mask)
    }

    /// Takes the token that was drawn as number `generated`, counted from 1.
    pub fn advance(&mut self, token: TokenId, generated: usize) -> Option<MaskJob> {
        let ready = self.ready.take()?;
        Some(self.job(generated, Task::Advance(ready.grammar, token)))
    }

    /// Takes a job's result in; false if nothing can be drawn any more.
    pub fn resume(&mut self, next: Next) -> bool {
        self.ready = next.mask.map(|mask| Ready { grammar: next.grammar, mask });
        self.ready.is_some()
    }

    fn job(&self, generated: usize, task: Task) -> MaskJob {
        MaskJob { key: self.key, request: Arc::clone(&self.request), vocab: self.vocab, generated, task }
    }
}

impl MaskJob {
    /// Computes the mask. Never panics; takes as long as the grammar does.
    pub fn run(self) -> MaskAnswer {
        let key = self.key;
        let mut forced = Vec::new();
        let next = catch_unwind(AssertUnwindSafe(|| self.next(&mut forced)));
        MaskAnswer { key, forced, next: next.unwrap_or(Err(GrammarFault::Panicked)) }
    }

    fn next(self, forced: &mut Vec<TokenId>) -> Result<Next, GrammarFault> {
        let rules = Rules { request: self.request, vocab: self.vocab };
        let (mut grammar, drawn) = match self.task {
            Task::Start(source) => (source.start(), false),
            Task::Advance(mut grammar, token) => {
                grammar.advance(token)?;
                (grammar, true)
            }
        };
        loop {
            if drawn {
                rules.force(grammar.as_mut(), self.generated, forced)?;
            }
            let generated = self.generated + forced.len();
            let Some(mask) = rules.mask(grammar.as_mut(), generated)? else {
                return Ok(Next { grammar, mask: None });
            };
            // What a mask leaves no choice about needs no draw either.
            match only_token(&mask) {
                Some(token) if drawn && rules.can_force(token, generated) => {
                    grammar.advance(token)?;
                    forced.push(token);
                }
                _ => return Ok(Next { grammar, mask: Some(mask.into()) }),
            }
        }
    }
}

/// What a request asks beside its grammar.
struct Rules {
    request: Arc<Request>,
    vocab: usize,
}

impl Rules {
    /// Takes the forced tokens as far as they are the model's and the length allows.
    fn force(
        &self,
        grammar: &mut dyn Grammar,
        drawn: usize,
        forced: &mut Vec<TokenId>,
    ) -> Result<(), GrammarFault> {
        for token in grammar.forced()? {
            if !self.can_force(token, drawn + forced.len()) {
                break;
            }
            grammar.advance(token)?;
            forced.push(token);
        }
        Ok(())
    }

    /// A stop token ends the sequence, so it is left to the draw, as is what the length limit would cut off.
    fn can_force(&self, token: TokenId, generated: usize) -> bool {
        (token as usize) < self.vocab
            && generated < self.request.max_new_tokens
            && !self.request.stop_tokens.contains(&token)
    }

    /// The grammar's mask with the stop tokens set where, and only where, the text may end and is long enough. `None` if
    /// it may end and nothing is left.
    fn mask(&self, grammar: &mut dyn Grammar, generated: usize) -> Result<Option<Vec<u32>>, GrammarFault> {
        let mut mask = vec![0; self.vocab.div_ceil(32)];
        grammar.fill_mask(&mut mask)?;
        let is_final = grammar.is_final()?;
        let can_stop = is_final && generated >= self.request.min_new_tokens;
        for &token in self.request.stop_tokens.iter() {
            if let Some(word) = mask.get_mut(token as usize / 32) {
                let bit = 1 << (token % 32);
                *word = if can_stop { *word | bit } else { *word & !bit };
            }
        }
        if let (Some(last), used @ 1..) = (mask.last_mut(), self.vocab % 32) {
            *last &= (1 << used) - 1;
        }
        if mask.iter().any(|&word| word != 0) {
            return Ok(Some(mask));
        }
        if is_final { Ok(None) } else { Err(GrammarFault::DeadEnd) }
    }
}

/// The one token that a mask allows, if it is one.
fn only_token(mask: &[u32]) -> Option<TokenId> {
    let mut words = mask.iter().enumerate().filter(|(_, word)| **word != 0);
    let (at, word) = words.next()?;
    (words.next().is_none() && word.is_power_of_two()).then(|| at as u32 * 32 + word.trailing_zeros())
}
