//! Steps planned while others run: on a device of its own thread, which computes a step when it is told to.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::rule::{Rule, expected_under, source};
use support::{FakeDevice, Rig, Rng, Rotary, expected, finish_of, limits, request, tokens_of};
use weirgate_engine::{
    Batch, EngineConfig, EngineHandle, Executor, ExecutorError, ExecutorLimits, RopeRule, StepResult, Ticket,
    spawn,
};
use weirgate_kernels::KernelError;
use weirgate_models::Adapter;
use weirgate_types::{
    AdapterId, Finish, GenerateRequest, Mirostat, MirostatVersion, Selection, SeqOutput, SeqUpdate,
    StepOutputs, StopRules,
};

const VOCAB: usize = 1000;
/// Far beyond what anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

type Outputs = flume::Receiver<StepOutputs>;

enum Job {
    Step(Box<Batch>),
    Load(AdapterId),
}

/// A [`FakeDevice`] on a thread, which waits for a permit before each step; once there are no more to come it fails.
struct Threaded {
    limits: ExecutorLimits,
    jobs: flume::Sender<Job>,
    results: flume::Receiver<StepResult>,
    /// The sequences of each step.
    launched: flume::Sender<usize>,
    running: bool,
}

impl Executor for Threaded {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        assert!(!std::mem::replace(&mut self.running, true), "one step at a time");
        // The test may have seen enough.
        let _ = self.launched.send(batch.seqs());
        // A device that has failed says so when it is asked for its result.
        let _ = self.jobs.send(Job::Step(Box::new(batch.clone())));
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        assert!(std::mem::replace(&mut self.running, false), "a step runs");
        *out = self.results.recv().map_err(|_| ExecutorError::Batch("the device is gone".into()))?;
        Ok(())
    }

    fn load_adapter(&mut self, id: AdapterId, _: &Adapter) -> Result<(), KernelError> {
        assert!(!self.running, "adapters come between steps");
        self.jobs.send(Job::Load(id)).expect("the device lives");
        Ok(())
    }

    fn unload_adapter(&mut self, _: AdapterId) {
        assert!(!self.running, "adapters leave between steps");
    }
}

/// The test's end of a [`Threaded`].
struct Device {
    permits: flume::Sender<()>,
    launched: flume::Receiver<usize>,
}

impl Device {
    /// Waits for the next step; how many sequences it has.
    fn wait_for_step(&self) -> usize {
        self.launched.recv_timeout(PATIENCE).expect("a step")
    }

    fn let_one_pass(&self) {
        self.permits.send(()).expect("the device lives");
    }

    fn open(&self) {
        let _ = (0..10_000).try_for_each(|_| self.permits.send(()));
    }
}

fn start(limits: ExecutorLimits, config: EngineConfig) -> (EngineHandle, Outputs, Device) {
    let (permits, permitted) = flume::unbounded();
    let (sender, launched) = flume::unbounded();
    let (jobs, inbox) = flume::unbounded();
    let (outbox, results) = flume::unbounded();
    std::thread::spawn(move || {
        let mut device = FakeDevice::new(limits, Rotary::Fixed);
        for job in inbox {
            match job {
                Job::Load(id) => drop(device.adapters.insert(id)),
                Job::Step(batch) => {
                    let mut result = StepResult::default();
                    if permitted.recv().is_err() {
                        return;
                    }
                    device.run(&batch, &mut result);
                    if outbox.send(result).is_err() {
                        return;
                    }
                }
            }
        }
    });
    let threaded = Threaded { limits, jobs, results, launched: sender, running: false };
    let (handle, outputs) = spawn(Box::new(threaded), config).expect("a thread");
    (handle, outputs, Device { permits, launched })
}

fn ask(handle: &EngineHandle, len: u32, max_new_tokens: u32) -> GenerateRequest {
    let prompt: Vec<u32> = (0..len).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    request(handle.next_id().0, &prompt, max_new_tokens)
}

fn submit(handle: &EngineHandle, request: &GenerateRequest) -> Ticket {
    handle.submit(request.clone()).expect("accepted")
}

