//! The engine thread through its handle, on fake executors.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{FakeDevice, MAX_ADAPTERS, Rotary, expected, finish_of, limits, request, tokens_of};
use weirgate_engine::{
    Batch, EngineConfig, EngineHandle, Executor, ExecutorError, ExecutorLimits, StepResult, Ticket, spawn,
};
use weirgate_kernels::KernelError;
use weirgate_models::Adapter;
use weirgate_types::{
    AdapterId, Finish, GenerateRequest, RejectReason, RequestId, SeqOutput, SeqUpdate, StepOutputs,
};

const VOCAB: usize = 1000;
/// Far beyond what anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

type Outputs = flume::Receiver<StepOutputs>;

/// A device that waits for a permit before each step; without any permits to come it fails or panics as told.
struct Gated {
    device: FakeDevice,
    permits: flume::Receiver<()>,
    entered: flume::Sender<()>,
    panics: bool,
}

impl Executor for Gated {
    fn limits(&self) -> ExecutorLimits {
        self.device.limits()
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.entered.send(()).expect("the test listens");
        if self.permits.recv().is_err() {
            assert!(!self.panics, "told to panic");
            return Err(ExecutorError::Batch("the device is gone".into()));
        }
        self.device.launch(batch)
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        self.device.collect(out)
    }

    fn load_adapter(&mut self, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError> {
        self.device.load_adapter(id, adapter)
    }

    fn unload_adapter(&mut self, id: AdapterId) {
        self.device.unload_adapter(id);
    }
}

/// The test's end of a [`Gated`].
struct Gate {
    permits: flume::Sender<()>,
    entered: flume::Receiver<()>,
}

impl Gate {
    /// Waits until a step has been planned.
    fn wait_for_step(&self) {
        self.entered.recv_timeout(PATIENCE).expect("a step");
    }

    fn let_one_pass(&self) {
        self.permits.send(()).expect("the engine lives");
    }

    /// Lets all further steps pass; the engine may end before it has used all permits.
    fn open(&self) {
        let _ = (0..1000).try_for_each(|_| self.permits.send(()));
    }
}

fn device() -> FakeDevice {
    FakeDevice::new(limits(64, 4), Rotary::Fixed)
}

fn start(config: EngineConfig) -> (EngineHandle, Outputs) {
    spawn(Box::new(device()), config).expect("a thread")
}

fn start_gated(config: EngineConfig, panics: bool) -> (EngineHandle, Outputs, Gate) {
    let (permits, receiver) = flume::unbounded();
    let (sender, entered) = flume::unbounded();
    let gated = Gated { device: device(), permits: receiver, entered: sender, panics };
    let (handle, outputs) = spawn(Box::new(gated), config).expect("a thread");
    (handle, outputs, Gate { permits, entered })
}

fn ask(handle: &EngineHandle, len: u32, max_new_tokens: u32) -> GenerateRequest {
    let prompt: Vec<u32> = (0..len).map(|i| (i * 7 + 3) % VOCAB as u32).collect();
    request(handle.next_id().0, &prompt, max_new_tokens)
}

fn submit(handle: &EngineHandle, request: &GenerateRequest) -> Ticket {
    handle.submit(request.clone()).expect("accepted")
}

/// Reads outputs until so many sequences have ended.
fn until_ends(outputs: &Outputs, ends: usize) -> Vec<SeqOutput> {
    let mut all = Vec::new();
    let mut seen = 0;
    while seen < ends {
        let step = outputs.recv_timeout(PATIENCE).expect("an output");
        seen += step
            .outputs
            .iter()
            .filter(|output| matches!(output.update, SeqUpdate::Finished { .. } | SeqUpdate::Rejected(_)))
            .count();
        all.extend(step.outputs);
    }
    all
}

/// Reads outputs until the engine has ended.
fn until_closed(outputs: &Outputs) -> Vec<SeqOutput> {
    let mut all = Vec::new();
    loop {
        match outputs.recv_timeout(PATIENCE) {
            Ok(step) => all.extend(step.outputs),
            Err(flume::RecvTimeoutError::Disconnected) => return all,
            Err(flume::RecvTimeoutError::Timeout) => panic!("the engine does not end"),
        }
    }
}

/// Waits for a state that the engine thread reaches by itself.
fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_are_answered_and_the_figures_add_up() {
    let (handle, outputs) = start(EngineConfig::default());
    let asked: Vec<_> = (1..=5).map(|i| ask(&handle, 3 * i, 4 + i)).collect();
    let tickets: Vec<_> = asked.iter().map(|request| submit(&handle, request)).collect();
    let all = until_ends(&outputs, asked.len());
    for request in &asked {
        let (tokens, finish) = expected(request, Rotary::Fixed, VOCAB);
        assert_eq!(tokens_of(&all, request.id.0, 0), tokens);
        assert_eq!(finish_of(&all, request.id.0, 0), Some(finish));
    }
    eventually("no live request", || handle.stats().live_requests == 0);
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.used_blocks, stats.integrity_errors), (0, 0, 0, 0));
    assert_eq!((stats.total_blocks, stats.prefix_queries), (64, 45));
    assert!(stats.steps > 0 && stats.cached_blocks > 0 && stats.prefix_hits < 45);
    assert_eq!(stats.since_last_step, Duration::ZERO);
    drop(tickets);
}

