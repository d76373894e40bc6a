//! Generations that are free at first: reasoning before an answer, text before a tool call.

use std::fmt;
use std::sync::Arc;

use weirgate_engine::{Grammar, GrammarFault, GrammarSource};
use weirgate_types::TokenId;

use crate::triggers::{Step, Trigger, Triggers};
use crate::{Compiled, GrammarSpec};

/// Stages that refer to each other by index; a generation begins in the first one.
pub type Plan = Vec<Stage<GrammarSpec>>;

/// A part of a generation, with `G` for a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage<G> {
    /// Any text until one of the triggers, each with the stage that follows it.
    Free { triggers: Vec<(Trigger, usize)>, may_end: bool },
    /// If the first token is `mark`, stage `taken` follows; else stage `otherwise` has begun. Where the vocabulary has
    /// no such token, it is as if it never came.
    Optional { mark: String, taken: usize, otherwise: usize },
    /// To the end.
    Constrained(G),
}

/// A plan over a vocabulary.
pub struct Staged {
    pub(crate) stages: Vec<Ready>,
    pub(crate) vocab: usize,
}

/// A stage with all that it needs.
#[derive(Clone)]
pub(crate) enum Ready {
    Free { triggers: Arc<Triggers>, next: Vec<usize>, may_end: bool },
    Optional { mark: Option<TokenId>, taken: usize, otherwise: usize },
    Constrained(Arc<Compiled>),
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}

impl GrammarSource for Staged {
    fn start(&self) -> Box<dyn Grammar> {
        let stages = self.stages.clone();
        Box::new(Walk { stages, vocab: self.vocab, at: Position::default(), inner: None, trail: Vec::new() })
    }
}

/// Where a generation is, but for the state within a grammar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    stage: usize,
    /// Of the triggers.
    watch: u32,
}

/// One sequence's way through the stages.
struct Walk {
    stages: Vec<Ready>,
    vocab: usize,
    at: Position,
    /// The grammar of the current stage, or of the one that an optional stage may turn into.
    inner: Option<Box<dyn Grammar>>,
    /// The position before each token.
    trail: Vec<Position>,
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("at", &self.at)
            .field("tokens", &self.trail.len())
            .finish_non_exhaustive()
    }
}

fn missing() -> GrammarFault {
    GrammarFault::Failed("the plan names a stage that it does not have".into())
}

impl Walk {
    fn stage(&self, index: usize) -> Result<Ready, GrammarFault> {
        self.stages.get(index).cloned().ok_or_else(missing)
    }

    /// The grammar that `stage` obeys, if it obeys one.
    fn grammar(&mut self, stage: usize) -> Result<&mut (dyn Grammar + 'static), GrammarFault> {
        if self.inner.is_none() {
            let Ready::Constrained(compiled) = self.stage(stage)? else { return Err(missing()) };
            self.inner = Some(compiled.start());
        }
        self.inner.as_deref_mut().ok_or_else(missing)
    }

    fn enter(&mut self, stage: usize) {
        self.at = Position { stage, watch: Triggers::START };
        self.inner = None;
    }
}

impl Grammar for Walk {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        match self.stage(self.at.stage)? {
            Ready::Free { triggers, .. } => {
                mask.iter_mut().zip(triggers.mask(self.at.watch).iter()).for_each(|(to, from)| *to = *from);
                Ok(())
            }
            Ready::Optional { mark, otherwise, .. } => {
                self.grammar(otherwise)?.fill_mask(mask)?;
                if let Some(mark) = mark
                    && let Some(word) = mask.get_mut(mark as usize / 32)
                {
                    *word |= 1 << (mark % 32);
                }
                Ok(())
            }
            Ready::Constrained(_) => self.grammar(self.at.stage)?.fill_mask(mask),
        }
    }

    fn advance(&mut self, token: TokenId) -> Result<(), GrammarFault> {
        if token as usize >= self.vocab {
            return Err(GrammarFault::Refused(token));
        }
        let before = self.at;
        match self.stage(self.at.stage)? {
            Ready::Free { triggers, next, .. } => match triggers.step(self.at.watch, token) {
                Step::Free(watch) => self.at.watch = watch,
                Step::Hit(trigger) => self.enter(next.get(trigger).copied().ok_or_else(missing)?),
                Step::Straddles => return Err(GrammarFault::Refused(token)),
            },
            Ready::Optional { mark, taken, .. } if mark == Some(token) => self.enter(taken),
            Ready::Optional { otherwise, .. } => {
                self.grammar(otherwise)?.advance(token)?;
                self.at.stage = otherwise;
            }
            Ready::Constrained(_) => self.grammar(before.stage)?.advance(token)?,
        }
        self.trail.push(before);
        Ok(())
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        match self.stage(self.at.stage)? {
            Ready::Free { may_end, .. } => Ok(may_end),
            Ready::Optional { otherwise, .. } => self.grammar(otherwise)?.is_final(),
            Ready::Constrained(_) => self.grammar(self.at.stage)?.is_final(),
        }
    }

    fn forced(&mut self) -> Result<Vec<TokenId>, GrammarFault> {
        match self.stage(self.at.stage)? {
            Ready::Constrained(_) => self.grammar(self.at.stage)?.forced(),
            _ => Ok(Vec::new()),
        }
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault> {
        let left = self.trail.len().checked_sub(tokens);
        let left = left.ok_or_else(|| GrammarFault::Failed(format!("{tokens} tokens were not taken")))?;
        let undone = self.trail.split_off(left);
        let Some(to) = undone.first().copied() else { return Ok(()) };
        // An optional stage's grammar is the one it turned into.
        let begun =
            |position: &&Position| !matches!(self.stages.get(position.stage), Some(Ready::Free { .. }));
        let own = undone.iter().rev().take_while(begun).count();
        let entered = own < undone.len();
        if !entered && let Some(inner) = &mut self.inner {
            inner.rollback(own)?;
        } else {
            self.inner = None;
        }
        self.at = to;
        Ok(())
    }
}
