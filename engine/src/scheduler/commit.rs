//! Taking a step's result in.

use weirgate_kernels::Sampled;

use crate::block_pool::Prefix;
use crate::{ExecutorError, StepResult};

use super::plan::{Item, Plan};
use super::{Scheduler, append_token};

impl Scheduler {
    /// Takes in the result of the step that `plan` stands for: the KV of its tokens is written now, so full blocks are
    /// published; drawn tokens are appended and sequences end. Moves the tokens' data out of `result`.
    ///
    /// # Errors
    /// [`ExecutorError::Batch`] when the result does not have one entry per sample and per score; nothing is taken in.
    pub fn commit(&mut self, plan: Plan, result: &mut StepResult) -> Result<(), ExecutorError> {
        let samples = plan.items.iter().filter(|item| item.samples).count();
        let scores: usize = plan.items.iter().map(|item| item.scores).sum();
        if (samples, scores) != (result.sampled.len(), result.scores.len()) {
            return Err(ExecutorError::Batch(format!(
                "{samples} samples and {scores} scores asked for, {} and {} returned",
                result.sampled.len(),
                result.scores.len()
            )));
        }
        let mut sampled = result.sampled.drain(..);
        let mut scores = result.scores.as_slice();
        for item in &plan.items {
            let (own, rest) = scores.split_at(item.scores);
            scores = rest;
            let token = if item.samples { sampled.next() } else { None };
            self.commit_item(item, own, token);
        }
        self.spare_items = plan.items;
        Ok(())
    }

    fn commit_item(&mut self, item: &Item, scores: &[f32], token: Option<Sampled>) {
        // A sequence that ended while the step ran is gone; so is its interest in the result.
        let Some(at) = self.running_at(item.key) else { return };
        let sequence = &mut self.running[at];
        sequence.computed += item.tokens;
        if let Some(collected) = &mut sequence.scores {
            collected.extend_from_slice(scores);
        }
        self.publish(at);
        let sequence = &mut self.running[at];
        if sequence.computed >= sequence.prompt_len() {
            if let Some(scores) = sequence.scores.take() {
                let logprobs = std::iter::once(None).chain(scores.into_iter().map(Some)).collect();
                self.ledger.prompt(&sequence.account, logprobs);
            }
            if sequence.has_unborn {
                self.fork(at);
            }
        }
        if let Some(token) = token {
            self.append_drawn(at, token);
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

    fn append_drawn(&mut self, at: usize, drawn: Sampled) {
        let token = drawn.token;
        let sequence = &mut self.running[at];
        let end = append_token(sequence, drawn, &mut self.ledger, &self.rope, &mut self.pool);
        if let Some(reason) = end {
            let sequence = self.running.remove(at);
            self.end(sequence, reason);
            return;
        }
        let generated = sequence.generated();
        if let Some(constraint) = &mut sequence.constraint {
            self.mask_jobs.extend(constraint.advance(token, generated));
        }
    }
}
