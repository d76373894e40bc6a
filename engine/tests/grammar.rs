//! Sequences under grammars, beside free ones: on random traces and on the engine thread.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use support::rule::{Failure, Rule, expected_under, source};
use support::{FakeDevice, Rig, Rng, Rotary, config, expected, finish_of, limits, request, tokens_of};
use weirgate_engine::{
    EngineConfig, ExecutorLimits, Grammar, GrammarFault, GrammarSource, Scheduler, SchedulerConfig, spawn,
};
use weirgate_types::{Finish, GenerateRequest, Selection, SeqOutput, SeqUpdate, StepOutputs, StopRules};

const TRACES: u64 = 6_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn random_rule(vocab: u32, rng: &mut Rng) -> Rule {
    let failure = match rng.range(0, 11) {
        0 => Some((rng.range(0, 6), Failure::Fault)),
        1 => Some((rng.range(0, 6), Failure::DeadEnd)),
        _ => None,
    };
    Rule { seed: rng.next(), vocab, failure }
}

fn random_request(id: u64, limits: &ExecutorLimits, rng: &mut Rng) -> GenerateRequest {
    let longest = limits.max_seq_len.min(limits.blocks * limits.block_size);
    let prompt_len = rng.range(1, (longest - 1).min(14));
    // Few different prompts, so that the prefix cache has its say.
    let root = rng.range(0, 1);
    let prompt: Vec<u32> = (0..prompt_len).map(|i| ((i * 5 + root) % limits.vocab_size) as u32).collect();
    let mut request = request(id, &prompt, rng.range(1, (longest - prompt_len).min(16)) as u32);
    if rng.chance(40) {
        request.sampling.selection = Selection::Random { seed: rng.next() };
    } else if rng.chance(30) {
        request.n = 3;
    }
    request.sampling.top_k = if rng.chance(40) { 3 } else { 0 };
    let stop_tokens: Arc<[u32]> = if rng.chance(60) { Arc::new([0, 1_000_000]) } else { Arc::new([]) };
    let max_new_tokens = request.stop.max_new_tokens;
    request.stop = StopRules { max_new_tokens, min_new_tokens: rng.range(0, 4) as u32, stop_tokens };
    request
}

struct Submitted {
    request: GenerateRequest,
    rule: Option<Rule>,
    cancelled: bool,
}

#[derive(Default)]
struct Coverage {
    ends: HashMap<Finish, usize>,
    preemptions: u64,
    sat_out: u64,
    forced: usize,
    accepted: u64,
    planned_ahead: u64,
}

