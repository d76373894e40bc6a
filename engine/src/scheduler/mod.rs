//! Which sequences compute how many tokens in the next step. Pure: no clock, no channel, no device.
//!
//! # One rule
//! A sequence's work is `len - computed`. A prompt, the rest of a prompt, one decoded token, a recomputation after a
//! preemption, the last token of a fully cached prompt: all the same to [`Scheduler::plan`].
//!
//! # Order of service
//! `(priority, arrival, index)`, smallest first. Running sequences are walked in that order; the head of the queue is
//! admitted at its place in it. One token is set aside for every running sequence that decodes (decodes first); where
//! those are few, what a grammar forced behind a drawn token comes along, up to [`FULL_STEP`] tokens in all. What
//! is left of the token budget goes to the others in order, by chunks. A step that decodes takes no more than
//! `mixed_step_tokens` in all, or [`mixed_tokens`] where that is more: whoever decodes waits for the whole step. Where
//! many prompts wait and whoever decodes has just begun, they come first, in a [`burst`] of steps of their own.
//!
//! - **Admission** is strictly in order: while the head of the queue cannot be admitted, nobody is. It is admitted
//!   when a place, a token and the blocks for its present tokens are there. Nothing is reserved for tokens to come.
//! - **Out of blocks**: first the forks that still wait lose the blocks they share; then the last running sequence
//!   behind the one in need is preempted: it gives back its blocks and is recomputed later, from whatever of its prefix
//!   is then still cached. The last one itself takes a smaller chunk or pauses for the step.
//! - **`n > 1`**: the siblings of sequence 0 stand in the queue right behind it until its prompt is computed; then
//!   they share its blocks and recompute the prompt's last token, so each draws its own first token. If sequence 0 ends
//!   before that, the next of them takes its part.
//! - **A grammar's mask** that is not there yet holds up the draw of its own sequence only: the sequence computes all but
//!   its last token, and that one when the mask is there.
//!
//! # Speculation
//! A decoding sequence may have a draft: guesses at its next tokens, computed in the same step behind its own. A token is
//! drawn behind each of them, under the history that the guesses make, with the draw's own number; the guesses that
//! equal what is drawn before them are accepted, and with the first other token the rest of the draft is void. So the
//! tokens are those of one draw per step. Drafts come last: they take what tokens of a small step and what blocks
//! are left when the plan is otherwise settled. What a void guess wrote lies beyond the computed tokens, is never
//! published and is overwritten by the tokens that come in its place.
//!
//! # Planning ahead
//! The next step can be planned while a step runs (see [`ahead`]): by the same rules, as if every token that is being
//! drawn were there. Sequences that end nevertheless are taken out of the plan. Nobody is preempted for such a plan, and
//! it is dropped where somebody should be, or where somebody can have a part in the step that the plan does not know of.
//!
//! # Context shift
//! A sequence whose request allows it and that has grown to its context's length loses the older half of what follows
//! the tokens to be kept, and starts over with the others: from whatever of them is still cached, as after a preemption.
//!
//! # Progress, and a bound on waiting
//! The first running sequence in the order is never preempted and computes at least one token in every step unless it
//! waits for a mask or for a burst: `max_seqs` is at most the token budget, and a request that needs more than the whole
//! pool is refused. Among equal priorities the running sequences are always ahead of the waiting ones, so the first
//! running one is the oldest of all and stays so until it ends. Hence a sequence waits at most
//!
//! > Σ (prompt + max_new_tokens) over the sequences ahead of it
//!
//! steps, besides those for which one of these waits for a mask or for a burst, of which there are at most
//! `BurstRule::max_steps` for each step that decodes (twice that where a change of the rotary table makes a sequence be
//! recomputed). Each later arrival of a more urgent priority adds its own such term and may make the sequences behind it
//! repeat theirs once.

mod admit;
mod ahead;
mod burst;
mod commit;
mod draft;
mod masks;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weirgate_kernels::{FilterOrder, FrequencyPenalty, Mirostat, SampleParams, Sampled};
use weirgate_types::{
    AdapterId, Finish, Frequency, GenerateRequest, MirostatVersion, RejectReason, RequestId, SamplingParams,
    Selection, SeqOutput, TokenId, TokenOut,
};