#[test]
fn every_step_reports_its_figures() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let first = submit(&handle, &ask(&handle, 9, 3));
    gate.wait_for_step();
    gate.let_one_pass();
    let step = outputs.recv_timeout(PATIENCE).expect("a step").stats;
    assert_eq!((step.prefill_tokens, step.decode_tokens), (9, 0));
    assert_eq!((step.running, step.waiting, step.used_blocks, step.total_blocks), (1, 0, 3, 64));
    gate.let_one_pass();
    let step = outputs.recv_timeout(PATIENCE).expect("a step").stats;
    assert_eq!((step.prefill_tokens, step.decode_tokens), (0, 1));
    drop(first);
    gate.open();
    until_ends(&outputs, 1);
}

#[test]
fn dropping_a_ticket_cancels_by_the_next_step() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let (kept, dropped) = (ask(&handle, 5, 6), ask(&handle, 6, 100));
    let kept_ticket = submit(&handle, &kept);
    gate.wait_for_step();
    let ticket = submit(&handle, &dropped);
    gate.let_one_pass();
    gate.wait_for_step();
    drop(ticket);
    gate.let_one_pass();
    gate.wait_for_step();
    // The step that was running when the ticket was dropped, then nothing more of that request.
    let mut all: Vec<_> = outputs.drain().flat_map(|step| step.outputs).collect();
    assert_eq!(tokens_of(&all, dropped.id.0, 0).len(), 1);
    gate.open();
    all.extend(until_ends(&outputs, 2));
    assert_eq!(tokens_of(&all, dropped.id.0, 0).len(), 1);
    assert_eq!(finish_of(&all, dropped.id.0, 0), Some(Finish::Cancelled));
    assert_eq!(tokens_of(&all, kept.id.0, 0), expected(&kept, Rotary::Fixed, VOCAB).0);
    drop(kept_ticket);
}

#[test]
fn dropping_a_ticket_after_the_end_has_no_effect() {
    let (handle, outputs) = start(EngineConfig::default());
    let first = submit(&handle, &ask(&handle, 5, 3));
    until_ends(&outputs, 1);
    drop(first);
    let asked = ask(&handle, 5, 3);
    let ticket = submit(&handle, &asked);
    let all = until_ends(&outputs, 1);
    assert_eq!(all.iter().filter(|output| output.request != asked.id).count(), 0);
    assert_eq!(finish_of(&all, asked.id.0, 0), Some(Finish::Length));
    drop(ticket);
}