fn next(outputs: &Outputs) -> Vec<SeqOutput> {
    outputs.recv_timeout(PATIENCE).expect("an output").outputs
}

/// Reads outputs until so many sequences have ended.
fn until_ends(outputs: &Outputs, ends: usize) -> Vec<SeqOutput> {
    let ended = |output: &SeqOutput| matches!(output.update, SeqUpdate::Finished { .. });
    let mut all = Vec::new();
    while all.iter().filter(|output| ended(output)).count() < ends {
        all.extend(next(outputs));
    }
    all
}

/// The engine asks for the rotary class of a prompt's blocks when it looks them up to admit it; here that happens, and
/// the outputs of the step before are sent, while the device has not computed the step at hand.
#[test]
fn the_next_step_is_planned_and_the_last_one_reported_while_a_step_runs() {
    let (asked, lengths) = flume::unbounded();
    let class = move |len| {
        let _ = asked.send(len);
        0
    };
    let rope = RopeRule { class: Box::new(class), recompute: false };
    let config = EngineConfig { max_seqs: 1, rope, ..EngineConfig::default() };
    let (handle, outputs, device) = start(limits(64, 4), config);
    let (first, second) = (ask(&handle, 3, 2), ask(&handle, 23, 3));
    let tickets = [submit(&handle, &first), {
        device.wait_for_step();
        submit(&handle, &second)
    }];
    device.let_one_pass();
    device.wait_for_step();
    // The first request's last step runs, and nothing lets it pass.
    let mut all = Vec::new();
    while tokens_of(&all, first.id.0, 0).is_empty() {
        all.extend(next(&outputs));
    }
    while lengths.recv_timeout(PATIENCE).expect("the second request is planned") != 23 {}
    assert_eq!((finish_of(&all, first.id.0, 0), handle.stats().steps), (None, 1));
    device.open();
    all.extend(until_ends(&outputs, 2));
    for request in [&first, &second] {
        let (tokens, finish) = expected(request, Rotary::Fixed, VOCAB);
        assert_eq!(tokens_of(&all, request.id.0, 0), tokens);
        assert_eq!(finish_of(&all, request.id.0, 0), Some(finish));
    }
    assert_eq!(handle.stats().planned_ahead, 4, "all but the first step");
    drop(tickets);
}

/// Requests that came, went and ended at any time, in a pool that is too small for them.
#[test]
fn tokens_do_not_depend_on_when_steps_are_planned() {
    let mut rng = Rng(11);
    let limits = ExecutorLimits { blocks: 30, vocab_size: 50, ..limits(30, 4) };
    let (handle, outputs, device) = start(limits, EngineConfig::default());
    device.open();
    let asked: Vec<GenerateRequest> = (0..120)
        .map(|_| {
            let prompt: Vec<u32> = (0..rng.range(1, 30)).map(|_| rng.range(0, 49) as u32).collect();
            let mut asked = request(handle.next_id().0, &prompt, rng.range(1, 40) as u32);
            asked.n = if rng.chance(20) { 3 } else { 1 };
            asked.sampling.repetition_penalty = if rng.chance(50) { 1.1 } else { 1.0 };
            if rng.chance(40) {
                asked.stop = StopRules { stop_tokens: Arc::new([1, 2, 3]), min_new_tokens: 2, ..asked.stop };
            }
            asked
        })
        .collect();
    let mut tickets = Vec::new();
    for request in &asked {
        let ticket = submit(&handle, request);
        if rng.chance(15) {
            drop(ticket);
        } else {
            tickets.push(ticket);
        }
        if rng.chance(30) {
            std::thread::sleep(Duration::from_micros(rng.range(1, 300) as u64));
        }
    }
    let sequences = asked.iter().map(|request| request.n as usize).sum();
    let all = until_ends(&outputs, sequences);
    for request in &asked {
        let (tokens, finish) = expected(request, Rotary::Fixed, 50);
        for index in 0..request.n {
            let found = tokens_of(&all, request.id.0, index);
            match finish_of(&all, request.id.0, index) {
                Some(Finish::Cancelled) => assert!(tokens.starts_with(&found)),
                end => assert_eq!((found, end), (tokens.clone(), Some(finish))),
            }
        }
    }
    handle.stop();
    while outputs.recv_timeout(PATIENCE).is_ok() {}
    let stats = handle.stats();
    println!(
        "{} of {} steps planned ahead, {} preemptions",
        stats.planned_ahead, stats.steps, stats.preemptions
    );
    assert!(stats.planned_ahead > stats.steps / 10 && stats.preemptions > 0, "{stats:?}");
    assert_eq!((stats.used_blocks, stats.integrity_errors), (0, 0));
}

