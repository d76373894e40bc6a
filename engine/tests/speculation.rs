//! Speculation, rule by rule, on the fake device. That it changes no token is what the random traces show.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use support::rule::{Rule, expected_under, source};
use support::{Rig, Rotary, cached_of, config, expected, finish_of, limits, request, tokens_of};
use weirgate_engine::{ExecutorLimits, Scheduler, SchedulerConfig};
use weirgate_types::{Finish, GenerateRequest, RequestId, SeqOutput};

const VOCAB: usize = 1000;

fn rig(limits: ExecutorLimits, rotary: Rotary, speculate: usize) -> Rig {
    let config = SchedulerConfig { speculate, ..config(limits, rotary) };
    Rig::with(limits, rotary, Scheduler::new(config))
}

/// A request whose every token is 1 or 2 in turn, whatever came before.
fn habitual(id: u64, prompt: &[u32], max_new_tokens: u32) -> GenerateRequest {
    let mut request = request(id, prompt, max_new_tokens);
    request.sampling.top_k = 4;
    request
}

/// A prompt after which the device goes on as before, so that every guess comes true.
const LOOP: [u32; 6] = [1, 2, 1, 2, 1, 2];
/// A prompt in which 1 is never followed by 2, nor 2 by 1.
const TRAP: [u32; 6] = [1, 9, 2, 8, 1, 9];

fn run(rig: &mut Rig, request: &GenerateRequest) -> Vec<SeqOutput> {
    rig.submit(request.clone());
    let outputs = rig.run();
    let (tokens, finish) = expected(request, rig.device.rotary, rig.limits.vocab_size);
    assert_eq!(tokens_of(&outputs, request.id.0, 0), tokens);
    assert_eq!(finish_of(&outputs, request.id.0, 0), Some(finish));
    outputs
}