#[test]
fn a_deadline_ends_a_request_at_the_next_step() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let soon = GenerateRequest { deadline: Some(Instant::now()), n: 2, ..ask(&handle, 5, 50) };
    let late = GenerateRequest { deadline: Some(Instant::now() + 3 * PATIENCE), ..ask(&handle, 5, 5) };
    let tickets = [&soon, &late].map(|request| submit(&handle, request));
    gate.open();
    let all = until_ends(&outputs, 3);
    assert_eq!([0, 1].map(|index| finish_of(&all, soon.id.0, index)), [Some(Finish::Deadline); 2]);
    assert_eq!(finish_of(&all, late.id.0, 0), Some(Finish::Length));
    drop(tickets);
}

#[test]
fn a_deadline_ends_a_request_that_runs() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let deadline = Instant::now() + Duration::from_millis(30);
    let asked = GenerateRequest { deadline: Some(deadline), ..ask(&handle, 5, 50) };
    let ticket = submit(&handle, &asked);
    for _ in 0..3 {
        gate.wait_for_step();
        gate.let_one_pass();
    }
    gate.wait_for_step();
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    gate.open();
    let all = until_ends(&outputs, 1);
    assert_eq!(finish_of(&all, asked.id.0, 0), Some(Finish::Deadline));
    assert_eq!(tokens_of(&all, asked.id.0, 0), expected(&asked, Rotary::Fixed, VOCAB).0[..4]);
    drop(ticket);
}

#[test]
fn a_sequence_can_be_cancelled_beside_its_siblings() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let asked = GenerateRequest { n: 3, ..ask(&handle, 5, 8) };
    let ticket = submit(&handle, &asked);
    for _ in 0..3 {
        gate.wait_for_step();
        gate.let_one_pass();
    }
    gate.wait_for_step();
    // While the fourth step runs: it still gives every sequence its token, and is the last to give one to these.
    ticket.cancel_sequence(1);
    ticket.cancel_sequence(2);
    gate.open();
    let all = until_ends(&outputs, 3);
    let tokens = expected(&asked, Rotary::Fixed, VOCAB).0;
    assert_eq!(tokens_of(&all, asked.id.0, 0), tokens);
    assert_eq!(finish_of(&all, asked.id.0, 0), Some(Finish::Length));
    for index in [1, 2] {
        assert_eq!(finish_of(&all, asked.id.0, index), Some(Finish::Cancelled));
        // The prompt's step gave sequence 0 alone its first token.
        assert_eq!(tokens_of(&all, asked.id.0, index), tokens[..3]);
    }
    eventually("no live request", || handle.stats().live_requests == 0);
    ticket.cancel_sequence(0);
    drop(ticket);
    assert_eq!((handle.stats().used_blocks, handle.stats().integrity_errors), (0, 0));
}

#[test]
fn what_speculation_guessed_is_counted() {
    let (handle, outputs) = start(EngineConfig { speculate: 3, ..EngineConfig::default() });
    let mut asked = request(handle.next_id().0, &[1, 2, 1, 2, 1, 2], 30);
    asked.sampling.top_k = 3;
    let ticket = submit(&handle, &asked);
    let (mut drafted, mut accepted, mut steps, mut most, mut tokens) = (0, 0, 0, 0, 0);
    while tokens < 30 {
        let step = outputs.recv_timeout(PATIENCE).expect("an output");
        drafted += u64::from(step.stats.draft_tokens);
        accepted += u64::from(step.stats.accepted_tokens);
        steps += u64::from(step.stats.tokens() > 0);
        most = most.max(step.tokens_per_sequence().max().unwrap_or(0));
        tokens += step.tokens_per_sequence().sum::<usize>();
    }
    eventually("no live request", || handle.stats().live_requests == 0);
    let stats = handle.stats();
    assert_eq!((stats.drafted_tokens, stats.accepted_tokens), (drafted, accepted));
    assert_eq!(accepted + steps, 30, "every step draws one token beside those it was offered");
    assert!(accepted > 0 && accepted < drafted && (2..=4).contains(&most), "{stats:?}");
    drop(ticket);
}