#[test]
fn who_is_cancelled_while_a_step_runs_has_no_part_in_the_next() {
    let (handle, outputs, device) = start(limits(64, 4), EngineConfig::default());
    let (kept, dropped) = (ask(&handle, 5, 6), ask(&handle, 6, 100));
    let kept_ticket = submit(&handle, &kept);
    device.wait_for_step();
    let ticket = submit(&handle, &dropped);
    device.let_one_pass();
    assert_eq!(device.wait_for_step(), 2, "who came while a step ran has a part in the next");
    device.let_one_pass();
    assert_eq!(device.wait_for_step(), 2);
    drop(ticket);
    device.let_one_pass();
    assert_eq!(device.wait_for_step(), 1);
    device.open();
    let all = until_ends(&outputs, 2);
    let tokens = tokens_of(&all, dropped.id.0, 0);
    // One of its prompt's step; and one of the second step, unless the engine heard of its end while that ran.
    assert!((1..=2).contains(&tokens.len()), "{tokens:?}");
    assert_eq!(tokens, expected(&dropped, Rotary::Fixed, VOCAB).0[..tokens.len()]);
    assert_eq!(finish_of(&all, dropped.id.0, 0), Some(Finish::Cancelled));
    let usage = all.iter().find_map(|output| match output.update {
        SeqUpdate::Finished { usage, .. } if output.request == dropped.id => Some(usage.completion_tokens),
        _ => None,
    });
    assert_eq!(usage, Some(tokens.len() as u32), "a token that was not known yet does not count");
    assert_eq!(tokens_of(&all, kept.id.0, 0), expected(&kept, Rotary::Fixed, VOCAB).0);
    drop(kept_ticket);
}

/// The mask of a draw is known only after the draw before it.
#[test]
fn sequences_under_grammars_are_planned_like_others() {
    let (handle, outputs, device) = start(limits(64, 4), EngineConfig::default());
    let rules: Vec<Rule> = (0..4).map(|seed| Rule { seed, vocab: VOCAB as u32, failure: None }).collect();
    let free = ask(&handle, 5, 40);
    let ticket = submit(&handle, &free);
    let constrained: Vec<_> = rules
        .iter()
        .map(|rule| {
            let asked = ask(&handle, 7, 25);
            let ticket = handle.submit_constrained(asked.clone(), source(rule)).expect("accepted");
            (rule, asked, ticket)
        })
        .collect();
    device.open();
    let all = until_ends(&outputs, 1 + rules.len());
    assert_eq!(tokens_of(&all, free.id.0, 0), expected(&free, Rotary::Fixed, VOCAB).0);
    for (rule, asked, _) in &constrained {
        let (tokens, finish) = expected_under(rule, asked, Rotary::Fixed, VOCAB);
        assert_eq!(tokens_of(&all, asked.id.0, 0), tokens, "{rule:?}");
        assert_eq!(finish_of(&all, asked.id.0, 0), Some(finish));
    }
    drop(ticket);
}

