//! Planning a step.

use std::ops::Range;
use std::sync::Arc;

use weirgate_types::TokenId;

use crate::Batch;
use crate::batch::{Sample, Score};
use crate::sequence::{SeqKey, SeqStatus, Sequence};

use super::{FULL_STEP, Scheduler, mixed_tokens};

/// What a step computes, to be handed back with its result to [`Scheduler::commit`].
#[derive(Debug)]
#[must_use = "a plan must be committed with the step's result"]
pub struct Plan {
    pub(super) items: Vec<Item>,
    /// The drafts of all items.
    pub(super) drafts: Vec<TokenId>,
    pub prefill_tokens: u32,
    pub decode_tokens: u32,
    /// Guessed tokens that are computed on top.
    pub draft_tokens: u32,
    /// Sequences preempted to make room.
    pub preemptions: u32,
    /// What it computes counts as computed already (see [`super::ahead`]).
    pub(super) advanced: bool,
    /// Made while another step ran: somebody would have been preempted for blocks.
    pub(super) short: bool,
    /// Requests that had arrived when it was made.
    pub(super) arrivals: u64,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Tokens of the step.
    pub(super) fn tokens(&self) -> usize {
        self.items.iter().map(|item| item.tokens + item.drafts.len()).sum()
    }

    /// Counts the tokens by their kind.
    pub(super) fn count(&mut self) {
        let of = |decodes: bool| {
            let items = self.items.iter().filter(|item| item.decodes == decodes);
            items.map(|item| item.tokens as u32).sum::<u32>()
        };
        (self.decode_tokens, self.prefill_tokens) = (of(true), of(false));
    }
}

/// One sequence's part in a step.
#[derive(Debug)]
pub(super) struct Item {
    pub key: SeqKey,
    /// The position of the first of its tokens.
    pub begin: usize,
    pub tokens: usize,
    pub decodes: bool,
    /// Its draft, in the plan's drafts.
    pub drafts: Range<usize>,
    /// Tokens drawn: none before the last of its tokens is computed, else one and one more for each drafted.
    pub samples: usize,
    /// Prompt scores, in the batch's order.
    pub scores: usize,
}

/// The state of one pass over the sequences.
struct Pass {
    /// Whether those that decode wait for this step (see [`super::burst`]).
    holds: bool,
    /// Whether another step runs meanwhile, so that nobody can be preempted.
    ahead: bool,
    /// Whether somebody would have been.
    short: bool,
    /// Most sequences that may be running: those that end with the step that runs leave their places.
    places: usize,
    /// Tokens left beside those that are set aside.
    spare: usize,
    /// How many of them may be forced ones.
    forced: usize,
    /// Whether the head of the queue may still be admitted.
    admitting: bool,
    preemptions: u32,
}

impl Scheduler {
    /// Plans the next step into `batch`, which it overwrites, or finishes the plan that
    /// [`plan_ahead`](Scheduler::plan_ahead) has begun; `batch` is then as that left it. The plan is empty only if nothing
    /// is live or if all that could run wait for their masks (see [`Scheduler::draws_blocked`]); an empty plan needs no
    /// commit. No other step runs.
    pub fn plan(&mut self, batch: &mut Batch) -> Plan {
        match self.finish_ahead(batch) {
            Some(plan) => plan,
            None => self.plan_anew(batch, false),
        }
    }

    pub(super) fn plan_anew(&mut self, batch: &mut Batch, ahead: bool) -> Plan {
        batch.clear();
        if self.holds() {
            let plan = self.plan_step(batch, true, ahead);
            if !plan.is_empty() {
                self.bursts.took();
                return plan;
            }
            // No prompt can be computed now, as for want of blocks.
            self.recycle(plan);
            batch.clear_rows();
        }
        let plan = self.plan_step(batch, false, ahead);
        self.bursts.passed();
        plan
    }