#[test]
fn a_full_queue_refuses_at_once_and_takes_requests_again_later() {
    let config = EngineConfig { max_waiting: 3, max_seqs: 1, ..EngineConfig::default() };
    let (handle, outputs, gate) = start_gated(config, false);
    let mut tickets = vec![submit(&handle, &ask(&handle, 5, 2))];
    gate.wait_for_step();
    gate.let_one_pass();
    gate.wait_for_step();
    // The first one runs; three may wait, read by the engine or not.
    tickets.extend((0..3).map(|_| submit(&handle, &ask(&handle, 5, 2))));
    let refused = handle.submit(ask(&handle, 5, 2)).expect_err("the queue is full");
    assert_eq!(refused, RejectReason::Overloaded);
    gate.open();
    until_ends(&outputs, 4);
    tickets.push(submit(&handle, &ask(&handle, 5, 2)));
    until_ends(&outputs, 1);
    drop(tickets);
}

#[test]
fn a_failed_executor_ends_everything_that_was_accepted() {
    for panics in [false, true] {
        let config = EngineConfig { max_seqs: 1, ..EngineConfig::default() };
        let (handle, outputs, gate) = start_gated(config, panics);
        let asked: Vec<_> = (1..=4).map(|n| GenerateRequest { n, ..ask(&handle, 5, 9) }).collect();
        let tickets: Vec<_> = asked[..3].iter().map(|request| submit(&handle, request)).collect();
        gate.wait_for_step();
        gate.let_one_pass();
        gate.wait_for_step();
        // One more is in the inbox when the executor fails.
        let last = submit(&handle, &asked[3]);
        drop(gate);
        let all = until_closed(&outputs);
        for request in &asked {
            for index in 0..request.n {
                assert_eq!(finish_of(&all, request.id.0, index), Some(Finish::EngineFailed));
            }
        }
        eventually("refusals", || {
            handle.submit(ask(&handle, 5, 2)).err() == Some(RejectReason::EngineStopped)
        });
        assert_eq!((handle.stats().live_requests, handle.stats().integrity_errors), (0, 0));
        drop((tickets, last));
    }
}

#[test]
fn the_figures_of_the_step_that_failed_say_so() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let ticket = submit(&handle, &ask(&handle, 5, 9));
    gate.wait_for_step();
    gate.let_one_pass();
    gate.wait_for_step();
    drop(gate);
    let mut steps = Vec::new();
    while let Ok(message) = outputs.recv_timeout(PATIENCE) {
        let stats = message.stats;
        if stats.tokens() > 0 {
            steps.push((stats.prefill_tokens, stats.decode_tokens, stats.failed));
        }
    }
    assert_eq!(steps, [(5, 0, false), (0, 1, true)]);
    drop(ticket);
}

#[test]
fn stop_finishes_what_was_accepted_and_abort_ends_it() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let asked = ask(&handle, 5, 9);
    let ticket = submit(&handle, &asked);
    gate.wait_for_step();
    handle.stop();
    assert_eq!(handle.submit(ask(&handle, 5, 2)).err(), Some(RejectReason::EngineStopped));
    gate.open();
    let all = until_closed(&outputs);
    assert_eq!(tokens_of(&all, asked.id.0, 0).len(), 9);
    drop(ticket);

    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let asked = ask(&handle, 5, 200);
    let ticket = submit(&handle, &asked);
    gate.wait_for_step();
    handle.stop();
    handle.abort();
    gate.open();
    let all = until_closed(&outputs);
    assert_eq!(finish_of(&all, asked.id.0, 0), Some(Finish::EngineFailed));
    drop(ticket);
}