use crate::block_pool::{BlockCounts, BlockPool, BlockTable, IntegrityError, Namespace};
use crate::constraint::{Constraint, MaskJob};
use crate::drafter::Drafter;
use crate::ledger::Ledger;
use crate::sequence::{Request, SeqKey, SeqStatus, Sequence, Surprise};
use crate::{ExecutorLimits, GrammarSource, ValidRequest};

use burst::Bursts;

pub use burst::BurstRule;
pub use plan::Plan;

/// How the rotary tables of the model depend on the sequence length.
pub struct RopeRule {
    /// Lengths of one class share their tables. Keys computed under different classes are never mixed by the cache.
    pub class: Box<dyn Fn(usize) -> u64 + Send>,
    /// Whether a sequence that grows into another class is recomputed under it as a whole (LongRoPE), or only its
    /// new tokens are computed under it (dynamic NTK).
    pub recompute: bool,
}

impl Default for RopeRule {
    /// One table for all lengths.
    fn default() -> Self {
        Self { class: Box::new(|_| 0), recompute: false }
    }
}

/// Prompt tokens of a step for each sequence that decodes, or that does not and could. Twice as many as a stream of 128
/// tokens in and 64 out needs to keep pace: a prompt is then computed in a few steps. With three, sixteen such streams on
/// a CPU would have gaps that are shorter by a sixth, but wait twice as long for their first tokens (simulated, with the
/// measured times of steps).
const PROMPT_TOKENS: usize = 4;

/// Tokens of a step where `decodes` sequences decode and `others` run or could: large loads are computed in larger steps,
/// and no prompt starves beside many that decode.
fn mixed_tokens(decodes: usize, others: usize) -> usize {
    decodes + PROMPT_TOKENS * others.max(decodes)
}

/// Drafts and the tokens that grammars force fill a step up to this many tokens. A small step takes the time of reading
/// the weights, whatever its size; beyond that every token costs, and what one sequence is ahead holds up the others.
const FULL_STEP: usize = 32;

/// What a scheduler works under.
pub struct SchedulerConfig {
    /// Of the executor, lowered to what is wanted.
    pub limits: ExecutorLimits,
    pub prefix_cache: bool,
    pub rope: RopeRule,
    /// Most tokens guessed ahead per sequence and step; 0 for none.
    pub speculate: usize,
    /// Most tokens of a step that decodes, where few sequences are live.
    pub mixed_step_tokens: usize,
    pub bursts: BurstRule,
}

/// The state of the queues and what has been counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerStats {
    pub running: usize,
    /// Sequences in the queue, siblings that wait for their prompt included.
    pub waiting: usize,
    pub blocks: BlockCounts,
    pub preemptions: u64,
    /// Prompt tokens found in the cache, of so many looked up, when sequences were first scheduled.
    pub prefix_hits: u64,
    pub prefix_queries: u64,
    /// Draft tokens computed, and how many of them came true.
    pub drafted: u64,
    pub accepted: u64,
    /// Steps planned while the one before ran.
    pub planned_ahead: u64,
}

/// A live request: where its sequences are.
struct LiveRequest {
    priority: i32,
    arrival: u64,
    n: u32,
    /// Sequences not ended yet.
    open: u32,
    /// Sequence 0 has been scheduled.
    started: bool,
    adapter: Option<AdapterId>,
}

