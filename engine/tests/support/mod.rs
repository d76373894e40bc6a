//! A device without arithmetic: every KV slot holds a fingerprint of the token prefix (and the rotary classes) it was
//! computed from. Each step verifies that every slot a sequence reads holds exactly that sequence's own prefix, which
//! finds unwritten, overwritten, foreign and stale blocks alike. Tokens are a pure function of the whole history.
#![allow(dead_code)]

pub mod rule;

use std::collections::HashSet;
use std::sync::Arc;

use weirgate_engine::{
    Batch, BurstRule, Executor, ExecutorError, ExecutorLimits, GrammarSource, MaskJob, RopeRule, Sample,
    Scheduler, SchedulerConfig, StepResult, ValidRequest,
};
use weirgate_kernels::{KernelError, Sampled};
use weirgate_models::Adapter;
use weirgate_types::{
    AdapterId, Finish, GenerateRequest, Logprobs, RequestId, SamplingParams, Selection, SeqOutput, SeqUpdate,
    StopRules,
};

/// The finalizer of MurmurHash3 over a combination of both.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ b.wrapping_add(0x2545_f491_4f6c_dd1d);
    z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    z ^ (z >> 33)
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `from..=to`.
    pub fn range(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.range(1, 100) <= percent
    }
}

/// How rotary tables depend on the length, in the test's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotary {
    Fixed,
    /// Every length past this has its own table.
    Dynamic(usize),
    /// Two tables; a sequence that passes this length starts over.
    Long(usize),
}

impl Rotary {
    pub fn class(self, len: usize) -> u64 {
        match self {
            Rotary::Dynamic(max) if len > max => len as u64,
            Rotary::Long(max) if len > max => 1,
            _ => 0,
        }
    }

    pub fn rule(self) -> RopeRule {
        RopeRule { class: Box::new(move |len| self.class(len)), recompute: matches!(self, Rotary::Long(_)) }
    }

    /// The classes under which the tokens of a sequence must have been computed.
    fn classes(self, prompt_len: usize, len: usize) -> Vec<u64> {
        (0..len)
            .map(|position| match self {
                Rotary::Fixed => 0,
                Rotary::Dynamic(_) => self.class(prompt_len.max(position + 1)),
                Rotary::Long(max) => u64::from(len > max),
            })
            .collect()
    }
}

/// What a sequence's first token follows.
fn root(adapter: Option<AdapterId>) -> u64 {
    adapter.map_or(0x5eed, |id| mix(0x5eed, id.0))
}

/// The fingerprints of all prefixes of `tokens`.
pub fn fingerprints(
    tokens: &[u32],
    prompt_len: usize,
    rotary: Rotary,
    adapter: Option<AdapterId>,
) -> Vec<u64> {
    let classes = rotary.classes(prompt_len, tokens.len());
    let mut state = root(adapter);
    tokens
        .iter()
        .zip(classes)
        .map(|(&token, class)| {
            state = mix(mix(state, u64::from(token)), class);
            state
        })
        .collect()
}

/// What a request's tokens depend on beside its history.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    pub seed: Option<u64>,
    /// In so many cases of four the tokens 1 and 2 alternate, so that guesses come true; the rest is arbitrary.
    pub habit: u32,
}

impl Taste {
    pub fn of(request: &GenerateRequest) -> Self {
        let seed = match request.sampling.selection {
            Selection::Greedy => None,
            Selection::Random { seed } => Some(seed),
        };
        Self { seed, habit: request.sampling.top_k }
    }
}

/// The token that follows a prefix with this fingerprint.
pub fn next_token(fingerprint: u64, taste: Taste, draw: u64, banned: &[u32], vocab: usize) -> u32 {
    let chance = mix(mix(fingerprint, taste.seed.unwrap_or(1)), draw);
    let mut token = match (chance >> 32) % 4 < u64::from(taste.habit) {
        true => 1 + (draw % 2) as u32,
        false => (chance % vocab as u64) as u32,
    };
    while banned.contains(&token) {
        token = (token + 1) % vocab as u32;
    }
    token
}

pub fn score(fingerprint: u64, token: u32) -> f32 {
    -((mix(fingerprint, u64::from(token)) % 4096) as f32) / 64.0
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    position: usize,
    fingerprint: u64,
    /// The step that wrote it.
    step: u64,
}