    fn plan_step(&mut self, batch: &mut Batch, holds: bool, ahead: bool) -> Plan {
        let mut plan = self.empty_plan();
        let single = match holds {
            true => 0,
            false => self.running.iter().filter(|sequence| needs_one(sequence)).count(),
        };
        let ending = self.running.iter().filter(|sequence| sequence.is_ending()).count();
        let mut pass = Pass {
            holds,
            ahead,
            short: false,
            places: self.max_seqs + ending,
            spare: if holds { self.max_step_tokens } else { self.spare_tokens(single) },
            forced: FULL_STEP.saturating_sub(single),
            admitting: true,
            preemptions: 0,
        };
        let mut at = 0;
        loop {
            let admitted = pass.admitting && self.admit_head(at, &mut pass);
            if at == self.running.len() {
                break;
            }
            // A token was set aside for each running sequence that decodes.
            let reserved = usize::from(!holds && !admitted && needs_one(&self.running[at]));
            let tokens = self.secure(at, reserved, &mut pass, batch);
            if tokens > 0 {
                let extra = tokens - reserved.min(tokens);
                pass.spare -= extra;
                let sequence = &self.running[at];
                let (begin, decodes) = (sequence.computed, sequence.decodes());
                if decodes {
                    pass.forced = pass.forced.saturating_sub(extra);
                }
                plan.items.push(Item {
                    key: sequence.key,
                    begin,
                    tokens,
                    decodes,
                    drafts: 0..0,
                    samples: 0,
                    scores: 0,
                });
            }
            at += 1;
        }
        plan.count();
        plan.short = pass.short;
        plan.preemptions = pass.preemptions;
        self.preemptions += u64::from(pass.preemptions);
        if !ahead {
            self.add_drafts(&mut plan);
        }
        self.fill(&mut plan, batch);
        plan
    }

    /// The token budget for all else, when `single` tokens are set aside.
    pub(super) fn spare_tokens(&self, single: usize) -> usize {
        let left = self.max_step_tokens - single;
        // Those that wait for their masks wait for this step, too.
        match self.running.iter().filter(|sequence| sequence.draws_next()).count() {
            0 => left,
            decodes => {
                let live = (self.running.len() + self.waiting.len()).min(self.max_seqs);
                let most = mixed_tokens(decodes, live.saturating_sub(decodes)).max(self.mixed_step_tokens);
                left.min(most.saturating_sub(decodes))
            }
        }
    }

    fn empty_plan(&mut self) -> Plan {
        let (mut items, mut drafts) =
            (std::mem::take(&mut self.spare_items), std::mem::take(&mut self.spare_drafts));
        items.clear();
        drafts.clear();
        Plan {
            items,
            drafts,
            prefill_tokens: 0,
            decode_tokens: 0,
            draft_tokens: 0,
            preemptions: 0,
            advanced: false,
            short: false,
            arrivals: self.arrivals,
        }
    }

    /// Keeps the memory of a plan that is done with. A plan owns nothing else: its blocks are its sequences'.
    pub(super) fn recycle(&mut self, plan: Plan) {
        (self.spare_items, self.spare_drafts) = (plan.items, plan.drafts);
    }

    /// Writes the plan down as a batch.
    pub(super) fn fill(&self, plan: &mut Plan, batch: &mut Batch) {
        batch.cu_q.push(0);
        batch.block_offsets.push(0);
        let mut sequences = self.running.iter();
        for item in &mut plan.items {
            (item.samples, item.scores) = (0, 0);
            if let Some(sequence) = sequences.find(|sequence| sequence.key == item.key) {
                let draft = plan.drafts.get(item.drafts.clone()).unwrap_or_default();
                append(sequence, item, draft, self.pool.block_size(), batch);
            }
        }
        batch.want_results();
    }

    /// Admits the head of the queue to place `at` of the running sequences if that is its place and there is room.
    fn admit_head(&mut self, at: usize, pass: &mut Pass) -> bool {
        let Some((&key, _)) = self.waiting.first_key_value() else { return false };
        if self.running.get(at).is_some_and(|next| next.key < key) {
            return false;
        }
        pass.admitting = pass.spare > 0 && self.running.len() < pass.places && self.admit(key, at);
        pass.admitting
    }

    /// Gets the blocks for the next tokens of running sequence `at`, at the cost of those behind it, and returns how
    /// many tokens it can compute.
    fn secure(&mut self, at: usize, reserved: usize, pass: &mut Pass, batch: &mut Batch) -> usize {
        if self.running[at].table.is_empty() {
            self.attach_running(at);
        }
        let sequence = &self.running[at];
        let allowed = match (pass.holds, sequence.decodes()) {
            (true, true) => 0,
            (true, false) => sequence.work() - 1,
            (false, true) => (reserved + pass.forced).max(1),
            (false, false) => usize::MAX,
        };
        let tokens = sequence.ready_work().min(pass.spare + reserved).min(allowed);
        if tokens == 0 {
            return 0;
        }
        loop {
            let fit = self.extend(at, tokens, batch);
            if fit == tokens || !self.reclaim(at, pass) {
                return fit;
            }
        }
    }

