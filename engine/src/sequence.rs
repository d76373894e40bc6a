//! One of a request's continuations.

use std::sync::Arc;

use weirgate_kernels::SampleParams;
use weirgate_types::{ContextShift, Mirostat, RequestId, TokenId, Usage};

use crate::RopeRule;
use crate::block_pool::{BlockTable, Namespace, RopeClass};
use crate::constraint::Constraint;
use crate::drafter::Drafter;
use crate::ledger::Account;

/// The order of service, smallest first: priority, then arrival, then the index within the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeqKey {
    pub priority: i32,
    pub arrival: u64,
    pub index: u32,
}

/// What the sequences of a request have in common.
#[derive(Debug)]
pub(crate) struct Request {
    pub id: RequestId,
    pub prompt: Arc<[TokenId]>,
    pub namespace: Namespace,
    pub max_new_tokens: usize,
    pub min_new_tokens: usize,
    pub stop_tokens: Arc<[TokenId]>,
    pub shift: Option<ContextShift>,
}

/// Mirostat's state: how surprising tokens may be, by how surprising they were.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surprise {
    goal: Mirostat,
    /// μ, in bits.
    target: f32,
}

impl Surprise {
    pub fn new(goal: Mirostat) -> Self {
        Self { goal, target: 2.0 * goal.tau }
    }

    pub fn target(&self) -> f32 {
        self.target
    }

    /// Takes in the natural log-probability of a drawn token, among those that were left to draw from.
    pub fn learn(&mut self, logprob: f32) {
        let observed = -logprob / std::f32::consts::LN_2;
        if observed.is_finite() {
            self.target -= self.goal.eta * (observed - self.goal.tau);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeqStatus {
    /// Waits for the prompt that sequence 0 of its request is computing.
    Unborn,
    /// Can be admitted.
    Waiting,
    Running,
}

/// A token that is drawn but not known yet. No vocabulary is that large.
pub(crate) const UNKNOWN: TokenId = TokenId::MAX;

/// A sequence's work in any step is `len() - computed`: prefill, decode, and recomputation are all that.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub key: SeqKey,
    pub status: SeqStatus,
    pub request: Arc<Request>,
    pub params: Arc<SampleParams>,
    pub account: Account,
    /// Prompt, then generated tokens, without those that were dropped.
    pub tokens: Vec<TokenId>,
    /// The last of them is being drawn by the step that runs; [`UNKNOWN`] stands for it.
    pub expects: bool,
    /// How many of the prompt's tokens are still among them, and how many tokens are not, to make room.
    pub prompt_left: usize,
    pub dropped: usize,
    pub surprise: Option<Surprise>,
    /// So many tokens have their keys and values in `table`.
    pub computed: usize,
    /// The most that `computed` has been: what lies before is computed anew, what lies behind for the first time.
    pub frontier: usize,
    pub table: BlockTable,
    /// Tokens before this length were computed under the rotary tables of this length: the prompt's length, or the
    /// length at which the sequence was recomputed under other tables.
    pub rope_base: usize,
    /// Set when the sequence is first scheduled: prompt tokens found in the cache.
    pub cached_tokens: Option<u32>,
    /// Prompt log-probabilities collected so far, from the second token on; `None` when not asked for or reported.
    pub scores: Option<Vec<f32>>,
    /// What its tokens must obey.
    pub constraint: Option<Constraint>,
    /// `None`: nothing is guessed ahead.
    pub drafter: Option<Drafter>,
    /// Siblings wait for this sequence to compute the prompt.
    pub has_unborn: bool,
}

impl Sequence {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn prompt_len(&self) -> usize {
        self.request.prompt.len()
    }

    pub fn generated(&self) -> usize {
        self.len() + self.dropped - self.prompt_len()
    }

    /// Drops the older half of the tokens behind the first `keep`; the others are to be computed anew.
    pub fn shift(&mut self, keep: usize) {
        let keep = keep.min(self.len());
        let end = keep + (self.len() - keep) / 2;
        self.tokens.drain(keep..end);
        self.dropped += end - keep;
        self.prompt_left = self.prompt_left.min(keep) + self.prompt_left.saturating_sub(end);
        self.computed = 0;
        self.frontier = self.len();
        self.rope_base = self.len();
        if let Some(drafter) = &mut self.drafter {
            drafter.forget();
        }
    }

    /// What its next draw is limited to.
    pub fn mask(&self) -> Option<Arc<[u32]>> {
        self.constraint.as_ref().and_then(Constraint::mask).cloned()
    }

    /// What Mirostat aims at in the next draw, in bits.
    pub fn surprise_target(&self) -> f32 {
        self.surprise.map_or(0.0, |surprise| surprise.target())
    }

    pub fn work(&self) -> usize {
        self.len() - self.computed
    }

    /// Its work is new tokens of its own: the one drawn last, and those that a grammar forced behind it.
    pub fn decodes(&self) -> bool {
        self.generated() > 0 && self.computed >= self.frontier
    }

    /// A token is drawn for it in the next step that takes all there is of it.
    pub fn draws_next(&self) -> bool {
        (self.work() == 1 || self.decodes()) && !self.is_ending()
    }

    /// Counts the token that is being drawn, whatever it is, as the next one.
    pub fn expect_token(&mut self) {
        self.tokens.push(UNKNOWN);
        self.expects = true;
    }

    /// Makes room for what the expected token turned out to be.
    pub fn stop_expecting(&mut self) {
        if std::mem::take(&mut self.expects) {
            self.tokens.pop();
        }
    }

    /// Whatever is being drawn for it is its last token.
    pub fn is_ending(&self) -> bool {
        self.expects && self.generated() >= self.request.max_new_tokens
    }

    pub fn advance(&mut self, tokens: usize) {
        self.computed += tokens;
        self.frontier = self.frontier.max(self.computed);
    }

    /// The mask of its next draw is still being computed.
    pub fn awaits_mask(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.mask().is_none())
    }

    /// The work that can be done now: the last token is computed together with the draw, hence not before its mask.
    pub fn ready_work(&self) -> usize {
        if self.is_ending() { 0 } else { self.work() - usize::from(self.awaits_mask()) }
    }

    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len() as u32,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            completion_tokens: (self.generated() - usize::from(self.expects)) as u32,
        }
    }

    /// The length that picks the rotary table for the token at `position`.
    pub fn rope_len(&self, position: usize) -> usize {
        self.rope_base.max(position + 1)
    }

    /// How many leading tokens may come from the cache: the last token is always computed, to draw from; and so are
    /// the prompt positions whose scores are still to be collected.
    pub fn cacheable(&self) -> usize {
        let drawn = self.len() - 1;
        self.scores.as_ref().map_or(drawn, |scores| scores.len().min(drawn))
    }

    /// Whether the token after `position` belongs to the prompt and its score is still to be collected.
    pub fn wants_score(&self, position: usize) -> bool {
        position + 1 < self.prompt_len()
            && self.scores.as_ref().is_some_and(|scores| scores.len() <= position)
    }

    /// The classes of the tokens in block `index` of the table.
    pub fn rope_class(&self, rule: &RopeRule, index: usize, block_size: usize) -> RopeClass {
        let (start, end) = (index * block_size, (index + 1) * block_size);
        let class = (rule.class)(self.rope_len(start));
        let first_mixed = start.max(self.rope_base);
        let uniform = (first_mixed..end).all(|position| (rule.class)(self.rope_len(position)) == class);
        RopeClass { class, mixed: if uniform { 0 } else { self.rope_base } }
    }
}