#[test]
fn a_draft_lies_behind_its_sequence_and_brings_all_its_tokens_at_once() {
    let mut rig = rig(limits(16, 4), Rotary::Fixed, 3);
    rig.submit(habitual(0, &LOOP, 20));
    assert_eq!(tokens_of(&rig.step(), 0, 0), [1], "the prompt's own step draws one token");
    let outputs = rig.step();
    assert_eq!((&rig.batch.ids[..], &rig.batch.positions[..]), (&[1, 2, 1, 2][..], &[6, 7, 8, 9][..]));
    assert_eq!((&rig.batch.cu_q[..], &rig.batch.kv_len[..]), (&[0, 4][..], &[10][..]));
    let draws: Vec<(u32, u64)> = rig.batch.samples.iter().map(|sample| (sample.row, sample.draw)).collect();
    assert_eq!(draws, [(0, 1), (1, 2), (2, 3), (3, 4)]);
    let last = &rig.batch.history[rig.batch.samples[3].history.clone()];
    assert_eq!(last, [1, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
    assert_eq!(tokens_of(&outputs, 0, 0), [2, 1, 2, 1]);
    assert_eq!((rig.drafted, rig.accepted), (3, 3));
}

#[test]
fn only_the_last_token_travels_where_no_more_is_needed() {
    let mut rig = rig(limits(16, 4), Rotary::Fixed, 3);
    let mut plain = habitual(0, &LOOP, 20);
    plain.sampling.repetition_penalty = 1.0;
    rig.submit(plain);
    rig.submit(habitual(1, &LOOP, 20));
    rig.step();
    rig.step();
    let ranges: Vec<_> = rig.batch.samples.iter().map(|sample| sample.history.clone()).collect();
    assert_eq!(ranges, [0..1, 1..2, 2..3, 3..4, 4..11, 4..12, 4..13, 4..14]);
}

#[test]
fn void_guesses_leave_nothing_behind() {
    let ask = |id| GenerateRequest { cache_salt: id, ..habitual(id, &TRAP, 30) };
    let mut plain = rig(limits(64, 2), Rotary::Fixed, 0);
    let mut guessing = rig(limits(64, 2), Rotary::Fixed, 5);
    guessing.submit(ask(1));
    guessing.step();
    guessing.step();
    let counts = guessing.scheduler.stats();
    assert!(guessing.drafted > 0 && guessing.accepted == 0, "9 follows 1 no more");
    assert_eq!(counts.blocks.used, 4, "eight tokens, seven of them computed");
    guessing.run();
    run(&mut plain, &ask(1));
    // What the cache has of the answer, and of what was guessed in its place.
    let mut answer = TRAP.to_vec();
    answer.extend(expected(&ask(1), Rotary::Fixed, VOCAB).0);
    let guessed: Vec<u32> = TRAP.iter().chain(&[1, 9, 2, 8, 1, 9, 5]).copied().collect();
    for (id, prompt) in [(2, answer), (3, guessed)] {
        let next = GenerateRequest { cache_salt: 1, ..request(id, &prompt, 2) };
        let cached = [&mut plain, &mut guessing].map(|rig| cached_of(&run(rig, &next), id));
        assert_eq!(cached[0], cached[1]);
        assert!(cached[0] > Some(5));
    }
}

#[test]
fn what_fails_is_tried_less_and_less() {
    let mut rig = rig(limits(256, 16), Rotary::Fixed, 8);
    // Arbitrary tokens of a thousand: mostly the last one came before, and what followed it then does not now.
    let mut request = request(0, &TRAP, 2000);
    request.sampling.repetition_penalty = 1.0;
    run(&mut rig, &request);
    // 8, 4, 2 and 1, then one for every 64 tokens.
    assert!((30..60).contains(&rig.drafted) && rig.accepted < 5, "{} guesses", rig.drafted);
    let steps = rig.device.steps;
    run(&mut rig, &habitual(1, &LOOP, 2000));
    assert!(rig.device.steps - steps < 230, "nine tokens a step");
}

#[test]
fn drafts_take_only_what_a_small_step_has_left() {
    // Four sequences with one token each leave 2 of 6.
    let mut tight = rig(ExecutorLimits { max_step_tokens: 6, ..limits(64, 4) }, Rotary::Fixed, 4);
    (0..4).for_each(|id| tight.submit(habitual(id, &LOOP, 40)));
    (0..8).for_each(|_| drop(tight.step()));
    assert_eq!((tight.batch.tokens(), tight.batch.seqs()), (6, 4));
    assert_eq!(tight.batch.cu_q, [0, 3, 4, 5, 6], "in order of service");
    // A long prompt fills the step beyond what is small.
    let mut busy = rig(limits(64, 4), Rotary::Fixed, 4);
    busy.submit(habitual(0, &LOOP, 40));
    busy.step();
    busy.submit(request(1, &[7; 40], 2));
    busy.step();
    assert_eq!((busy.batch.tokens(), busy.drafted), (41, 0));
    busy.step();
    assert_eq!(busy.drafted, 4);
}

#[test]
fn drafts_take_no_block_that_somebody_needs() {
    // Eight blocks of four: the first sequence fills five, the second needs the other three for its prompt.
    let mut rig = rig(limits(8, 4), Rotary::Fixed, 6);
    let first = habitual(0, &[LOOP, LOOP, LOOP].concat(), 8);
    let second = habitual(1, &[3, 4, 5, 3, 4, 5, 3, 4, 5, 3], 1);
    rig.submit(first.clone());
    rig.step();
    rig.submit(second.clone());
    let outputs = rig.step();
    assert_eq!(tokens_of(&outputs, 1, 0).len(), 1);
    // Position 18 is in the fifth block, and so is 19: one guess fits.
    assert_eq!(rig.batch.cu_q, [0, 2, 12]);
    let outputs = [outputs, rig.run()].concat();
    assert_eq!(rig.scheduler.stats().preemptions, 0);
    assert_eq!(tokens_of(&outputs, 1, 0), expected(&second, Rotary::Fixed, VOCAB).0);
}

#[test]
fn a_draft_ends_before_the_request_does() {
    let mut rig = rig(limits(64, 4), Rotary::Fixed, 8);
    // One token with the prompt, then four of which three are guessed.
    run(&mut rig, &habitual(0, &LOOP, 5));
    assert_eq!((rig.device.steps, rig.drafted), (2, 3));
    // A stop token is not guessed: nothing behind it would be of use.
    let mut stopping = habitual(1, &[2, 1, 5, 2, 1, 5, 2], 9);
    stopping.stop.stop_tokens = Arc::new([5]);
    rig.submit(stopping);
    rig.step();
    rig.step();
    assert_eq!(rig.batch.tokens(), 1, "only 5 ever followed");
    rig.run();
    // Below the minimum a stop token is banned in every draw of the draft that is too early.
    let mut early = habitual(2, &LOOP, 20);
    early.stop.stop_tokens = Arc::new([7]);
    early.stop.min_new_tokens = 3;
    rig.submit(early);
    rig.step();
    rig.step();
    let banned: Vec<bool> = rig.batch.samples.iter().map(|sample| sample.banned.is_some()).collect();
    assert_eq!(banned, [true, true, false, false, false, false, false, false, false]);
}

#[test]
fn a_draft_ends_where_the_rotary_table_does() {
    // At 12 tokens the sequence starts over: the draft stays below, and the draw behind it is the last.
    let mut long = rig(limits(64, 4), Rotary::Long(11), 8);
    long.submit(habitual(0, &LOOP, 20));
    long.step();
    let outputs = long.step();
    assert_eq!((long.batch.kv_len[0], tokens_of(&outputs, 0, 0).len()), (11, 5));
    long.step();
    assert_eq!(long.batch.positions[0], 0);
    run(&mut rig(limits(64, 4), Rotary::Long(11), 8), &habitual(0, &LOOP, 30));
    // Where every length has its own table, each drafted token has its own.
    let mut dynamic = rig(limits(64, 4), Rotary::Dynamic(4), 8);
    dynamic.submit(habitual(0, &LOOP, 20));
    dynamic.step();
    dynamic.step();
    assert_eq!(dynamic.batch.rope_len, [7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_grammar_takes_no_guesses() {
    let mut rig = rig(limits(64, 4), Rotary::Fixed, 4);
    let rule = Rule { seed: 3, vocab: VOCAB as u32, failure: None };
    let request = habitual(0, &LOOP, 30);
    rig.submit_constrained(request.clone(), &source(&rule));
    let outputs = rig.run();
    assert_eq!(tokens_of(&outputs, 0, 0), expected_under(&rule, &request, Rotary::Fixed, VOCAB).0);
    assert_eq!(rig.drafted, 0);
}

#[test]
fn a_sequence_that_is_cancelled_while_its_draft_runs_costs_the_others_nothing() {
    let mut rig = rig(limits(64, 4), Rotary::Fixed, 4);
    for id in 0..3 {
        rig.submit(habitual(id, &LOOP, 20));
    }
    let mut all = rig.step();
    all.extend(rig.step_with(|scheduler| scheduler.finish(RequestId(1), Finish::Cancelled)));
    assert_eq!(rig.batch.samples.len(), 15);
    assert_eq!(tokens_of(&all, 1, 0).len(), 1);
    all.extend(rig.run());
    for id in [0, 2] {
        assert_eq!(tokens_of(&all, id, 0), expected(&habitual(id, &LOOP, 20), Rotary::Fixed, VOCAB).0);
    }
}

#[test]
fn one_sequence_of_several_can_be_ended() {
    let mut rig = rig(limits(64, 4), Rotary::Fixed, 2);
    let asked = GenerateRequest { n: 3, ..request(0, &[5, 6, 7, 8, 9], 12) };
    let tokens = expected(&asked, Rotary::Fixed, VOCAB).0;
    // Before its prompt is computed, sequence 0 hands that on to the next.
    rig.submit(asked.clone());
    rig.scheduler.finish_sequence(RequestId(0), 0, Finish::Cancelled);
    let mut all = rig.step();
    all.extend(rig.step());
    rig.scheduler.finish_sequence(RequestId(0), 2, Finish::Cancelled);
    rig.scheduler.finish_sequence(RequestId(0), 2, Finish::Cancelled);
    rig.scheduler.finish_sequence(RequestId(0), 9, Finish::Cancelled);
    rig.scheduler.finish_sequence(RequestId(7), 0, Finish::Cancelled);
    all.extend(rig.run());
    let ends = [0, 1, 2].map(|index| finish_of(&all, 0, index));
    assert_eq!(ends, [Some(Finish::Cancelled), Some(Finish::Length), Some(Finish::Cancelled)]);
    assert_eq!(tokens_of(&all, 0, 0), [0; 0]);
    assert_eq!(tokens_of(&all, 0, 1), tokens);
    assert_eq!(tokens_of(&all, 0, 2), tokens[..1]);
}