/// Runs one random engine; every sequence must generate what its own definition says, whatever goes on beside it.
fn run_trace(seed: u64, coverage: &mut Coverage) {
    let rng = &mut Rng(seed);
    let max_seqs = rng.range(1, 5);
    let limits = ExecutorLimits {
        blocks: rng.range(4, 20),
        block_size: rng.range(1, 4),
        max_step_tokens: max_seqs + rng.range(0, 12),
        max_seqs,
        vocab_size: rng.range(3, 70),
        max_seq_len: 64,
    };
    let longest = limits.max_seq_len.min(limits.blocks * limits.block_size);
    let rotary = if rng.chance(15) { Rotary::Long(rng.range(1, longest)) } else { Rotary::Fixed };
    let speculate = if rng.chance(50) { rng.range(1, 6) } else { 0 };
    let config = SchedulerConfig { speculate, ..config(limits, rotary) };
    let mut rig = Rig::with(limits, rotary, Scheduler::new(config));
    rig.mask_lag = rng.chance(70).then(|| Rng(rng.next()));
    rig.ahead = rng.chance(50).then(|| Rng(rng.next()));
    let mut all = Vec::new();
    let mut outputs = Vec::new();
    let mut coming = rng.range(1, 7) as u64;
    while coming > 0 || !rig.scheduler.is_idle() {
        if coming > 0 && rng.chance(50) {
            coming -= 1;
            let request = random_request(coming, &limits, rng);
            let rule = rng.chance(60).then(|| random_rule(limits.vocab_size as u32, rng));
            match &rule {
                Some(rule) => rig.submit_constrained(request.clone(), &source(rule)),
                None => rig.submit(request.clone()),
            }
            all.push(Submitted { request, rule, cancelled: false });
        }
        if rng.chance(4) && !all.is_empty() {
            let at = rng.range(0, all.len() - 1);
            rig.scheduler.finish(all[at].request.id, Finish::Cancelled);
            all[at].cancelled = true;
        }
        if !rig.scheduler.is_idle() {
            outputs.extend(rig.step());
        }
    }
    outputs.extend(rig.scheduler.take_outputs());
    rig.scheduler.check_integrity().expect("sound books");
    assert_eq!(rig.scheduler.stats().blocks.used, 0);
    coverage.preemptions += rig.scheduler.stats().preemptions;
    coverage.sat_out += rig.sat_out;
    coverage.accepted += rig.accepted;
    coverage.planned_ahead += rig.scheduler.stats().planned_ahead;
    coverage.forced += outputs.iter().filter(|output| is_forced(output)).count();
    for submitted in &all {
        check(submitted, &outputs, rotary, limits.vocab_size, coverage);
    }
}

/// The device's own log-probabilities are never 0 for long.
fn is_forced(output: &SeqOutput) -> bool {
    matches!(&output.update, SeqUpdate::Token(token) if token.logprob == 0.0)
}

fn check(
    submitted: &Submitted,
    outputs: &[SeqOutput],
    rotary: Rotary,
    vocab: usize,
    coverage: &mut Coverage,
) {
    let request = &submitted.request;
    let want = match &submitted.rule {
        Some(rule) => expected_under(rule, request, rotary, vocab),
        None => expected(request, rotary, vocab),
    };
    for index in 0..request.n {
        let tokens = tokens_of(outputs, request.id.0, index);
        let end = finish_of(outputs, request.id.0, index).expect("an end");
        *coverage.ends.entry(end).or_default() += usize::from(submitted.rule.is_some());
        if end == Finish::Cancelled {
            assert!(submitted.cancelled && want.0.starts_with(&tokens));
        } else {
            assert_eq!(
                (&tokens, end),
                (&want.0, want.1),
                "request {} under {:?}",
                request.id.0,
                submitted.rule
            );
        }
    }
}

#[test]
fn constrained_and_free_sequences_keep_to_their_definitions() {
    let mut coverage = Coverage::default();
    for seed in 0..TRACES {
        run_trace(seed, &mut coverage);
    }
    let Coverage { ends, preemptions, sat_out, forced, accepted, planned_ahead } = coverage;
    println!(
        "{ends:?}, {preemptions} preemptions, {sat_out} steps sat out, {forced} forced tokens, {accepted} guessed, \
         {planned_ahead} steps planned ahead"
    );
    for end in
        [Finish::Length, Finish::StopToken, Finish::Cancelled, Finish::GrammarEnd, Finish::GrammarFailed]
    {
        assert!(ends.get(&end).is_some_and(|&count| count > 200), "{end:?}: {ends:?}");
    }
    assert!(preemptions > 500 && sat_out > 5_000 && forced > 5_000 && accepted > 1_000);
    assert!(planned_ahead > 1_000);
}

#[test]
fn the_mask_reaches_the_device_with_the_stop_tokens_decided() {
    // Everything may follow, and nothing is ever final: stop token 3 stays shut.
    let mut rig = Rig::new(ExecutorLimits { vocab_size: 40, ..limits(16, 4) }, Rotary::Fixed);
    let mut request = request(1, &[1, 2], 2);
    request.stop.stop_tokens = Arc::new([3]);
    rig.submit_constrained(request, &(Arc::new(Anything) as Arc<dyn GrammarSource>));
    rig.step();
    assert_eq!(rig.batch.samples[0].mask.as_deref(), Some(&[!(1 << 3), 0xff][..]));
}