/// The queues, the sequences and their blocks. See the [module](self) for the policy.
pub struct Scheduler {
    max_step_tokens: usize,
    mixed_step_tokens: usize,
    bursts: Bursts,
    max_seqs: usize,
    vocab: u32,
    prefix_cache: bool,
    rope: RopeRule,
    speculate: usize,
    pool: BlockPool,
    ledger: Ledger,
    /// In order of service.
    running: Vec<Sequence>,
    waiting: BTreeMap<SeqKey, Sequence>,
    requests: HashMap<RequestId, LiveRequest>,
    arrivals: u64,
    unstarted: usize,
    preemptions: u64,
    prefix_hits: u64,
    prefix_queries: u64,
    drafted: u64,
    accepted: u64,
    planned_ahead: u64,
    /// The last plan's vectors, kept for their memory.
    spare_items: Vec<plan::Item>,
    spare_drafts: Vec<TokenId>,
    /// Masks to compute, not taken yet.
    mask_jobs: Vec<MaskJob>,
    /// The next step's plan, made while a step runs.
    ahead: Option<Plan>,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Self {
        let pool = BlockPool::new(config.limits.blocks, config.limits.block_size);
        Self::with_pool(config, pool)
    }

    /// A scheduler over a pool of the caller's making, of the size that the limits say.
    pub fn with_pool(config: SchedulerConfig, pool: BlockPool) -> Self {
        let limits = config.limits;
        Self {
            max_step_tokens: limits.max_step_tokens,
            mixed_step_tokens: config.mixed_step_tokens,
            bursts: Bursts::new(config.bursts),
            max_seqs: limits.max_seqs.min(limits.max_step_tokens),
            vocab: limits.vocab_size as u32,
            prefix_cache: config.prefix_cache,
            rope: config.rope,
            speculate: config.speculate,
            pool,
            ledger: Ledger::default(),
            running: Vec::new(),
            waiting: BTreeMap::new(),
            requests: HashMap::new(),
            arrivals: 0,
            unstarted: 0,
            preemptions: 0,
            prefix_hits: 0,
            prefix_queries: 0,
            drafted: 0,
            accepted: 0,
            planned_ahead: 0,
            spare_items: Vec::new(),
            spare_drafts: Vec::new(),
            mask_jobs: Vec::new(),
            ahead: None,
        }
    }

    /// Queues all sequences of a request. A second live request of the same id is rejected.
    pub fn submit(&mut self, request: &ValidRequest) {
        self.queue(request, None);
    }

    /// Queues a request each of whose sequences obeys a grammar of its own, started from `source`.
    pub fn submit_constrained(&mut self, request: &ValidRequest, source: &Arc<dyn GrammarSource>) {
        self.queue(request, Some(source));
    }