/// As many adapters as the device has room for.
pub const MAX_ADAPTERS: usize = 3;

/// The device. `run` panics when a batch breaks the contract or a read would see anything but its own prefix.
pub struct FakeDevice {
    pub limits: ExecutorLimits,
    pub rotary: Rotary,
    /// Those that are loaded.
    pub adapters: HashSet<AdapterId>,
    slots: Vec<Option<Slot>>,
    result: StepResult,
    pub steps: u64,
    pub block_copies: u64,
}

impl FakeDevice {
    pub fn new(limits: ExecutorLimits, rotary: Rotary) -> Self {
        let slots = vec![None; limits.blocks * limits.block_size];
        let (adapters, result) = (HashSet::new(), StepResult::default());
        Self { limits, rotary, adapters, slots, result, steps: 0, block_copies: 0 }
    }

    pub fn run(&mut self, batch: &Batch, result: &mut StepResult) {
        self.steps += 1;
        self.check_shape(batch);
        for &(from, to) in &batch.block_copies {
            let (from, size) = (from as usize * self.limits.block_size, self.limits.block_size);
            self.slots.copy_within(from..from + size, to as usize * size);
            self.block_copies += 1;
        }
        let mut written = HashSet::new();
        let mut rows = vec![0u64; batch.tokens()];
        for s in 0..batch.seqs() {
            self.write(batch, s, &mut rows, &mut written);
        }
        for s in 0..batch.seqs() {
            self.verify_reads(batch, s);
        }
        result.scores.clear();
        result.scores.extend(batch.scores.iter().map(|entry| score(rows[entry.row as usize], entry.target)));
        result.sampled.clear();
        for sample in &batch.samples {
            result.sampled.push(self.sample(sample, rows[sample.row as usize]));
        }
    }

    fn check_shape(&self, batch: &Batch) {
        let (tokens, seqs) = (batch.tokens(), batch.seqs());
        assert!(tokens > 0 && tokens <= self.limits.max_step_tokens, "{tokens} tokens");
        assert!(seqs > 0 && seqs <= self.limits.max_seqs, "{seqs} sequences");
        assert_eq!([batch.positions.len(), batch.slots.len(), batch.rope_len.len()], [tokens; 3]);
        assert_eq!([batch.cu_q.len(), batch.block_offsets.len()], [seqs + 1; 2]);
        assert_eq!((batch.cu_q[0], batch.cu_q[seqs] as usize), (0, tokens));
        assert_eq!(
            (batch.block_offsets[0], batch.block_offsets[seqs] as usize),
            (0, batch.block_tables.len())
        );
        assert!(batch.block_tables.iter().all(|&block| (block as usize) < self.limits.blocks));
        assert_eq!(batch.adapters.len(), seqs);
        let loaded = batch.adapters.iter().flatten().all(|id| self.adapters.contains(id));
        assert!(loaded, "{:?} of {:?}", batch.adapters, self.adapters);
        assert!(batch.ids.iter().all(|&id| (id as usize) < self.limits.vocab_size));
    }

    fn table(batch: &Batch, s: usize) -> &[u32] {
        &batch.block_tables[batch.block_offsets[s] as usize..batch.block_offsets[s + 1] as usize]
    }

    fn slot_of(&self, table: &[u32], position: usize) -> usize {
        let size = self.limits.block_size;
        table[position / size] as usize * size + position % size
    }

    /// Computes the sequence's tokens one after the other from what the slot before each holds.
    fn write(&mut self, batch: &Batch, s: usize, rows: &mut [u64], written: &mut HashSet<usize>) {
        let table = Self::table(batch, s);
        let kv_len = batch.kv_len[s] as usize;
        assert_eq!(table.len(), kv_len.div_ceil(self.limits.block_size), "blocks for {kv_len} tokens");
        let (from, to) = (batch.cu_q[s] as usize, batch.cu_q[s + 1] as usize);
        assert!(from < to, "sequence {s} has no tokens");
        for (row, out) in rows.iter_mut().enumerate().take(to).skip(from) {
            let position = kv_len - (to - row);
            assert_eq!(batch.positions[row] as usize, position);
            let slot = self.slot_of(table, position);
            assert_eq!(batch.slots[row] as usize, slot);
            let before = match position {
                0 => root(batch.adapters[s]),
                _ => {
                    let before = self.slots[self.slot_of(table, position - 1)];
                    before.expect("the slot before is written").fingerprint
                }
            };
            let class = self.rotary.class(batch.rope_len[row] as usize);
            let fingerprint = mix(mix(before, u64::from(batch.ids[row])), class);
            assert!(written.insert(slot), "slot {slot} is written twice in one step");
            self.slots[slot] = Some(Slot { position, fingerprint, step: self.steps });
            *out = fingerprint;
        }
    }

