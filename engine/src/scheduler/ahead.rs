//! Planning the next step while a step runs.
//!
//! What a step computes is certain as soon as the device has it, since steps happen one after the other: its tokens count
//! as computed, full blocks are published and siblings get their share of the prompt. What it draws is not known: every
//! sequence that draws gets [`UNKNOWN`](crate::sequence::UNKNOWN) for its next token, and the step behind is planned as
//! any other. When the draws are known, they are written into the batch, and sequences that ended, or whose mask is not
//! there yet, are taken out of it. One whose last token is being drawn, by its length, is not planned in the first place.
//! The plan is dropped for a new one where somebody could have a part in the step that is not in the plan: a request that
//! came, a sequence that has to start over or was given forced tokens, one for whom others would have to be preempted.
//!
//! A plan owns nothing, as the blocks it needs are in the tables of its sequences, so it may be dropped. One that copies
//! blocks is dropped only if nothing else is left of it, and its sequences start over: their tables name copies that were
//! never made.

use crate::Batch;
use crate::block_pool::IntegrityError;
use crate::sequence::Sequence;

use super::plan::Item;
use super::{FULL_STEP, Plan, Scheduler};

impl Scheduler {
    /// Plans the step behind `running`, which was handed to a device that takes its steps one after the other, and whose
    /// result is not there yet. `batch` is overwritten and goes to the next [`plan`](Scheduler::plan) as it is. Nothing
    /// happens where tokens are guessed, or a sequence waits for its mask.
    ///
    /// Between this and that plan, `running` is committed, and whatever else may happen to a scheduler can happen.
    pub fn plan_ahead(&mut self, running: &mut Plan, batch: &mut Batch) {
        if running.advanced || !self.is_foreseeable(running) {
            return;
        }
        running.advanced = true;
        let mut next = 0;
        for item in &running.items {
            // Those that were ended meanwhile are gone.
            if let Some(at) = self.running_from(&mut next, item.key) {
                self.advance(at, item.tokens);
                if item.samples > 0 {
                    self.running[at].expect_token();
                }
            }
        }
        let plan = self.plan_anew(batch, true);
        self.ahead = Some(plan);
    }

    /// Whether the step behind can be planned at all: drafts depend on the tokens before them.
    fn is_foreseeable(&self, running: &Plan) -> bool {
        let guesses = running.draft_tokens > 0 || (self.speculate > 0 && running.tokens() < FULL_STEP);
        // A mask may come any moment, and whoever waits for it should not wait for yet another step.
        !guesses && !self.draws_blocked()
    }

    /// The plan that was made ahead, and its batch, brought up to date with what happened since; `None` if there is none
    /// or none of use.
    pub(super) fn finish_ahead(&mut self, batch: &mut Batch) -> Option<Plan> {
        let mut plan = self.ahead.take()?;
        let came = self.arrivals > plan.arrivals && self.running.len() < self.max_seqs;
        let (mut next, mut kept, mut missed) = (0, 0, plan.short || came);
        for item in &plan.items {
            match self.sequence_of(item, &mut next) {
                Some(sequence) if holds(item, sequence) => kept += 1,
                Some(sequence) => missed |= sequence.ready_work() > 0,
                None => {}
            }
        }
        if kept == 0 || (missed && batch.block_copies.is_empty()) {
            self.drop_ahead(plan, !batch.block_copies.is_empty());
            return None;
        }
        if kept == plan.items.len() {
            self.write_drawn(&plan, batch);
        } else {
            next = 0;
            plan.items.retain(|item| {
                self.sequence_of(item, &mut next).is_some_and(|sequence| holds(item, sequence))
            });
            plan.count();
            batch.clear_rows();
            self.fill(&mut plan, batch);
        }
        self.planned_ahead += 1;
        Some(plan)
    }

    /// Gives back the blocks that only this plan needs; all of them where some were to be `copied` by it.
    fn drop_ahead(&mut self, plan: Plan, copied: bool) {
        for item in &plan.items {
            let Some(at) = self.running_at(item.key) else { continue };
            let sequence = &mut self.running[at];
            if copied {
                self.pool.release(&mut sequence.table);
                sequence.computed = 0;
            } else {
                self.pool.shrink(&mut sequence.table, self.pool.blocks_for(sequence.computed));
            }
        }
        self.recycle(plan);
    }

    /// `None`: it ended.
    fn sequence_of(&self, item: &Item, next: &mut usize) -> Option<&Sequence> {
        self.running_from(next, item.key).and_then(|at| self.running.get(at))
    }

    /// Writes the tokens that are known now, and what depends on them, into a batch that is otherwise as it should be.
    fn write_drawn(&self, plan: &Plan, batch: &mut Batch) {
        let drawing = plan.items.iter().filter(|item| item.samples > 0);
        let mut next = 0;
        for (item, sample) in drawing.zip(&mut batch.samples) {
            let Some(sequence) = self.sequence_of(item, &mut next) else { continue };
            let Some(&token) = sequence.tokens.last() else { continue };
            sample.surprise = sequence.surprise_target();
            sample.mask = sequence.mask();
            let end = sample.history.end;
            let places = [batch.ids.get_mut(sample.row as usize), batch.history.get_mut(end.wrapping_sub(1))];
            places.into_iter().flatten().for_each(|place| *place = token);
        }
    }

    /// Proves that a plan made ahead has the blocks it writes to.
    pub(super) fn check_ahead(&self) -> Result<(), IntegrityError> {
        let mut next = 0;
        for item in self.ahead.iter().flat_map(|plan| &plan.items) {
            let Some(sequence) = self.sequence_of(item, &mut next) else { continue };
            if !holds(item, sequence) {
                continue;
            }
            let (held, end) = (sequence.table.len(), item.begin + item.tokens);
            if held < self.pool.blocks_for(end) {
                return Err(IntegrityError::new(format!("{held} blocks for {end} tokens planned ahead")));
            }
        }
        Ok(())
    }
}

/// Whether a sequence still is where its part in a plan begins, and can draw what the plan wants it to.
fn holds(item: &Item, sequence: &Sequence) -> bool {
    let draws = item.samples > 0;
    let can_draw = sequence.len() == item.begin + item.tokens && !sequence.awaits_mask();
    sequence.computed == item.begin && (!draws || can_draw)
}