#[derive(Debug, Clone)]
struct Anything;

impl GrammarSource for Anything {
    fn start(&self) -> Box<dyn Grammar> {
        Box::new(Anything)
    }
}

impl Grammar for Anything {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        mask.fill(u32::MAX);
        Ok(())
    }

    fn advance(&mut self, _: u32) -> Result<(), GrammarFault> {
        Ok(())
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        Ok(false)
    }

    fn forced(&mut self) -> Result<Vec<u32>, GrammarFault> {
        Ok(Vec::new())
    }

    fn rollback(&mut self, _: usize) -> Result<(), GrammarFault> {
        Ok(())
    }
}

/// A grammar that forces twelve tokens behind every drawn one.
#[derive(Debug, Clone)]
struct Chains {
    advanced: usize,
}

const CHAIN: usize = 12;

impl GrammarSource for Chains {
    fn start(&self) -> Box<dyn Grammar> {
        Box::new(self.clone())
    }
}

impl Grammar for Chains {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault> {
        mask.fill(u32::MAX);
        Ok(())
    }

    fn advance(&mut self, _: u32) -> Result<(), GrammarFault> {
        self.advanced += 1;
        Ok(())
    }

    fn is_final(&mut self) -> Result<bool, GrammarFault> {
        Ok(false)
    }

    fn forced(&mut self) -> Result<Vec<u32>, GrammarFault> {
        let begins = self.advanced % (CHAIN + 1) == 1;
        Ok(if begins { vec![7; CHAIN] } else { Vec::new() })
    }

    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault> {
        self.advanced -= tokens;
        Ok(())
    }
}

/// Tokens of each step of one sequence under [`Chains`] beside free ones that decode, and of the whole steps.
fn steps_beside(free: u64) -> Vec<(u32, usize)> {
    let mut rig =
        Rig::new(ExecutorLimits { max_seqs: 64, max_step_tokens: 128, ..limits(2048, 4) }, Rotary::Fixed);
    for id in 0..free {
        rig.submit(request(id, &[1, id as u32], 64));
    }
    let chains: Arc<dyn GrammarSource> = Arc::new(Chains { advanced: 0 });
    rig.submit_constrained(request(free, &[1, 2], 64), &chains);
    rig.step();
    let mut step = || {
        rig.step();
        let ends = &rig.batch.cu_q;
        (ends[ends.len() - 1] - ends[ends.len() - 2], rig.batch.tokens())
    };
    (0..2 * CHAIN).map(|_| step()).collect()
}

#[test]
fn what_a_grammar_forces_comes_along_where_few_decode_and_holds_up_nobody_where_many_do() {
    // A drawn token and its chain in one step.
    assert!(steps_beside(3).iter().take(3).all(|step| *step == (1 + CHAIN as u32, 4 + CHAIN)));
    // What is left of 32 tokens, until the chain is computed: 4 of the step's own, then up to 4 more.
    let some: Vec<u32> = steps_beside(27).into_iter().map(|(own, _)| own).take(4).collect();
    assert_eq!(some, [5, 5, 3, 5]);
    assert!(steps_beside(40).iter().all(|step| *step == (1, 41)));
}

/// Starts only when told to.
#[derive(Debug)]
struct Late(flume::Receiver<()>);

impl GrammarSource for Late {
    fn start(&self) -> Box<dyn Grammar> {
        self.0.recv_timeout(PATIENCE).expect("told to start");
        Box::new(Anything)
    }
}

fn until_end(outputs: &flume::Receiver<StepOutputs>, id: u64) -> Vec<SeqOutput> {
    let mut all: Vec<SeqOutput> = Vec::new();
    while finish_of(&all, id, 0).is_none() {
        all.extend(outputs.recv_timeout(PATIENCE).expect("an output").outputs);
    }
    all
}