    /// Extends the block table for `tokens` more tokens as far as the pool allows; how many fit.
    fn extend(&mut self, at: usize, tokens: usize, batch: &mut Batch) -> usize {
        let sequence = &mut self.running[at];
        let held = sequence.table.len() * self.pool.block_size();
        if sequence.computed < held {
            match self.pool.make_last_writable(&mut sequence.table) {
                Ok(copy) => batch.block_copies.extend(copy),
                Err(_) => return 0,
            }
        }
        let wanted = self.pool.blocks_for(sequence.computed + tokens);
        match self.pool.grow(&mut sequence.table, wanted) {
            Ok(()) => tokens,
            Err(_) => sequence.table.len() * self.pool.block_size() - sequence.computed,
        }
    }

    /// Makes blocks available at the cost of a waiting fork, else of the last running sequence behind `at`; false if
    /// there is neither.
    fn reclaim(&mut self, at: usize, pass: &mut Pass) -> bool {
        if self.strip_waiting() {
            return true;
        }
        if self.running.len() - 1 == at {
            return false;
        }
        if pass.ahead {
            pass.short = true;
            return false;
        }
        let Some(mut victim) = self.running.pop() else { return false };
        pass.preemptions += 1;
        self.pool.release(&mut victim.table);
        victim.computed = 0;
        victim.status = SeqStatus::Waiting;
        self.waiting.insert(victim.key, victim);
        true
    }
}

/// Whether a token is set aside for a running sequence.
fn needs_one(sequence: &Sequence) -> bool {
    sequence.draws_next() && sequence.ready_work() > 0
}

/// Adds a sequence's part in the step to the batch: its next tokens, then its draft.
fn append(sequence: &Sequence, item: &mut Item, draft: &[TokenId], block_size: usize, batch: &mut Batch) {
    let blocks = sequence.table.as_slice();
    let (begin, end) = (sequence.computed, sequence.computed + item.tokens);
    let own = &sequence.tokens[begin..end];
    for (position, &token) in (begin..).zip(own.iter().chain(draft)) {
        let row = batch.ids.len() as u32;
        batch.ids.push(token);
        batch.positions.push(position as u32);
        batch.slots.push(blocks[position / block_size] * block_size as u32 + (position % block_size) as u32);
        batch.rope_len.push(sequence.rope_len(position) as u32);
        if sequence.wants_score(position) {
            batch.scores.push(Score { row, target: sequence.tokens[position + 1] });
            item.scores += 1;
        }
    }
    batch.cu_q.push(batch.ids.len() as u32);
    batch.kv_len.push((end + draft.len()) as u32);
    batch.adapters.push(sequence.request.namespace.adapter);
    batch.block_tables.extend_from_slice(blocks);
    batch.block_offsets.push(batch.block_tables.len() as u32);
    if end == sequence.len() {
        item.samples = 1 + draft.len();
        push_samples(sequence, draft, batch);
    }
}

/// A draw behind a sequence's last token and one behind each token of its draft, under the history up to there.
fn push_samples(sequence: &Sequence, draft: &[TokenId], batch: &mut Batch) {
    let request = &sequence.request;
    let whole = sequence.params.needs_history();
    let start = batch.history.len();
    batch.history.extend_from_slice(if whole { &sequence.tokens } else { last(&sequence.tokens) });
    let first_end = batch.history.len();
    batch.history.extend_from_slice(draft);
    let first_row = batch.ids.len() - 1 - draft.len();
    for ahead in 0..=draft.len() {
        let generated = sequence.generated() + ahead;
        let too_short = generated < request.min_new_tokens && !request.stop_tokens.is_empty();
        let end = first_end + ahead;
        batch.samples.push(Sample {
            row: (first_row + ahead) as u32,
            params: Arc::clone(&sequence.params),
            history: if whole { start..end } else { end - 1..end },
            prompt_len: sequence.prompt_left,
            draw: generated as u64,
            surprise: sequence.surprise_target(),
            banned: too_short.then(|| Arc::clone(&request.stop_tokens)),
            mask: sequence.mask(),
        });
    }
}

fn last(tokens: &[TokenId]) -> &[TokenId] {
    &tokens[tokens.len().saturating_sub(1)..]
}