    /// After all writes of the step: the sequence's slots still hold its positions.
    fn verify_reads(&self, batch: &Batch, s: usize) {
        let table = Self::table(batch, s);
        let first = (batch.kv_len[s] - (batch.cu_q[s + 1] - batch.cu_q[s])) as usize;
        for position in 0..batch.kv_len[s] as usize {
            let slot = self.slots[self.slot_of(table, position)].expect("a slot that is read is written");
            assert_eq!(slot.position, position, "slot of another position");
            // Keys of earlier steps only, beside its own: another sequence's may not be there in time.
            assert_eq!(
                slot.step == self.steps,
                position >= first,
                "position {position} from step {}",
                slot.step
            );
        }
        let rows = batch.cu_q[s]..batch.cu_q[s + 1];
        assert_eq!(batch.positions[rows.end as usize - 1], batch.kv_len[s] - 1);
        let mut draws = batch.samples.iter().filter(|sample| rows.contains(&sample.row)).peekable();
        let Some(first) = draws.peek() else { return };
        assert!((first.row..rows.end).eq(draws.clone().map(|sample| sample.row)), "draws at the last rows");
        for sample in draws {
            let last = batch.positions[sample.row as usize] as usize;
            // More where a context shift dropped tokens.
            assert!(sample.draw as usize + sample.prompt_len > last, "the number of a draw");
            let tokens = &batch.history[sample.history.clone()];
            assert_eq!(tokens.last(), Some(&batch.ids[sample.row as usize]));
            if !sample.params.needs_history() {
                assert_eq!(tokens.len(), 1);
                continue;
            }
            assert_eq!(tokens.len(), last + 1, "history of a drawn token");
            let own = fingerprints(tokens, sample.prompt_len, self.rotary, batch.adapters[s]);
            for (position, own) in own.into_iter().enumerate() {
                let held = self.slots[self.slot_of(table, position)].expect("written").fingerprint;
                assert_eq!(held, own, "position {position} of {tokens:?} holds another prefix");
            }
        }
    }

    fn sample(&self, sample: &Sample, fingerprint: u64) -> Sampled {
        let vocab = self.limits.vocab_size;
        let mut banned = sample.banned.as_deref().unwrap_or_default().to_vec();
        if let Some(mask) = &sample.mask {
            assert_eq!(mask.len(), vocab.div_ceil(32));
            banned.extend((0..vocab as u32).filter(|&id| mask[id as usize / 32] & (1 << (id % 32)) == 0));
            assert!((0..vocab as u32).any(|id| !banned.contains(&id)), "a draw without a choice");
        }
        let taste = Taste { seed: sample.params.seed, habit: sample.params.top_k };
        let token = next_token(fingerprint, taste, sample.draw, &banned, vocab);
        Sampled { token, logprob: score(fingerprint, token), top: Vec::new() }
    }
}

impl Executor for FakeDevice {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let mut result = std::mem::take(&mut self.result);
        self.run(batch, &mut result);
        self.result = result;
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        std::mem::swap(out, &mut self.result);
        Ok(())
    }

    fn load_adapter(&mut self, id: AdapterId, _: &Adapter) -> Result<(), KernelError> {
        if self.adapters.len() >= MAX_ADAPTERS {
            return Err(KernelError::OutOfMemory { what: "adapters", bytes: 1 });
        }
        self.adapters.insert(id);
        Ok(())
    }

    fn unload_adapter(&mut self, id: AdapterId) {
        assert!(self.adapters.remove(&id), "{id:?} is loaded");
    }
}

