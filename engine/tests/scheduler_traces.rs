//! The scheduler under random load: every trace is a random engine, random requests and random cancellations, run on
//! the fake device, which verifies every slot that is read.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use support::{Rig, Rng, Rotary, config, expected, expected_scores, request};
use weirgate_engine::{BlockPool, BurstRule, ExecutorLimits, Scheduler, SchedulerConfig};
use weirgate_types::{
    AdapterId, Finish, GenerateRequest, Logprobs, Selection, SeqOutput, SeqUpdate, StopRules,
};

const TRACES: u64 = 40_000;

/// What a trace met, summed over all traces: proof that they reach the corners.
#[derive(Default)]
struct Coverage {
    steps: u64,
    sequences: u64,
    preemptions: u64,
    prefix_hits: u64,
    block_copies: u64,
    cancelled: u64,
    /// Guesses, those of them that came true, and sequences cancelled while a step with guesses ran.
    drafted: u64,
    accepted: u64,
    abandoned: u64,
    planned_ahead: u64,
    longest_wait: u64,
    closest_wait_percent: u64,
}

struct Arrival {
    step: u64,
    request: GenerateRequest,
    cancel_at: Option<u64>,
    /// Cancel this sequence only.
    cancel_index: Option<u32>,
    /// Cancel while the step runs, not before it.
    mid_step: bool,
}

impl Arrival {
    fn cancel(&self, scheduler: &mut Scheduler) {
        match self.cancel_index {
            Some(index) => scheduler.finish_sequence(self.request.id, index, Finish::Cancelled),
            None => scheduler.finish(self.request.id, Finish::Cancelled),
        }
    }
}

struct Trace {
    limits: ExecutorLimits,
    rotary: Rotary,
    prefix_cache: bool,
    weak_hash: bool,
    speculate: usize,
    mixed_step_tokens: usize,
    bursts: BurstRule,
    /// Seeds the choice of steps that are planned while others run.
    ahead: Option<u64>,
    arrivals: Vec<Arrival>,
}

/// Of the requests; some have none.
const ADAPTERS: [AdapterId; 2] = [AdapterId(1), AdapterId(2)];

fn random_trace(seed: u64) -> Trace {
    let rng = &mut Rng(seed);
    let block_size = rng.range(1, 4);
    let max_seqs = rng.range(1, 5);
    let limits = ExecutorLimits {
        blocks: rng.range(3, 24),
        block_size,
        max_step_tokens: max_seqs + rng.range(0, 12),
        max_seqs,
        vocab_size: rng.range(3, 8),
        max_seq_len: 64,
    };
    let longest = limits.max_seq_len.min(limits.blocks * block_size);
    let rotary = match rng.range(0, 9) {
        0 => Rotary::Dynamic(rng.range(1, longest)),
        1 => Rotary::Long(rng.range(1, longest)),
        _ => Rotary::Fixed,
    };
    let priorities = rng.chance(30);
    let cancels = rng.chance(50);
    let roots: Vec<Vec<u32>> =
        (0..2).map(|_| (0..longest).map(|_| rng.range(0, limits.vocab_size - 1) as u32).collect()).collect();
    let mut step = 0;
    let arrivals = (0..rng.range(1, 9) as u64)
        .map(|id| {
            step += rng.range(0, 4) as u64;
            let mut request = random_request(id, &roots, longest, rng);
            request.priority = if priorities { rng.range(0, 2) as i32 } else { 0 };
            for token in Arc::make_mut(&mut request.prompt) {
                *token %= limits.vocab_size as u32;
            }
            let cancel_at = (cancels && rng.chance(30)).then(|| step + rng.range(0, 12) as u64);
            let cancel_index = rng.chance(40).then(|| rng.range(0, request.n as usize - 1) as u32);
            Arrival { step, request, cancel_at, cancel_index, mid_step: rng.chance(30) }
        })
        .collect();
    let speculate = if rng.chance(60) { rng.range(1, 6) } else { 0 };
    let mixed_step_tokens = if rng.chance(50) { rng.range(1, 6) } else { usize::MAX };
    let bursts = match rng.chance(50) {
        true => BurstRule {
            ratio: rng.range(0, 6) as f32 / 4.0,
            young: rng.range(0, 8),
            max_steps: rng.range(1, 4),
        },
        false => BurstRule::NONE,
    };
    let (prefix_cache, weak_hash) = (!rng.chance(25), rng.chance(10));
    let ahead = rng.chance(60).then(|| rng.next());
    Trace { limits, rotary, prefix_cache, weak_hash, speculate, mixed_step_tokens, bursts, ahead, arrivals }
}