    fn queue(&mut self, request: &ValidRequest, source: Option<&Arc<dyn GrammarSource>>) {
        let request = request.get();
        if self.requests.contains_key(&request.id) {
            let value = request.id.0.to_string();
            let limit = String::from("unique among the live requests");
            self.ledger.reject(request.id, RejectReason::InvalidParameter { field: "id", value, limit });
            return;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.unstarted += 1;
        let (priority, n) = (request.priority, request.n);
        self.requests.insert(
            request.id,
            LiveRequest { priority, arrival, n, open: n, started: false, adapter: request.adapter },
        );
        let shared = Arc::new(Request {
            id: request.id,
            prompt: Arc::clone(&request.prompt),
            namespace: Namespace { adapter: request.adapter, tenant: request.cache_salt },
            max_new_tokens: request.stop.max_new_tokens as usize,
            min_new_tokens: request.stop.min_new_tokens as usize,
            stop_tokens: reachable(&request.stop.stop_tokens, self.vocab),
            shift: request.shift,
        });
        for index in 0..n {
            let key = SeqKey { priority, arrival, index };
            let mut sequence = self.new_sequence(key, request, &shared);
            match source {
                Some(source) => {
                    let (constraint, job) = Constraint::start(key, &shared, source, self.vocab as usize);
                    sequence.constraint = Some(constraint);
                    self.mask_jobs.push(job);
                }
                // Under a grammar every draw needs the mask of its own prefix; its forced tokens come without draws. With
                // Mirostat every draw depends on how the last one ended.
                None if sequence.surprise.is_none() && self.speculate > 0 => {
                    sequence.drafter = Some(Drafter::new(self.speculate));
                }
                None => {}
            }
            self.waiting.insert(key, sequence);
        }
    }

    /// Ends all sequences of a request at once and frees what they hold; nothing happens if it is not live.
    pub fn finish(&mut self, request: RequestId, reason: Finish) {
        let n = self.requests.get(&request).map_or(0, |live| live.n);
        for index in 0..n {
            self.finish_sequence(request, index, reason);
        }
    }

    /// Ends one sequence of a request at once and frees what it holds; nothing happens if it is not live.
    pub fn finish_sequence(&mut self, request: RequestId, index: u32, reason: Finish) {
        let Some(live) = self.requests.get(&request) else { return };
        let key = SeqKey { priority: live.priority, arrival: live.arrival, index };
        let sequence = match self.running_at(key) {
            Some(at) => Some(self.running.remove(at)),
            None => self.waiting.remove(&key),
        };
        if let Some(sequence) = sequence {
            self.end(sequence, reason);
        }
    }

    /// Ends everything.
    pub fn finish_all(&mut self, reason: Finish) {
        let mut live: Vec<(u64, RequestId)> =
            self.requests.iter().map(|(&id, request)| (request.arrival, id)).collect();
        live.sort_unstable();
        for (_, id) in live {
            self.finish(id, reason);
        }
    }

    /// Refuses a request that was never queued.
    pub fn reject(&mut self, request: RequestId, reason: RejectReason) {
        self.ledger.reject(request, reason);
    }

    /// What happened since the last call, in order.
    pub fn take_outputs(&mut self) -> Vec<SeqOutput> {
        self.ledger.take()
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Requests with a sequence that has not ended.
    pub fn live_requests(&self) -> usize {
        self.requests.len()
    }

    /// Whether a sequence of the request has not ended.
    pub fn is_live(&self, request: RequestId) -> bool {
        self.requests.contains_key(&request)
    }

    /// Whether a live request computes with the adapter.
    pub fn uses(&self, adapter: AdapterId) -> bool {
        self.requests.values().any(|live| live.adapter == Some(adapter))
    }

    /// Live requests of which nothing was scheduled yet.
    pub fn unstarted_requests(&self) -> usize {
        self.unstarted
    }

    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks: self.pool.counts(),
            preemptions: self.preemptions,
            prefix_hits: self.prefix_hits,
            prefix_queries: self.prefix_queries,
            drafted: self.drafted,
            accepted: self.accepted,
            planned_ahead: self.planned_ahead,
        }
    }

    /// Proves the block accounts against the sequences that hold blocks, and the ledger against the sequences.
    ///
    /// # Errors
    /// [`IntegrityError`] names the first contradiction.
    pub fn check_integrity(&self) -> Result<(), IntegrityError> {
        let tables: Vec<&BlockTable> =
            self.running.iter().chain(self.waiting.values()).map(|sequence| &sequence.table).collect();
        self.pool.check_integrity(tables)?;
        let (open, live) = (self.ledger.open_accounts(), self.running.len() + self.waiting.len());
        if open != live {
            return Err(IntegrityError::new(format!("{open} open accounts for {live} sequences")));
        }
        self.check_ahead()
    }

    fn new_sequence(&mut self, key: SeqKey, from: &GenerateRequest, shared: &Arc<Request>) -> Sequence {
        let first = key.index == 0;
        Sequence {
            key,
            status: if first { SeqStatus::Waiting } else { SeqStatus::Unborn },
            request: Arc::clone(shared),
            params: Arc::new(sample_params(&from.sampling, from.logprobs.top_n, key.index)),
            account: self.ledger.open(from.id, key.index),
            tokens: from.prompt.to_vec(),
            expects: false,
            computed: 0,
            frontier: 0,
            table: BlockTable::default(),
            rope_base: from.prompt.len(),
            prompt_left: from.prompt.len(),
            dropped: 0,
            surprise: from.sampling.mirostat.map(Surprise::new),
            cached_tokens: None,
            scores: (first && from.logprobs.prompt).then(Vec::new),
            constraint: None,
            drafter: None,
            has_unborn: first && from.n > 1,
        }
    }

    fn running_at(&self, key: SeqKey) -> Option<usize> {
        self.running.binary_search_by_key(&key, |sequence| sequence.key).ok()
    }