/// A greedy request with neutral settings but for a penalty that the device does not apply: it puts the whole history into
/// the batch, for the device to check.
pub fn request(id: u64, prompt: &[u32], max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        id: RequestId(id),
        prompt: prompt.into(),
        n: 1,
        sampling: SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() },
        stop: StopRules { max_new_tokens, min_new_tokens: 0, stop_tokens: Arc::new([]) },
        logprobs: Logprobs::default(),
        priority: 0,
        deadline: None,
        shift: None,
        cache_salt: 0,
        adapter: None,
    }
}

/// The tokens and the end of sequence 0 of a request, straight from the definition: one full pass per token.
pub fn expected(request: &GenerateRequest, rotary: Rotary, vocab: usize) -> (Vec<u32>, Finish) {
    let taste = Taste::of(request);
    let mut tokens = request.prompt.to_vec();
    let prompt_len = tokens.len();
    for draw in 0u32.. {
        let last = fingerprints(&tokens, prompt_len, rotary, request.adapter)[tokens.len() - 1];
        let banned: &[u32] = if draw < request.stop.min_new_tokens { &request.stop.stop_tokens } else { &[] };
        let token = next_token(last, taste, u64::from(draw), banned, vocab);
        tokens.push(token);
        if draw + 1 == request.stop.max_new_tokens {
            return (tokens.split_off(prompt_len), Finish::Length);
        }
        if request.stop.stop_tokens.contains(&token) {
            return (tokens.split_off(prompt_len), Finish::StopToken);
        }
    }
    unreachable!("max_new_tokens is at least 1")
}

/// The log-probabilities of the prompt, straight from the definition.
pub fn expected_scores(request: &GenerateRequest, rotary: Rotary) -> Vec<Option<f32>> {
    let prints = fingerprints(&request.prompt, request.prompt.len(), rotary, request.adapter);
    let scored = request.prompt.iter().skip(1).zip(&prints).map(|(&token, &print)| Some(score(print, token)));
    std::iter::once(None).chain(scored).collect()
}

/// A scheduler and a device, stepped by hand.
pub struct Rig {
    pub scheduler: Scheduler,
    pub device: FakeDevice,
    /// The scheduler's, which may be of the next step already.
    pub batch: Batch,
    /// Of the step that ran last.
    pub ran: Batch,
    /// Plans steps while others run, now and then.
    pub ahead: Option<Rng>,
    pub result: StepResult,
    pub limits: ExecutorLimits,
    /// All that was computed beside decoding.
    pub prefill_tokens: u64,
    /// Guessed tokens, and how many of them came true.
    pub drafted: u64,
    pub accepted: u64,
    /// Leaves masks undone for some steps, at random.
    pub mask_lag: Option<Rng>,
    pub mask_jobs: Vec<MaskJob>,
    /// Steps that a sequence sat out for its mask.
    pub sat_out: u64,
}

impl Rig {
    pub fn new(limits: ExecutorLimits, rotary: Rotary) -> Self {
        Self::with(limits, rotary, Scheduler::new(config(limits, rotary)))
    }

    pub fn with(limits: ExecutorLimits, rotary: Rotary, scheduler: Scheduler) -> Self {
        let device = FakeDevice::new(limits, rotary);
        let (batch, result) = (Batch::default(), StepResult::default());
        Self {
            scheduler,
            device,
            batch,
            ran: Batch::default(),
            ahead: None,
            result,
            limits,
            prefill_tokens: 0,
            drafted: 0,
            accepted: 0,
            mask_lag: None,
            mask_jobs: Vec::new(),
            sat_out: 0,
        }
    }

    pub fn submit(&mut self, request: GenerateRequest) {
        let valid = ValidRequest::check(request, &self.limits).expect("a valid request");
        self.scheduler.submit(&valid);
    }

    pub fn submit_constrained(&mut self, request: GenerateRequest, source: &Arc<dyn GrammarSource>) {
        let valid = ValidRequest::check(request, &self.limits).expect("a valid request");
        self.scheduler.submit_constrained(&valid, source);
    }

    /// Answers the mask jobs, some of them later.
    fn answer_masks(&mut self) {
        self.mask_jobs.extend(self.scheduler.take_mask_jobs());
        let jobs = std::mem::take(&mut self.mask_jobs);
        for job in jobs {
            if self.mask_lag.as_mut().is_some_and(|rng| rng.chance(40)) {
                self.mask_jobs.push(job);
            } else {
                self.scheduler.take_mask(job.run());
            }
        }
    }