fn random_request(id: u64, roots: &[Vec<u32>], longest: usize, rng: &mut Rng) -> GenerateRequest {
    let prompt_len = rng.range(1, (longest - 1).min(24));
    let mut prompt = roots[rng.range(0, 1)][..prompt_len].to_vec();
    for _ in 0..rng.range(0, 2) {
        let at = rng.range(0, prompt_len - 1);
        prompt[at] = rng.next() as u32 % 3;
    }
    let mut request = request(id, &prompt, rng.range(1, (longest - prompt_len).min(12)) as u32);
    request.n = if rng.chance(25) { rng.range(2, 4) as u32 } else { 1 };
    if rng.chance(40) {
        request.sampling.selection = Selection::Random { seed: rng.next() };
    }
    request.sampling.top_k = if rng.chance(60) { rng.range(2, 4) as u32 } else { 0 };
    if rng.chance(20) {
        request.sampling.repetition_penalty = 1.0;
    }
    let stop_tokens: Arc<[u32]> = if rng.chance(40) { Arc::new([0, 1_000_000]) } else { Arc::new([]) };
    let max_new_tokens = request.stop.max_new_tokens;
    request.stop = StopRules { max_new_tokens, min_new_tokens: rng.range(0, 4) as u32, stop_tokens };
    request.logprobs = Logprobs { top_n: 0, prompt: rng.chance(15) };
    request.cache_salt = u64::from(rng.chance(15));
    request.adapter = ADAPTERS.get(rng.range(0, 3)).copied();
    request
}

/// What is known of one sequence while a trace runs.
#[derive(Default)]
struct Seen {
    tokens: Vec<u32>,
    cached: Option<u32>,
    prompt: Option<Vec<Option<f32>>>,
    end: Option<Finish>,
    waited: u64,
}

struct Run<'a> {
    trace: &'a Trace,
    rig: Rig,
    seen: HashMap<(u64, u32), Seen>,
    step: u64,
    abandoned: u64,
}

impl<'a> Run<'a> {
    fn new(trace: &'a Trace) -> Self {
        let config = SchedulerConfig {
            prefix_cache: trace.prefix_cache,
            speculate: trace.speculate,
            mixed_step_tokens: trace.mixed_step_tokens,
            bursts: trace.bursts,
            ..config(trace.limits, trace.rotary)
        };
        let pool = match trace.weak_hash {
            false => BlockPool::new(trace.limits.blocks, trace.limits.block_size),
            true => BlockPool::with_hash(
                trace.limits.blocks,
                trace.limits.block_size,
                Box::new(|key| u64::from(key.tokens.iter().sum::<u32>() % 4)),
            ),
        };
        let mut rig = Rig::with(trace.limits, trace.rotary, Scheduler::with_pool(config, pool));
        rig.device.adapters.extend(ADAPTERS);
        rig.ahead = trace.ahead.map(Rng);
        Self { trace, rig, seen: HashMap::new(), step: 0, abandoned: 0 }
    }

    fn run(mut self) -> (HashMap<(u64, u32), Seen>, Coverage) {
        let mut coverage = Coverage::default();
        let mut next = 0;
        let arrivals = &self.trace.arrivals;
        while next < arrivals.len() || !self.rig.scheduler.is_idle() {
            while next < arrivals.len() && arrivals[next].step <= self.step {
                let request = &arrivals[next].request;
                self.rig.submit(request.clone());
                self.seen.extend((0..request.n).map(|index| ((request.id.0, index), Seen::default())));
                next += 1;
            }
            self.cancel(next);
            self.one_step(next);
            self.step += 1;
            assert!(self.step < 20_000, "no end in sight");
        }
        let stats = self.rig.scheduler.stats();
        coverage.steps = self.rig.device.steps;
        coverage.preemptions = stats.preemptions;
        coverage.prefix_hits = stats.prefix_hits;
        coverage.block_copies = self.rig.device.block_copies;
        coverage.drafted = self.rig.drafted;
        coverage.accepted = self.rig.accepted;
        coverage.abandoned = self.abandoned;
        coverage.planned_ahead = stats.planned_ahead;
        (self.seen, coverage)
    }

    fn cancel(&mut self, arrived: usize) {
        for arrival in &self.trace.arrivals[..arrived] {
            if arrival.cancel_at == Some(self.step) && !arrival.mid_step {
                arrival.cancel(&mut self.rig.scheduler);
            }
        }
        let outputs = self.rig.scheduler.take_outputs();
        self.take(outputs);
        self.check_idle();
    }

