//! A language made up from hashes: what may follow some tokens is a pure function of them.

use std::sync::Arc;

use weirgate_engine::{Grammar, GrammarFault, GrammarSource};
use weirgate_types::{Finish, GenerateRequest};

use super::{Rotary, Taste, fingerprints, mix, next_token};

/// How a rule fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Fault,
    Panic,
    DeadEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub seed: u64,
    pub vocab: u32,
    /// Fails when a mask is wanted after so many tokens.
    pub failure: Option<(usize, Failure)>,
}

impl Rule {
    fn hash(&self, tokens: &[u32]) -> u64 {
        tokens.iter().fold(self.seed, |hash, &token| mix(hash, u64::from(token)))
    }

    fn fails(&self, tokens: &[u32]) -> Option<Failure> {
        self.failure.filter(|(at, _)| *at == tokens.len()).map(|(_, failure)| failure)
    }

    pub fn is_final(&self, tokens: &[u32]) -> bool {
        self.fails(tokens).is_none() && mix(self.hash(tokens), 1).is_multiple_of(4)
    }

    /// The only token that can follow, or the first of a text that must follow.
    fn forced(&self, tokens: &[u32]) -> Option<u32> {
        let hash = self.hash(tokens);
        let forced = !self.is_final(tokens) && matches!(hash % 10, 0..3);
        (forced && self.fails(tokens).is_none()).then(|| (mix(hash, 2) % u64::from(self.vocab)) as u32)
    }

    pub fn allows(&self, tokens: &[u32], token: u32) -> bool {
        let hash = self.hash(tokens);
        if self.fails(tokens) == Some(Failure::DeadEnd) || token >= self.vocab {
            return false;
        }
        match (self.forced(tokens), hash % 10) {
            // Forced text may be begun by other tokens too.
            (Some(forced), 0) => token >= forced,
            (Some(forced), _) => token == forced,
            (None, 3) if self.is_final(tokens) => false,
            (None, _) => token == self.vocab / 2 || !mix(hash, u64::from(token) + 3).is_multiple_of(3),
        }
    }
}

/// What a sequence of the request must generate, one full pass per token, and how it must end.
pub fn expected_under(
    rule: &Rule,
    request: &GenerateRequest,
    rotary: Rotary,
    vocab: usize,
) -> (Vec<u32>, Finish) {
    let stop = &request.stop;
    let prompt_len = request.prompt.len();
    let mut tokens = request.prompt.to_vec();
    loop {
        let generated = &tokens[prompt_len..];
        let draw = generated.len() as u64;
        let failed = rule.fails(generated).is_some();
        let can_stop = rule.is_final(generated) && draw >= u64::from(stop.min_new_tokens);
        let banned: Vec<u32> = (0..vocab as u32)
            .filter(|token| match stop.stop_tokens.contains(token) {
                true => !can_stop,
                false => !rule.allows(generated, *token),
            })
            .collect();
        let given = |tokens: &[u32], finish| (tokens[prompt_len..].to_vec(), finish);
        if failed || banned.len() == vocab {
            let complete = !failed && rule.is_final(generated);
            return given(&tokens, if complete { Finish::GrammarEnd } else { Finish::GrammarFailed });
        }
        let last = fingerprints(&tokens, prompt_len, rotary, request.adapter)[tokens.len() - 1];
        let drawn = next_token(last, Taste::of(request), draw, &banned, vocab);
        let forced = rule.forced(generated).filter(|token| draw > 0 && !stop.stop_tokens.contains(token));
        let token = forced.unwrap_or(drawn);
        tokens.push(token);
        if draw + 1 == u64::from(stop.max_new_tokens) {
            return given(&tokens, Finish::Length);
        }
        if stop.stop_tokens.contains(&token) {
            return given(&tokens, Finish::StopToken);
        }
    }
}

#[derive(Debug)]
pub struct RuleSource(pub Rule);

impl GrammarSource for RuleSource {
    fn start(&self) -> Box<dyn Grammar> {
        Box::new(RuleState { rule: self.0.clone(), tokens: Vec::new() })
    }
}

pub fn source(rule: &Rule) -> Arc<dyn GrammarSource> {
    Arc::new(RuleSource(rule.clone()))
}

#[derive(Debug)]
struct RuleState {
    rule: Rule,
    tokens: Vec<u32>,
}

impl Grammar for RuleState {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        assert!(mask.iter().all(|&word| word == 0), "a mask comes empty");
        match self.rule.fails(&self.tokens) {
            Some(Failure::Fault) => return Err(GrammarFault::Failed("told to".into())),
            Some(Failure::Panic) => panic!("told to panic"),
            Some(Failure::DeadEnd) | None => {}
        }
        for token in (0..self.rule.vocab).filter(|&token| self.rule.allows(&self.tokens, token)) {
            mask[token as usize / 32] |= 1 << (token % 32);
        }
        // Beyond the vocabulary, where the engine must not look.
        if !self.rule.vocab.is_multiple_of(32) {
            mask[self.rule.vocab as usize / 32] |= 1 << 31;
        }
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<(), GrammarFault> {
        if !self.rule.allows(&self.tokens, token) {
            return Err(GrammarFault::Refused(token));
        }
        self.tokens.push(token);
        Ok(())
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        Ok(self.rule.is_final(&self.tokens))
    }

    fn forced(&mut self) -> Result<Vec<u32>, GrammarFault> {
        let mut tokens = self.tokens.clone();
        while let Some(token) = self.rule.forced(&tokens) {
            tokens.push(token);
        }
        Ok(tokens.split_off(self.tokens.len()))
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault> {
        let kept = self.tokens.len().checked_sub(tokens);
        self.tokens.truncate(kept.ok_or_else(|| GrammarFault::Failed("too far".into()))?);
        Ok(())
    }
}
