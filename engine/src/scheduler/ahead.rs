//! Planning the next step while a step runs.
//!
//! What a step computes is certain as soon as the device has it, since steps happen one after the other: its tokens count
//! as computed, full blocks are published and siblings get their share of the prompt. What it draws is not known: every
//! sequence that draws gets [`UNKNOWN`](crate::sequence::UNKNOWN) for its next token, and the step behind is planned as
//! any other. When the draws are known, they are written into the batch, and sequences that ended or had to start over
//! are taken out of it. One whose last token is being drawn, by its length, is not planned in the first place.
//!
//! A plan owns nothing, as the blocks it needs are in the tables of its sequences, so it may be dropped; only not one that
//! copies blocks, for the tables name the copies already.

use crate::Batch;
use crate::block_pool::IntegrityError;
use crate::sequence::Sequence;

use super::plan::Item;
use super::{FULL_STEP, Plan, Scheduler};

impl Scheduler {
    /// Plans the step behind `running`, which was handed to a device that takes its steps one after the other, and whose
    /// result is not there yet. `batch` is overwritten and goes to the next [`plan`](Scheduler::plan) as it is. Nothing
    /// happens where the next step depends too much on the result: where tokens are guessed or drawn under grammars.
    ///
    /// Between this and that plan, `running` is committed, and whatever else may happen to a scheduler can happen.
    pub fn plan_ahead(&mut self, running: &mut Plan, batch: &mut Batch) {
        if running.advanced || !self.is_foreseeable(running) {
            return;
        }
        running.advanced = true;
        for item in &running.items {
            // Those that were ended meanwhile are gone.
            if let Some(at) = self.running_at(item.key) {
                self.advance(at, item.tokens);
                if item.samples > 0 {
                    self.running[at].expect_token();
                }
            }
        }
        let plan = self.plan_anew(batch, true);
        self.ahead = Some(plan);
    }

    /// Whether the next step depends on what is drawn only by the tokens' values and by who ends.
    fn is_foreseeable(&self, running: &Plan) -> bool {
        let guesses = running.draft_tokens > 0 || (self.speculate > 0 && running.tokens() < FULL_STEP);
        let constrained = |sequence: &Sequence| sequence.constraint.is_some();
        // Most engines have none, and are spared the search.
        let under_grammar = self.running.iter().any(constrained)
            && running
                .items
                .iter()
                .filter(|item| item.samples > 0)
                .any(|item| self.running_at(item.key).is_some_and(|at| constrained(&self.running[at])));
        !guesses && !under_grammar && !self.draws_blocked()
    }

    /// The plan that was made ahead, and its batch, brought up to date with what happened since; `None` if there is none
    /// or none of use.
    pub(super) fn finish_ahead(&mut self, batch: &mut Batch) -> Option<Plan> {
        let mut plan = self.ahead.take()?;
        let newcomers = self.arrivals > plan.arrivals && self.running.len() < self.max_seqs;
        let planned = plan.items.len();
        plan.items.retain(|item| self.holds_for(item));
        if plan.is_empty() || ((newcomers || plan.short) && batch.block_copies.is_empty()) {
            self.drop_ahead(plan);
            return None;
        }
        if plan.items.len() == planned {
            self.write_drawn(&plan, batch);
        } else {
            plan.count();
            batch.clear_rows();
            self.fill(&mut plan, batch);
        }
        self.planned_ahead += 1;
        Some(plan)
    }

    /// Gives back the blocks that only this plan needs.
    fn drop_ahead(&mut self, plan: Plan) {
        for item in &plan.items {
            if let Some(at) = self.running_at(item.key) {
                let sequence = &mut self.running[at];
                self.pool.shrink(&mut sequence.table, self.pool.blocks_for(sequence.computed));
            }
        }
        self.recycle(plan);
    }

    /// Whether a sequence still is where its part in the plan begins.
    fn holds_for(&self, item: &Item) -> bool {
        let sequence = self.running_at(item.key).and_then(|at| self.running.get(at));
        sequence.is_some_and(|sequence| {
            let end = item.begin + item.tokens;
            sequence.computed == item.begin && (item.samples == 0 || sequence.len() == end)
        })
    }

    /// Writes the tokens that are known now, and what depends on them, into a batch that is otherwise as it should be.
    fn write_drawn(&self, plan: &Plan, batch: &mut Batch) {
        let drawing = plan.items.iter().filter(|item| item.samples > 0);
        for (item, sample) in drawing.zip(&mut batch.samples) {
            let sequence = self.running_at(item.key).and_then(|at| self.running.get(at));
            let Some((sequence, &token)) =
                sequence.and_then(|sequence| Some((sequence, sequence.tokens.last()?)))
            else {
                continue;
            };
            sample.surprise = sequence.surprise_target();
            let end = sample.history.end;
            let places = [batch.ids.get_mut(sample.row as usize), batch.history.get_mut(end.wrapping_sub(1))];
            places.into_iter().flatten().for_each(|place| *place = token);
        }
    }

    /// Proves that a plan made ahead has the blocks it writes to.
    pub(super) fn check_ahead(&self) -> Result<(), IntegrityError> {
        let items = self.ahead.iter().flat_map(|plan| &plan.items).filter(|item| self.holds_for(item));
        for item in items {
            let end = item.begin + item.tokens;
            let held = self.running_at(item.key).map_or(0, |at| self.running[at].table.len());
            if held < self.pool.blocks_for(end) {
                return Err(IntegrityError::new(format!("{held} blocks for {end} tokens planned ahead")));
            }
        }
        Ok(())
    }
}