#[test]
fn the_engine_ends_when_nobody_can_ask_or_nobody_listens() {
    let (handle, outputs) = start(EngineConfig::default());
    drop(submit(&handle, &ask(&handle, 5, 50)));
    drop(handle);
    until_closed(&outputs);

    let (handle, outputs) = start(EngineConfig::default());
    drop(outputs);
    let ticket = submit(&handle, &ask(&handle, 5, 50));
    eventually("the end", || handle.submit(ask(&handle, 5, 2)).err() == Some(RejectReason::EngineStopped));
    assert_eq!(handle.stats().live_requests, 0);
    drop(ticket);
}

#[test]
fn an_injected_stall_shows_in_the_figures() {
    let config = EngineConfig { stall_after_steps: Some(2), ..EngineConfig::default() };
    let (handle, outputs) = start(config);
    let tickets = [(); 2].map(|()| submit(&handle, &ask(&handle, 5, 50)));
    eventually("a stall", || {
        let stats = handle.stats();
        stats.steps == 2 && stats.since_last_step > Duration::from_millis(20)
    });
    assert_eq!(handle.stats().live_requests, 2);
    handle.abort();
    let all = until_closed(&outputs);
    for ticket in &tickets {
        assert_eq!(finish_of(&all, ticket.id().0, 0), Some(Finish::EngineFailed));
    }
}

#[test]
fn steps_are_as_far_apart_as_injected() {
    let step_interval = Duration::from_millis(20);
    let (handle, outputs) = start(EngineConfig { step_interval, ..EngineConfig::default() });
    let begun = Instant::now();
    let ticket = submit(&handle, &ask(&handle, 5, 4));
    eventually("the end", || handle.stats().live_requests == 0);
    assert!(handle.stats().steps >= 4);
    assert!(begun.elapsed() >= 3 * step_interval);
    drop(ticket);
    handle.stop();
    until_closed(&outputs);
}

#[test]
fn an_injected_echo_repeats_the_last_token() {
    let (handle, outputs) = start(EngineConfig { echo: true, ..EngineConfig::default() });
    let ticket = submit(&handle, &ask(&handle, 5, 3));
    let last = *ask(&handle, 5, 3).prompt.last().unwrap();
    eventually("the end", || handle.stats().live_requests == 0);
    handle.stop();
    let all = until_closed(&outputs);
    assert_eq!(tokens_of(&all, ticket.id().0, 0), [last; 3]);
}

#[test]
fn validation_happens_before_the_queue() {
    let (handle, outputs) = start(EngineConfig { max_step_tokens: 7, ..EngineConfig::default() });
    let limits = handle.limits();
    assert_eq!((limits.max_seq_len, limits.max_step_tokens, limits.max_seqs), (256, 7, 7));
    let refused = handle.submit(request(handle.next_id().0, &[], 5)).expect_err("refused");
    assert_eq!(refused, RejectReason::EmptyPrompt);
    let refused = handle.submit(ask(&handle, 250, 7)).expect_err("refused");
    assert_eq!(refused, RejectReason::TooLong { needed: 257, limit: 256 });
    handle.stop();
    assert!(until_closed(&outputs).is_empty());
}

/// Many threads submit, cancel and wait while the engine is stopped: every accepted request has exactly one terminal
/// per sequence (or one refusal), nothing else has any.
#[test]
fn no_request_is_lost_between_submit_and_stop() {
    for round in 0..40 {
        let (handle, outputs) = start(EngineConfig { max_waiting: 16, ..EngineConfig::default() });
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    let mut accepted = Vec::new();
                    let mut tickets = Vec::new();
                    loop {
                        let asked = ask(&handle, 5, 1 + thread);
                        match handle.submit(asked.clone()) {
                            Ok(ticket) if thread == 0 => drop(ticket),
                            Ok(ticket) => tickets.push(ticket),
                            Err(RejectReason::EngineStopped) => return accepted,
                            Err(_) => {
                                std::thread::yield_now();
                                continue;
                            }
                        }
                        accepted.push(asked.id);
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_micros(round * 50));
        handle.stop();
        let mut ends: HashMap<RequestId, usize> = HashMap::new();
        for output in until_closed(&outputs) {
            if matches!(output.update, SeqUpdate::Finished { .. } | SeqUpdate::Rejected(_)) {
                *ends.entry(output.request).or_default() += 1;
            }
        }
        let accepted: Vec<RequestId> =
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(accepted.len(), ends.len());
        assert!(accepted.iter().all(|id| ends.get(id) == Some(&1)));
        assert_eq!(handle.stats().live_requests, 0);
    }
}