    fn one_step(&mut self, arrived: usize) {
        if self.rig.scheduler.is_idle() {
            return;
        }
        let arrivals = &self.trace.arrivals[..arrived];
        let step = self.step;
        let drafted = self.rig.drafted;
        let outputs = self.rig.step_with(|scheduler| {
            for arrival in
                arrivals.iter().filter(|arrival| arrival.mid_step && arrival.cancel_at == Some(step))
            {
                arrival.cancel(scheduler);
            }
        });
        let ends = outputs
            .iter()
            .filter(|output| matches!(output.update, SeqUpdate::Finished { reason: Finish::Cancelled, .. }));
        self.abandoned += if self.rig.drafted > drafted { ends.count() as u64 } else { 0 };
        for seen in self.seen.values_mut() {
            seen.waited += u64::from(seen.cached.is_none() && seen.end.is_none());
        }
        // Who was scheduled in this step did not wait for it.
        for output in &outputs {
            if matches!(output.update, SeqUpdate::Scheduled { .. })
                && let Some(seen) = self.seen.get_mut(&(output.request.0, output.index))
            {
                seen.waited -= 1;
            }
        }
        self.take(outputs);
        self.check_idle();
    }

    fn check_idle(&self) {
        if self.rig.scheduler.is_idle() {
            let counts = self.rig.scheduler.stats().blocks;
            assert_eq!((counts.used, counts.free + counts.cached), (0, self.trace.limits.blocks));
            self.rig.scheduler.check_integrity().expect("sound books");
            assert!(self.seen.values().all(|seen| seen.end.is_some()), "idle, but a sequence has no end");
        }
    }

    fn take(&mut self, outputs: Vec<SeqOutput>) {
        for output in outputs {
            let seen = self.seen.get_mut(&(output.request.0, output.index)).expect("a known sequence");
            assert!(seen.end.is_none(), "something after the end");
            match output.update {
                SeqUpdate::Scheduled { cached_tokens } => {
                    assert!(seen.cached.replace(cached_tokens).is_none(), "scheduled twice");
                }
                SeqUpdate::Prompt { logprobs } => {
                    assert!(seen.tokens.is_empty() && seen.prompt.replace(logprobs).is_none());
                }
                SeqUpdate::Token(token) => {
                    assert!(seen.cached.is_some(), "a token before the sequence was scheduled");
                    seen.tokens.push(token.id);
                }
                SeqUpdate::Finished { reason, usage } => {
                    assert_eq!(usage.completion_tokens as usize, seen.tokens.len());
                    assert_eq!(usage.cached_tokens, seen.cached.unwrap_or(0));
                    seen.end = Some(reason);
                }
                SeqUpdate::Rejected(reason) => panic!("rejected: {reason:?}"),
            }
        }
    }
}

/// All sequences of a request run alone, with room for everything and no cache.
fn alone(trace: &Trace, request: &GenerateRequest) -> HashMap<(u64, u32), Seen> {
    let limits =
        ExecutorLimits { blocks: 200, block_size: 16, max_step_tokens: 1000, max_seqs: 8, ..trace.limits };
    let arrivals = vec![Arrival {
        step: 0,
        request: request.clone(),
        cancel_at: None,
        cancel_index: None,
        mid_step: false,
    }];
    let trace = Trace {
        limits,
        rotary: trace.rotary,
        prefix_cache: false,
        weak_hash: false,
        speculate: 0,
        mixed_step_tokens: usize::MAX,
        bursts: BurstRule::NONE,
        ahead: None,
        arrivals,
    };
    Run::new(&trace).run().0
}

fn check_results(trace: &Trace, seen: &HashMap<(u64, u32), Seen>) -> u64 {
    let mut cancelled = 0;
    for Arrival { request, cancel_at, cancel_index, .. } in &trace.arrivals {
        let by_definition = expected(request, trace.rotary, trace.limits.vocab_size);
        let alone = alone(trace, request);
        for index in 0..request.n {
            let key = (request.id.0, index);
            let (seen, alone) = (&seen[&key], &alone[&key]);
            let end = seen.end.expect("an end");
            if end == Finish::Cancelled {
                assert!(cancel_at.is_some() && cancel_index.is_none_or(|only| only == index));
                assert!(alone.tokens.starts_with(&seen.tokens), "{key:?}: tokens before the cancellation");
                cancelled += 1;
                continue;
            }
            assert_eq!(
                (&seen.tokens, Some(end)),
                (&alone.tokens, alone.end),
                "{key:?} beside others and alone"
            );
            if index == 0 || request.sampling.selection == Selection::Greedy {
                assert_eq!((&seen.tokens, end), (&by_definition.0, by_definition.1), "{key:?} by definition");
            }
            let scores =
                (index == 0 && request.logprobs.prompt).then(|| expected_scores(request, trace.rotary));
            assert_eq!(seen.prompt, scores, "{key:?} prompt log-probabilities");
        }
    }
    cancelled
}

