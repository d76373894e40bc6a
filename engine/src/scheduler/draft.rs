//! Drafts: guessed tokens that a step computes along with a sequence's own, to draw several tokens at once. The draw at
//! each of them is the one that would have come anyway, so a draft changes when a token comes and never which.

use weirgate_types::TokenId;

use crate::block_pool::BlockPool;
use crate::sequence::Sequence;

use super::{FULL_STEP, Plan, RopeRule, Scheduler};

impl Scheduler {
    /// Adds drafts to a plan whose own work is settled: they take what tokens and blocks are left, in order of service.
    pub(super) fn add_drafts(&mut self, plan: &mut Plan) {
        if self.speculate == 0 {
            return;
        }
        let planned: usize = plan.items.iter().map(|item| item.tokens).sum();
        let mut room = FULL_STEP.min(self.max_step_tokens).saturating_sub(planned);
        let Self { running, pool, rope, .. } = self;
        let mut sequences = running.iter_mut();
        for item in &mut plan.items {
            let Some(sequence) = sequences.find(|sequence| sequence.key == item.key) else { return };
            let limit = draft_limit(sequence, rope).min(room);
            if limit == 0 || item.tokens < sequence.work() {
                continue;
            }
            let start = plan.drafts.len();
            propose(sequence, limit, &mut plan.drafts);
            let fit = grow(sequence, plan.drafts.len() - start, pool);
            plan.drafts.truncate(start + fit);
            item.drafts = start..plan.drafts.len();
            room -= fit;
            plan.draft_tokens += fit as u32;
        }
    }
}

/// Most drafted tokens that can be of use: after them, one more token is drawn, and none may lie beyond the end of
/// the request, beyond the length at which the context is shifted or, where the model starts over there, in another rotary table.
fn draft_limit(sequence: &Sequence, rope: &RopeRule) -> usize {
    if sequence.drafter.is_none() || sequence.generated() == 0 {
        return 0;
    }
    let left = (sequence.request.max_new_tokens - sequence.generated()).saturating_sub(1).min(FULL_STEP);
    let room = sequence.request.shift.map(|shift| (shift.limit as usize).saturating_sub(sequence.len() + 1));
    let left = left.min(room.unwrap_or(left));
    if !rope.recompute {
        return left;
    }
    let class = (rope.class)(sequence.rope_base);
    (1..=left).take_while(|ahead| (rope.class)(sequence.len() + ahead) == class).count()
}

/// Appends a sequence's draft to `drafts`. A stop token ends it: what follows one is never drawn.
fn propose(sequence: &mut Sequence, limit: usize, drafts: &mut Vec<TokenId>) {
    let Sequence { drafter: Some(drafter), tokens, request, .. } = sequence else { return };
    let start = drafts.len();
    drafter.propose(tokens, limit, drafts);
    let draft = drafts.get(start..).unwrap_or_default();
    if let Some(stop) = draft.iter().position(|token| request.stop_tokens.contains(token)) {
        drafts.truncate(start + stop);
    }
}

/// Extends the block table for a draft of `tokens` tokens behind the sequence's own, as far as the pool allows; how many
/// fit.
fn grow(sequence: &mut Sequence, tokens: usize, pool: &mut BlockPool) -> usize {
    let wanted = pool.blocks_for(sequence.len() + tokens);
    match pool.grow(&mut sequence.table, wanted) {
        Ok(()) => tokens,
        Err(_) => sequence.table.len() * pool.block_size() - sequence.len(),
    }
}