fn load(handle: &EngineHandle) -> Result<AdapterId, KernelError> {
    handle.load_adapter(Arc::new(Adapter::default())).recv_timeout(PATIENCE).expect("an answer")
}

#[test]
fn requests_with_adapters_are_answered_with_their_own_and_unknown_ones_refused() {
    let (handle, outputs) = start(EngineConfig::default());
    let known = load(&handle).expect("room");
    let asked: Vec<_> = [None, Some(known)]
        .into_iter()
        .map(|adapter| GenerateRequest { adapter, ..ask(&handle, 9, 5) })
        .collect();
    for asked in &asked {
        let ticket = submit(&handle, asked);
        let seen = until_ends(&outputs, 1);
        drop(ticket);
        let (tokens, _) = expected(asked, Rotary::Fixed, VOCAB);
        assert_eq!(tokens_of(&seen, asked.id.0, 0), tokens);
    }
    let strange = GenerateRequest { adapter: Some(AdapterId(u64::MAX)), ..ask(&handle, 9, 5) };
    let ticket = submit(&handle, &strange);
    let seen = until_ends(&outputs, 1);
    assert!(
        matches!(&seen[..], [SeqOutput { update: SeqUpdate::Rejected(RejectReason::UnknownAdapter), .. }]),
        "{seen:?}"
    );
    drop(ticket);
}

#[test]
fn an_adapter_in_use_leaves_with_its_last_sequence() {
    let (handle, outputs, gate) = start_gated(EngineConfig::default(), false);
    let id = load(&handle).expect("room");
    let asked = GenerateRequest { adapter: Some(id), n: 2, ..ask(&handle, 5, 6) };
    let ticket = submit(&handle, &asked);
    gate.wait_for_step();
    let gone = handle.unload_adapter(id);
    let late = GenerateRequest { adapter: Some(id), ..ask(&handle, 5, 6) };
    let _refused = submit(&handle, &late);
    gate.let_one_pass();
    gate.wait_for_step();
    assert!(gone.try_recv().is_err(), "the adapter is in use");
    gate.open();
    let seen = until_ends(&outputs, 3);
    gone.recv_timeout(PATIENCE).expect("an answer");
    let (tokens, _) = expected(&asked, Rotary::Fixed, VOCAB);
    assert_eq!([0, 1].map(|index| tokens_of(&seen, asked.id.0, index)), [tokens.clone(), tokens]);
    let rejected = seen.iter().find(|output| output.request == late.id).map(|output| &output.update);
    assert!(matches!(rejected, Some(SeqUpdate::Rejected(RejectReason::UnknownAdapter))), "{rejected:?}");
    drop(ticket);
}

#[test]
fn a_device_without_room_refuses_an_adapter_and_goes_on() {
    let (handle, outputs) = start(EngineConfig::default());
    let ids: Vec<_> = (0..MAX_ADAPTERS).map(|_| load(&handle).expect("room")).collect();
    assert!(matches!(load(&handle), Err(KernelError::OutOfMemory { .. })));
    handle.unload_adapter(ids[0]).recv_timeout(PATIENCE).expect("an answer");
    let next = load(&handle).expect("room again");
    assert!(!ids.contains(&next), "no id comes back");
    let asked = GenerateRequest { adapter: Some(next), ..ask(&handle, 9, 5) };
    let ticket = submit(&handle, &asked);
    let seen = until_ends(&outputs, 1);
    assert_eq!(tokens_of(&seen, asked.id.0, 0), expected(&asked, Rotary::Fixed, VOCAB).0);
    drop(ticket);
}
