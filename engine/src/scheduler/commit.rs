//! Taking a step's result in.

use weirgate_kernels::Sampled;
use weirgate_types::TokenId;

use crate::block_pool::Prefix;
use crate::{ExecutorError, StepResult};

use super::plan::Plan;
use super::{Scheduler, append_token};

impl Scheduler {
    /// Takes in the result of the step that `plan` stands for: the KV of its tokens is written now, so full blocks are
    /// published, unless the next step was planned meanwhile, which has done so; drawn tokens are appended and sequences
    /// end. Moves the tokens' data out of `result`. Returns how many draft tokens were accepted.
    ///
    /// # Errors
    /// [`ExecutorError::Batch`] when the result does not have one entry per sample and per score; nothing is taken in.
    pub fn commit(&mut self, plan: Plan, result: &mut StepResult) -> Result<u32, ExecutorError> {
        let samples: usize = plan.items.iter().map(|item| item.samples).sum();
        let scores: usize = plan.items.iter().map(|item| item.scores).sum();
        if (samples, scores) != (result.sampled.len(), result.scores.len()) {
            return Err(ExecutorError::Batch(format!(
                "{samples} samples and {scores} scores asked for, {} and {} returned",
                result.sampled.len(),
                result.scores.len()
            )));
        }
        let accepted_before = self.accepted;
        let mut sampled = result.sampled.drain(..);
        let mut scores = result.scores.as_slice();
        let mut next = 0;
        for item in &plan.items {
            let (own, rest) = scores.split_at(item.scores);
            scores = rest;
            let mut drawn = sampled.by_ref().take(item.samples);
            // A sequence that ended while the step ran is gone; so is its interest in the result.
            if let Some(at) = self.running_from(&mut next, item.key) {
                if !plan.advanced {
                    self.advance(at, item.tokens);
                }
                self.commit_scores(at, own);
                let draft = plan.drafts.get(item.drafts.clone()).unwrap_or_default();
                self.commit_drawn(at, draft, &mut drawn);
            }
            // What was drawn behind void guesses.
            drawn.for_each(drop);
        }
        self.drafted += u64::from(plan.draft_tokens);
        self.recycle(plan);
        Ok((self.accepted - accepted_before) as u32)
    }

    /// The sequence's next `tokens` tokens are computed now, or will be before any step that is planned from here on.
    pub(super) fn advance(&mut self, at: usize, tokens: usize) {
        self.running[at].advance(tokens);
        self.publish(at);
        let sequence = &self.running[at];
        if sequence.has_unborn && sequence.computed >= sequence.prompt_len() {
            self.fork(at);
        }
    }

    /// Collects prompt scores, and reports them when they are complete.
    fn commit_scores(&mut self, at: usize, scores: &[f32]) {
        let sequence = &mut self.running[at];
        if let Some(collected) = &mut sequence.scores {
            collected.extend_from_slice(scores);
        }
        if sequence.computed >= sequence.prompt_len()
            && let Some(scores) = sequence.scores.take()
        {
            let logprobs = std::iter::once(None).chain(scores.into_iter().map(Some)).collect();
            self.ledger.prompt(&sequence.account, logprobs);
        }
    }

    /// Appends what was drawn, up to the first token that is not as the draft has it: the draws behind that one do not
    /// follow it. A guess that came true is computed already.
    fn commit_drawn(&mut self, at: usize, draft: &[TokenId], drawn: &mut dyn Iterator<Item = Sampled>) {
        let mut accepted = 0;
        self.running[at].stop_expecting();
        for next in drawn {
            let sequence = &mut self.running[at];
            let guessed = draft.get(accepted) == Some(&next.token);
            sequence.advance(usize::from(guessed));
            accepted += usize::from(guessed);
            let token = next.token;
            if let Some(surprise) = &mut sequence.surprise {
                surprise.learn(next.logprob);
            }
            let end = append_token(sequence, next, &mut self.ledger, &self.rope, &mut self.pool);
            if guessed && end.is_none() {
                continue;
            }
            if !draft.is_empty() {
                self.settle_draft(at, draft.len(), accepted);
            }
            if let Some(reason) = end {
                let sequence = self.running.remove(at);
                self.end(sequence, reason);
                return;
            }
            let sequence = &mut self.running[at];
            let generated = sequence.generated();
            if let Some(constraint) = &mut sequence.constraint {
                self.mask_jobs.extend(constraint.advance(token, generated));
            }
            return;
        }
    }

    /// Publishes what the accepted guesses completed and gives back the blocks that only void ones needed.
    fn settle_draft(&mut self, at: usize, proposed: usize, accepted: usize) {
        self.accepted += accepted as u64;
        self.publish(at);
        let sequence = &mut self.running[at];
        self.pool.shrink(&mut sequence.table, self.pool.blocks_for(sequence.computed));
        let len = sequence.len();
        if let Some(drafter) = &mut sequence.drafter {
            drafter.learn(proposed, accepted, len);
        }
    }

    fn publish(&mut self, at: usize) {
        if !self.prefix_cache {
            return;
        }
        let block_size = self.pool.block_size();
        let sequence = &mut self.running[at];
        let mut table = std::mem::take(&mut sequence.table);
        let prefix = Prefix {
            namespace: sequence.request.namespace,
            tokens: &sequence.tokens,
            class: &|index| sequence.rope_class(&self.rope, index, block_size),
        };
        self.pool.publish(&mut table, &prefix, sequence.computed);
        self.running[at].table = table;
    }
}