#[test]
fn adapters_come_between_steps() {
    let (handle, outputs, device) = start(limits(64, 4), EngineConfig::default());
    let plain = ask(&handle, 5, 6);
    let ticket = submit(&handle, &plain);
    device.wait_for_step();
    let loaded = handle.load_adapter(Arc::new(Adapter::default()));
    device.open();
    let id = loaded.recv_timeout(PATIENCE).expect("an answer").expect("room");
    let adapted = GenerateRequest { adapter: Some(id), ..ask(&handle, 5, 6) };
    let second = submit(&handle, &adapted);
    let all = until_ends(&outputs, 2);
    for request in [&plain, &adapted] {
        assert_eq!(tokens_of(&all, request.id.0, 0), expected(request, Rotary::Fixed, VOCAB).0);
    }
    drop((ticket, second));
    handle.unload_adapter(id).recv_timeout(PATIENCE).expect("an answer");
}

/// What was drawn before is reported, and all end once.
#[test]
fn a_device_that_fails_ends_what_is_planned_ahead() {
    let (handle, outputs, device) = start(limits(64, 4), EngineConfig::default());
    let asked: Vec<_> = (1..=3).map(|n| GenerateRequest { n, ..ask(&handle, 5, 90) }).collect();
    let tickets: Vec<_> = asked.iter().map(|request| submit(&handle, request)).collect();
    for _ in 0..6 {
        device.wait_for_step();
        device.let_one_pass();
    }
    device.wait_for_step();
    let Device { permits, .. } = device;
    drop(permits);
    let (mut all, mut failed) = (Vec::new(), 0);
    while let Ok(step) = outputs.recv_timeout(PATIENCE) {
        failed += usize::from(step.stats.failed);
        all.extend(step.outputs);
    }
    assert_eq!((failed, handle.stats().steps), (1, 6));
    for request in &asked {
        for index in 0..request.n {
            assert_eq!(finish_of(&all, request.id.0, index), Some(Finish::EngineFailed));
        }
    }
    // Request 0's prompt took one of the six steps.
    assert_eq!(tokens_of(&all, asked[0].id.0, 0), expected(&asked[0], Rotary::Fixed, VOCAB).0[..6]);
    assert_eq!((handle.stats().live_requests, handle.stats().integrity_errors), (0, 0));
    drop(tickets);
}

/// Prompts in pieces, siblings, scores, penalties, Mirostat and banned stop tokens: the batches are the same, whether they
/// were planned before or after the result of the step before them.
#[test]
fn a_batch_planned_ahead_is_the_one_planned_afterwards() {
    let limits = ExecutorLimits { max_step_tokens: 20, ..limits(200, 4) };
    let run = |ahead: Option<Rng>| {
        let mut rig = Rig::new(limits, Rotary::Fixed);
        rig.ahead = ahead;
        for id in 0..6u32 {
            let prompt: Vec<u32> = (0..5 + 9 * id).map(|i| (i * 7 + id * 131) % VOCAB as u32).collect();
            let mut asked = request(u64::from(id), &prompt, 60);
            asked.n = if id == 2 { 3 } else { 1 };
            match id {
                0 => asked.sampling.repetition_penalty = 1.0,
                1 => asked.logprobs.prompt = true,
                3 => {
                    let mirostat = Mirostat { version: MirostatVersion::V2, tau: 5.0, eta: 0.1 };
                    asked.sampling.mirostat = Some(mirostat);
                    asked.sampling.selection = Selection::Random { seed: 5 };
                }
                4 => {
                    let stop_tokens = Arc::new([999]);
                    asked.stop = StopRules { stop_tokens, min_new_tokens: 8, ..asked.stop };
                }
                _ => {}
            }
            rig.submit(asked);
        }
        let batches: Vec<String> = (0..40)
            .map(|_| {
                rig.step();
                format!("{:?}", rig.ran)
            })
            .collect();
        (batches, rig.scheduler.stats().planned_ahead)
    };
    let (afterwards, none) = run(None);
    let (ahead, some) = run(Some(Rng(3)));
    assert!(none == 0 && some > 20, "{none} and {some} steps planned ahead");
    assert!(afterwards.iter().any(|batch| batch.contains("Score {")) && afterwards[30] != afterwards[31]);
    for (step, (afterwards, ahead)) in afterwards.iter().zip(&ahead).enumerate() {
        assert_eq!(afterwards, ahead, "step {step}");
    }
}
