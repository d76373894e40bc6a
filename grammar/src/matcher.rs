//! The engine's grammar over llguidance's matcher.

use std::fmt;

use llguidance::Matcher;
use weirgate_engine::{Grammar, GrammarFault};
use weirgate_types::TokenId;

/// The state of a compiled grammar after some tokens. The matcher keeps its first error.
pub(crate) struct State {
    pub matcher: Matcher,
    /// Number of token ids; the library's end token comes after them.
    pub vocab: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

impl State {
    fn check(&self) -> Result<(), GrammarFault> {
        self.matcher.get_error().map_or(Ok(()), |error| Err(GrammarFault::Failed(error)))
    }

    /// Nothing can follow any more, for a good reason.
    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }
}

fn failed(error: impl fmt::Display) -> GrammarFault {
    GrammarFault::Failed(error.to_string())
}

impl Grammar for State {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        self.check()?;
        if self.is_complete() {
            return Ok(());
        }
        let allowed = self.matcher.compute_mask().map_err(failed)?;
        for (to, from) in mask.iter_mut().zip(allowed.as_slice()) {
            *to = *from;
        }
        if let Some(word) = mask.get_mut(self.vocab / 32) {
            *word &= (1 << (self.vocab % 32)) - 1;
        }
        Ok(())
    }

    fn advance(&mut self, token: TokenId) -> Result<(), GrammarFault> {
        self.check()?;
        if self.is_complete() || token as usize >= self.vocab {
            return Err(GrammarFault::Refused(token));
        }
        self.matcher.consume_token(token).map_err(failed)
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        self.check()?;
        if self.is_complete() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(failed)
    }

    fn forced(&mut self) -> Result<Vec<TokenId>, GrammarFault> {
        self.check()?;
        if self.is_complete() {
            return Ok(Vec::new());
        }
        let tokens = self.matcher.compute_ff_tokens();
        self.check()?;
        Ok(tokens)
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault> {
        self.matcher.rollback(tokens).map_err(failed)
    }
}