fn start() -> (weirgate_engine::EngineHandle, flume::Receiver<StepOutputs>) {
    spawn(Box::new(FakeDevice::new(limits(64, 4), Rotary::Fixed)), EngineConfig::default()).expect("a thread")
}

#[test]
fn a_late_grammar_holds_up_its_own_sequence_only() {
    let (handle, outputs) = start();
    let (go, told) = flume::unbounded();
    let late = request(handle.next_id().0, &[1, 2, 3], 4);
    let free = request(handle.next_id().0, &[4, 5], 30);
    let _late = handle.submit_constrained(late.clone(), Arc::new(Late(told))).expect("accepted");
    let _free = handle.submit(free.clone()).expect("accepted");
    let seen = until_end(&outputs, free.id.0);
    assert_eq!(tokens_of(&seen, free.id.0, 0), expected(&free, Rotary::Fixed, 1000).0);
    assert!(tokens_of(&seen, late.id.0, 0).is_empty());
    // Alone now: the engine waits without work, and without failing.
    std::thread::sleep(Duration::from_millis(50));
    go.send(()).expect("the worker waits");
    let seen = until_end(&outputs, late.id.0);
    assert_eq!(tokens_of(&seen, late.id.0, 0), expected(&late, Rotary::Fixed, 1000).0);
    assert_eq!(finish_of(&seen, late.id.0, 0), Some(Finish::Length));
}

#[test]
fn a_request_whose_grammar_never_comes_can_be_cancelled_and_times_out() {
    let (handle, outputs) = start();
    let (go, told) = flume::unbounded();
    let late: Arc<dyn GrammarSource> = Arc::new(Late(told));
    let mut hurried = request(handle.next_id().0, &[1], 4);
    hurried.deadline = Some(std::time::Instant::now() + Duration::from_millis(30));
    let dropped = request(handle.next_id().0, &[1], 4);
    let _first = handle.submit_constrained(hurried.clone(), Arc::clone(&late)).expect("accepted");
    let second = handle.submit_constrained(dropped.clone(), late).expect("accepted");
    drop(second);
    let seen = until_end(&outputs, hurried.id.0);
    assert_eq!(finish_of(&seen, hurried.id.0, 0), Some(Finish::Deadline));
    assert_eq!(finish_of(&seen, dropped.id.0, 0), Some(Finish::Cancelled));
    drop(go);
}

#[test]
fn a_grammar_that_fails_or_panics_ends_its_request_only() {
    let (handle, outputs) = start();
    for (at, failure) in
        [(0, Failure::Panic), (2, Failure::Panic), (0, Failure::Fault), (3, Failure::DeadEnd)]
    {
        let rule = Rule { seed: 11, vocab: 1000, failure: Some((at, failure)) };
        let bad = request(handle.next_id().0, &[1, 2, 3], 20);
        let free = request(handle.next_id().0, &[9, 8], 25);
        let _bad = handle.submit_constrained(bad.clone(), source(&rule)).expect("accepted");
        let _free = handle.submit(free.clone()).expect("accepted");
        let mut seen = until_end(&outputs, free.id.0);
        if finish_of(&seen, bad.id.0, 0).is_none() {
            seen.extend(until_end(&outputs, bad.id.0));
        }
        let want = expected_under(&rule, &bad, Rotary::Fixed, 1000);
        assert_eq!(want.1, Finish::GrammarFailed);
        assert_eq!(finish_of(&seen, bad.id.0, 0), Some(want.1), "{failure:?}");
        assert_eq!(tokens_of(&seen, bad.id.0, 0), want.0);
        assert_eq!(tokens_of(&seen, free.id.0, 0), expected(&free, Rotary::Fixed, 1000).0);
    }
    assert_eq!(handle.stats().integrity_errors, 0);
}
