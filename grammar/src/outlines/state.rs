//! The engine's grammar over an automaton.

use std::sync::Arc;

use weirgate_engine::{Grammar, GrammarFault};
use weirgate_types::TokenId;

use super::automaton::{Automaton, Place};

/// A sequence under an automaton. Its first error stays.
#[derive(Debug)]
pub(crate) struct State {
    automaton: Arc<Automaton>,
    place: Place,
    /// Number of token ids; the trie's end token comes after them.
    vocab: usize,
    fault: Option<GrammarFault>,
}

impl State {
    pub fn new(automaton: Arc<Automaton>, vocab: usize) -> Self {
        Self { automaton, place: Place::default(), vocab, fault: None }
    }

    fn run<T>(
        &mut self,
        step: impl FnOnce(&Automaton, &mut Place) -> Result<T, GrammarFault>,
    ) -> Result<T, GrammarFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        step(&self.automaton, &mut self.place).inspect_err(|fault| self.fault = Some(fault.clone()))
    }
}

impl Grammar for State {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        let allowed = self.run(Automaton::mask)?;
        mask.iter_mut().zip(allowed.iter()).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn advance(&mut self, token: TokenId) -> Result<(), GrammarFault> {
        let known = (token as usize) < self.vocab;
        self.run(|automaton, place| match known && automaton.advance(place, token)? {
            true => Ok(()),
            false => Err(GrammarFault::Refused(token)),
        })
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        self.run(Automaton::is_final)
    }

    /// None: the engine takes the tokens that a mask leaves alone, and nothing is lost but a few draws.
    fn forced(&mut self) -> Result<Vec<TokenId>, GrammarFault> {
        self.run(|_, _| Ok(Vec::new()))
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault> {
        self.run(|_, place| match place.rollback(tokens) {
            true => Ok(()),
            false => Err(GrammarFault::Failed(format!("{tokens} tokens were not taken"))),
        })
    }
}