    /// The same for keys that come in order, most of which follow on each other: `next` is where to look first.
    fn running_from(&self, next: &mut usize, key: SeqKey) -> Option<usize> {
        let follows = self.running.get(*next).is_some_and(|sequence| sequence.key == key);
        let at = if follows { *next } else { self.running_at(key)? };
        *next = at + 1;
        Some(at)
    }

    /// The only way out: gives the blocks back and closes the account.
    fn end(&mut self, mut sequence: Sequence, reason: Finish) {
        self.pool.release(&mut sequence.table);
        if sequence.has_unborn {
            self.promote(sequence.key);
        }
        let usage = sequence.usage();
        let id = sequence.request.id;
        self.ledger.close(sequence.account, reason, usage);
        if let Some(live) = self.requests.get_mut(&id) {
            live.open -= 1;
            if live.open == 0 {
                self.unstarted -= usize::from(!live.started);
                self.requests.remove(&id);
            }
        }
    }
}

/// Appends a token; the length is checked before the stop tokens, as in TGI.
fn append_token(
    sequence: &mut Sequence,
    Sampled { token, logprob, top }: Sampled,
    ledger: &mut Ledger,
    rope: &RopeRule,
    pool: &mut BlockPool,
) -> Option<Finish> {
    sequence.tokens.push(token);
    ledger.token(&sequence.account, TokenOut { id: token, logprob, top });
    if sequence.generated() >= sequence.request.max_new_tokens {
        return Some(Finish::Length);
    }
    if sequence.request.stop_tokens.contains(&token) {
        return Some(Finish::StopToken);
    }
    if let Some(shift) = sequence.request.shift
        && sequence.len() >= shift.limit as usize
    {
        sequence.shift(shift.keep as usize);
        pool.release(&mut sequence.table);
    }
    // A sequence that has grown into another rotary table starts over under it, where the model asks for that.
    if rope.recompute && (rope.class)(sequence.len()) != (rope.class)(sequence.rope_base) {
        sequence.rope_base = sequence.len();
        sequence.computed = 0;
        pool.release(&mut sequence.table);
    }
    None
}

/// Stop tokens that the model can generate at all; some checkpoints name ids beyond their vocabulary.
fn reachable(stop: &Arc<[u32]>, vocab: u32) -> Arc<[u32]> {
    if stop.iter().all(|&token| token < vocab) {
        return Arc::clone(stop);
    }
    stop.iter().copied().filter(|&token| token < vocab).collect()
}

fn sample_params(from: &SamplingParams, top_n: u32, index: u32) -> SampleParams {
    SampleParams {
        seed: match from.selection {
            Selection::Greedy => None,
            Selection::Random { seed } => Some(sequence_seed(seed, index)),
        },
        temperature: from.temperature,
        top_k: from.top_k,
        top_p: from.top_p,
        typical_p: from.typical_p,
        min_p: from.min_p,
        tfs_z: from.tfs_z,
        order: match from.order {
            weirgate_types::FilterOrder::TemperatureFirst => FilterOrder::TemperatureFirst,
            weirgate_types::FilterOrder::TemperatureLast => FilterOrder::TemperatureLast,
        },
        mirostat: from.mirostat.map(|mirostat| match mirostat.version {
            MirostatVersion::V1 => Mirostat::V1,
            MirostatVersion::V2 => Mirostat::V2,
        }),
        repetition_penalty: from.repetition_penalty,
        frequency_penalty: match from.frequency_penalty {
            Frequency::Count(x) => FrequencyPenalty::Count(x),
            Frequency::Relative(x) => FrequencyPenalty::Relative(x),
        },
        presence_penalty: from.presence_penalty,
        penalty_window: from.penalty_window,
        penalty_exempt: from.penalty_exempt,
        logit_bias: from.logit_bias.clone(),
        watermark: from.watermark.map(|watermark| (watermark.gamma, watermark.delta)),
        top_n,
    }
}

/// Sequence 0 draws from the request's seed itself, the others from seeds mixed from it (the finalizer of SplitMix64).
fn sequence_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    let mut z = seed.wrapping_add(u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