/// Asserts the bound that the scheduler's documentation states; the longest wait, and the closest to its bound in
/// per cent.
fn check_waits(trace: &Trace, seen: &HashMap<(u64, u32), Seen>) -> (u64, u64) {
    let repeats = if matches!(trace.rotary, Rotary::Long(_)) { 2 } else { 1 };
    let key = |at: usize| (trace.arrivals[at].request.priority, at);
    let mut most = (0, 0);
    for (at, arrival) in trace.arrivals.iter().enumerate() {
        for index in 0..arrival.request.n {
            let mut ahead = 0;
            let mut urgent = 0;
            for (other_at, other) in trace.arrivals.iter().enumerate() {
                let request = &other.request;
                let cost = (request.prompt.len() as u64 + u64::from(request.stop.max_new_tokens)) * repeats;
                ahead += cost
                    * match other_at == at {
                        true => u64::from(index),
                        // A less urgent one that came before may be running already.
                        false if key(other_at) < key(at) || other_at < at => u64::from(request.n),
                        false => 0,
                    };
                let more_urgent = trace.arrivals[..other_at]
                    .iter()
                    .any(|earlier| earlier.request.priority > request.priority);
                urgent += if more_urgent { u64::from(request.n) } else { 0 };
            }
            let bound = ahead * (1 + urgent) * (1 + trace.bursts.max_steps as u64);
            let waited = seen[&(arrival.request.id.0, index)].waited;
            assert!(waited <= bound, "request {at}.{index} waited {waited} steps, the bound is {bound}");
            most = (most.0.max(waited), most.1.max((waited * 100).checked_div(bound).unwrap_or(0)));
        }
    }
    most
}

fn run_trace(trace: &Trace) -> Coverage {
    let (seen, mut coverage) = Run::new(trace).run();
    coverage.cancelled = check_results(trace, &seen);
    (coverage.longest_wait, coverage.closest_wait_percent) = check_waits(trace, &seen);
    coverage.sequences = seen.len() as u64;
    coverage
}

/// Runs a trace; on failure the same trace with as few requests as still fail.
fn run_or_shrink(seed: u64) -> Coverage {
    let trace = random_trace(seed);
    match catch_unwind(AssertUnwindSafe(|| run_trace(&trace))) {
        Ok(coverage) => coverage,
        Err(_) => {
            for requests in 1..=trace.arrivals.len() {
                let mut smaller = random_trace(seed);
                smaller.arrivals.truncate(requests);
                eprintln!("seed {seed}, first {requests} requests, limits {:?}:", smaller.limits);
                run_trace(&smaller);
            }
            panic!("seed {seed} failed once and then no more");
        }
    }
}

#[test]
fn random_traces_keep_every_promise() {
    let threads = 2;
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            std::thread::spawn(move || {
                let mut sum = Coverage::default();
                for seed in (worker..TRACES).step_by(threads as usize) {
                    let one = run_or_shrink(seed);
                    sum.steps += one.steps;
                    sum.sequences += one.sequences;
                    sum.preemptions += one.preemptions;
                    sum.prefix_hits += one.prefix_hits;
                    sum.block_copies += one.block_copies;
                    sum.cancelled += one.cancelled;
                    sum.drafted += one.drafted;
                    sum.accepted += one.accepted;
                    sum.abandoned += one.abandoned;
                    sum.planned_ahead += one.planned_ahead;
                    sum.longest_wait = sum.longest_wait.max(one.longest_wait);
                    sum.closest_wait_percent = sum.closest_wait_percent.max(one.closest_wait_percent);
                }
                sum
            })
        })
        .collect();
    for worker in workers {
        let sum = worker.join().expect("a failed trace is printed above");
        println!(
            "{} steps, {} sequences, {} preemptions, {} hits, {} copies, {} cancelled, {} guesses, {} of them right \
             and {} abandoned, {} steps planned ahead, waits up to {} steps and {}% of the bound",
            sum.steps,
            sum.sequences,
            sum.preemptions,
            sum.prefix_hits,
            sum.block_copies,
            sum.cancelled,
            sum.drafted,
            sum.accepted,
            sum.abandoned,
            sum.planned_ahead,
            sum.longest_wait,
            sum.closest_wait_percent,
        );
        assert!(sum.preemptions > 5_000 && sum.prefix_hits > 50_000 && sum.block_copies > 10_000);
        assert!(sum.drafted > 20_000 && sum.accepted > 10_000 && sum.abandoned > 100);
        assert!(sum.planned_ahead > 50_000);
        assert!(sum.cancelled > 5_000 && sum.sequences > 50_000 && sum.longest_wait > 40);
    }
}