    /// Plans, runs and commits one step; what it reported.
    pub fn step(&mut self) -> Vec<SeqOutput> {
        self.step_with(|_| ())
    }

    /// A step during which something else happens to the scheduler.
    pub fn step_with(&mut self, meanwhile: impl FnOnce(&mut Scheduler)) -> Vec<SeqOutput> {
        self.answer_masks();
        if self.scheduler.is_idle() {
            return self.scheduler.take_outputs();
        }
        let mut plan = self.scheduler.plan(&mut self.batch);
        self.sat_out += u64::from(self.scheduler.draws_blocked());
        if plan.is_empty() {
            assert!(self.scheduler.draws_blocked(), "live sequences, but an empty plan");
            meanwhile(&mut self.scheduler);
            return self.scheduler.take_outputs();
        }
        let planned = plan.prefill_tokens + plan.decode_tokens + plan.draft_tokens;
        assert_eq!(planned as usize, self.batch.tokens());
        self.prefill_tokens += u64::from(plan.prefill_tokens);
        self.drafted += u64::from(plan.draft_tokens);
        self.ran.clone_from(&self.batch);
        let mut meanwhile = Some(meanwhile);
        if let Some(rng) = self.ahead.as_mut()
            && rng.chance(80)
        {
            if rng.chance(50)
                && let Some(meanwhile) = meanwhile.take()
            {
                meanwhile(&mut self.scheduler);
            }
            self.scheduler.plan_ahead(&mut plan, &mut self.batch);
            self.scheduler.check_integrity().expect("sound books");
        }
        // Only now: nothing before may have depended on the result.
        self.device.run(&self.ran, &mut self.result);
        if let Some(meanwhile) = meanwhile {
            meanwhile(&mut self.scheduler);
        }
        self.scheduler.check_integrity().expect("sound books");
        let accepted = self.scheduler.commit(plan, &mut self.result).expect("a complete result");
        self.accepted += u64::from(accepted);
        self.scheduler.check_integrity().expect("sound books");
        self.scheduler.take_outputs()
    }

    /// Steps until idle; all outputs.
    pub fn run(&mut self) -> Vec<SeqOutput> {
        let mut outputs = self.scheduler.take_outputs();
        while !self.scheduler.is_idle() {
            outputs.extend(self.step());
        }
        assert_eq!(self.scheduler.stats().blocks.used, 0);
        outputs
    }
}

pub fn config(limits: ExecutorLimits, rotary: Rotary) -> SchedulerConfig {
    SchedulerConfig {
        limits,
        prefix_cache: true,
        rope: rotary.rule(),
        speculate: 0,
        mixed_step_tokens: usize::MAX,
        bursts: BurstRule::NONE,
    }
}

pub fn limits(blocks: usize, block_size: usize) -> ExecutorLimits {
    ExecutorLimits {
        blocks,
        block_size,
        max_step_tokens: 64,
        max_seqs: 8,
        vocab_size: 1000,
        max_seq_len: 10_000,
    }
}

/// The tokens of one sequence.
pub fn tokens_of(outputs: &[SeqOutput], id: u64, index: u32) -> Vec<u32> {
    outputs
        .iter()
        .filter(|output| output.request == RequestId(id) && output.index == index)
        .filter_map(|output| match &output.update {
            SeqUpdate::Token(token) => Some(token.id),
            _ => None,
        })
        .collect()
}

/// How one sequence ended, if it did.
pub fn finish_of(outputs: &[SeqOutput], id: u64, index: u32) -> Option<Finish> {
    let mut ends = outputs
        .iter()
        .filter(|output| output.request == RequestId(id) && output.index == index)
        .filter_map(|output| match &output.update {
            SeqUpdate::Finished { reason, .. } => Some(*reason),
            _ => None,
        });
    let end = ends.next();
    assert!(ends.next().is_none(), "two ends");
    end
}

/// How many prompt tokens of sequence 0 came from the cache.
pub fn cached_of(outputs: &[SeqOutput], id: u64) -> Option<u32> {
    outputs.iter().find_map(|output| match output.update {
        SeqUpdate::Scheduled { cached_tokens } if output.request == RequestId(id) && output.index == 0 => {
            Some(cached_tokens)
        }
        _ => None,
    })
}
