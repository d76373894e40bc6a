//! The scheduler's rules, one by one, on the fake device.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use support::{
    Rig, Rotary, cached_of, config, expected, expected_scores, finish_of, limits, request, tokens_of,
};
use weirgate_engine::{BurstRule, ExecutorLimits, Scheduler, SchedulerConfig, StepResult, ValidRequest};
use weirgate_types::{
    Finish, GenerateRequest, RejectReason, RequestId, Selection, SeqOutput, SeqUpdate, StopRules,
};

const VOCAB: usize = 1000;

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7 + salt * 131) % VOCAB as u32).collect()
}

fn rig(blocks: usize, block_size: usize) -> Rig {
    Rig::new(limits(blocks, block_size), Rotary::Fixed)
}

/// `(first position, tokens)` of each sequence of the last batch, in order.
fn chunks(rig: &Rig) -> Vec<(u32, u32)> {
    let ends = rig.batch.cu_q.windows(2);
    ends.map(|ends| (rig.batch.positions[ends[0] as usize], ends[1] - ends[0])).collect()
}

fn ids_of(outputs: &[SeqOutput], wanted: fn(&SeqUpdate) -> bool) -> Vec<u64> {
    outputs.iter().filter(|output| wanted(&output.update)).map(|output| output.request.0).collect()
}

fn scheduled(outputs: &[SeqOutput]) -> Vec<u64> {
    ids_of(outputs, |update| matches!(update, SeqUpdate::Scheduled { .. }))
}

#[test]
fn decodes_come_first_and_a_long_prompt_advances_by_chunks() {
    let mut rig = Rig::new(ExecutorLimits { max_step_tokens: 10, ..limits(64, 4) }, Rotary::Fixed);
    rig.submit(request(0, &prompt(4, 0), 20));
    rig.step();
    assert_eq!(chunks(&rig), [(0, 4)]);
    rig.submit(request(1, &prompt(25, 1), 2));
    rig.submit(request(2, &prompt(3, 2), 2));
    rig.step();
    assert_eq!(chunks(&rig), [(4, 1), (0, 9)], "one decode, and what is left for the long prompt");
    rig.step();
    assert_eq!(chunks(&rig), [(5, 1), (9, 9)]);
    rig.step();
    assert_eq!(chunks(&rig), [(6, 1), (18, 7), (0, 2)], "the next prompt takes the rest of the budget");
    rig.step();
    assert_eq!(chunks(&rig), [(7, 1), (25, 1), (2, 1)]);
}

#[test]
fn prompts_beside_decodes_take_a_part_of_the_budget() {
    let limits = ExecutorLimits { max_step_tokens: 30, ..limits(64, 4) };
    let config = SchedulerConfig { mixed_step_tokens: 9, ..config(limits, Rotary::Fixed) };
    let mut rig = Rig::with(limits, Rotary::Fixed, Scheduler::new(config));
    rig.submit(request(0, &prompt(40, 0), 20));
    rig.step();
    assert_eq!(chunks(&rig), [(0, 30)], "the whole budget while nothing decodes");
    rig.step();
    rig.submit(request(1, &prompt(12, 1), 20));
    rig.step();
    assert_eq!(chunks(&rig), [(40, 1), (0, 8)], "nine in all");
    rig.step();
    assert_eq!(chunks(&rig), [(41, 1), (8, 4)]);
    rig.submit(request(2, &prompt(2, 2), 20));
    rig.step();
    rig.submit(request(3, &prompt(20, 3), 20));
    rig.step();
    assert_eq!(chunks(&rig)[3], (0, 12), "four for each that decodes");
    for id in 4..9 {
        rig.submit(request(id, &prompt(20, id as u32), 20));
    }
    rig.step();
    assert_eq!(chunks(&rig)[3..], [(12, 8), (0, 12)], "four for each of the five that could run");
}

#[test]
fn a_prompt_beside_many_decodes_does_not_starve() {
    let limits = ExecutorLimits { max_step_tokens: 60, ..limits(64, 4) };
    let config = SchedulerConfig { mixed_step_tokens: 5, ..config(limits, Rotary::Fixed) };
    let mut rig = Rig::with(limits, Rotary::Fixed, Scheduler::new(config));
    for id in 0..7 {
        rig.submit(request(id, &prompt(2, id as u32), 20));
    }
    rig.step();
    rig.submit(request(7, &prompt(40, 7), 20));
    rig.step();
    assert_eq!(chunks(&rig)[7], (0, 28), "four times as many tokens as decode");
}

/// Steps of 16 tokens, of `mixed` where somebody decodes.
fn bursting(blocks: usize, mixed: usize, bursts: BurstRule) -> Rig {
    let limits = ExecutorLimits { max_step_tokens: 16, ..limits(blocks, 4) };
    let config = SchedulerConfig { mixed_step_tokens: mixed, bursts, ..config(limits, Rotary::Fixed) };
    Rig::with(limits, Rotary::Fixed, Scheduler::new(config))
}

/// Who has just begun waits while the prompts are computed but for their last tokens; then all draw together.
#[test]
fn many_prompts_come_before_what_decodes_and_draw_together() {
    let mut rig = bursting(64, 5, BurstRule { ratio: 1.5, young: 2, max_steps: 8 });
    for id in 0..2 {
        rig.submit(request(id, &prompt(2, id as u32), 30));
    }
    rig.step();
    assert_eq!(chunks(&rig), [(0, 2), (0, 2)], "nobody decodes: no burst");
    for id in 2..4 {
        rig.submit(request(id, &prompt(10, id as u32), 30));
    }
    rig.step();
    assert_eq!(chunks(&rig), [(2, 1), (2, 1), (0, 8)], "two prompts for two that decode are few");
    rig.submit(request(4, &prompt(20, 4), 30));
    rig.step();
    assert_eq!(chunks(&rig), [(8, 1), (0, 9), (0, 6)]);
    rig.step();
    assert_eq!(chunks(&rig), [(6, 13)]);
    rig.step();
    assert_eq!(chunks(&rig), [(3, 1), (3, 1), (9, 1), (9, 1), (19, 1)]);
}

/// However many prompts come: they are computed beside it.
#[test]
fn who_has_decoded_for_longer_never_waits() {
    let mut rig = bursting(64, 5, BurstRule { ratio: 0.0, young: 2, max_steps: 8 });
    rig.submit(request(0, &prompt(2, 0), 30));
    rig.step();
    rig.step();
    rig.submit(request(1, &prompt(20, 1), 30));
    rig.step();
    assert_eq!(chunks(&rig), [(0, 16)], "it has drawn two tokens");
    rig.step();
    assert_eq!(chunks(&rig), [(3, 1), (16, 4)]);
    for id in 2..6 {
        rig.submit(request(id, &prompt(30, id as u32), 30));
    }
    for _ in 0..12 {
        rig.step();
        assert_eq!(chunks(&rig)[0].1, 1);
    }
}

/// One stream began before the others came; it is one token ahead of them and no more.
#[test]
fn who_just_began_waits_for_the_others_at_once() {
    let mut rig = bursting(64, 5, BurstRule { ratio: 0.3, young: 1, max_steps: 8 });
    rig.submit(request(0, &prompt(8, 0), 30));
    rig.step();
    for id in 1..3 {
        rig.submit(request(id, &prompt(8, id as u32), 30));
    }
    rig.step();
    assert_eq!(chunks(&rig), [(0, 7), (0, 7)]);
    rig.step();
    assert_eq!(chunks(&rig), [(8, 1), (7, 1), (7, 1)]);
}

#[test]
fn a_prompt_that_fits_beside_what_decodes_goes_with_it() {
    let mut rig = bursting(64, 5, BurstRule { ratio: 0.0, young: 9, max_steps: 8 });
    rig.submit(request(0, &prompt(2, 0), 30));
    rig.step();
    rig.step();
    rig.submit(request(1, &prompt(4, 1), 30));
    rig.step();
    assert_eq!(chunks(&rig), [(3, 1), (0, 4)]);
    rig.submit(request(2, &prompt(9, 2), 30));
    rig.step();
    assert_eq!(chunks(&rig), [(0, 8)], "one token too long");
}

#[test]
fn nobody_more_urgent_waits_for_prompts() {
    let mut rig = bursting(64, usize::MAX, BurstRule { ratio: 0.0, young: 9, max_steps: 8 });
    rig.submit(GenerateRequest { priority: -1, ..request(0, &prompt(2, 0), 30) });
    rig.step();
    rig.step();
    rig.submit(request(1, &prompt(40, 1), 30));
    rig.step();
    assert_eq!(chunks(&rig), [(3, 1), (0, 15)]);
    rig.submit(GenerateRequest { priority: -1, ..request(2, &prompt(4, 2), 30) });
    rig.step();
    assert_eq!(chunks(&rig), [(0, 3), (15, 13)], "a prompt as urgent makes a burst");
    rig.step();
    assert_eq!(chunks(&rig)[..2], [(4, 1), (3, 1)]);
}

/// A prompt for which there are no blocks holds up nobody.
#[test]
fn a_burst_that_cannot_be_is_none() {
    let mut rig = bursting(4, 5, BurstRule { ratio: 0.0, young: 9, max_steps: 8 });
    rig.submit(request(0, &prompt(10, 0), 6));
    rig.step();
    rig.submit(request(1, &prompt(8, 1), 2));
    for done in 10..15 {
        rig.step();
        assert_eq!(chunks(&rig), [(done, 1)]);
    }
    rig.step();
    assert_eq!(chunks(&rig), [(0, 8)]);
}

#[test]
fn a_younger_running_decode_is_not_delayed_by_an_older_prefill() {
    let mut rig = Rig::new(ExecutorLimits { max_step_tokens: 8, ..limits(64, 4) }, Rotary::Fixed);
    let urgent = GenerateRequest { priority: -1, ..request(1, &prompt(30, 1), 2) };
    rig.submit(request(0, &prompt(4, 0), 20));
    rig.step();
    rig.submit(urgent);
    rig.step();
    assert_eq!(chunks(&rig), [(0, 7), (4, 1)], "in order of service, the decode's token set aside");
}

#[test]
fn priority_then_arrival_decides_who_is_admitted() {
    let mut rig = Rig::new(ExecutorLimits { max_seqs: 1, ..limits(64, 4) }, Rotary::Fixed);
    for (id, priority) in [(0, 5), (1, 0), (2, 5), (3, -1), (4, 0)] {
        rig.submit(GenerateRequest { priority, ..request(id, &prompt(3, id as u32), 2) });
    }
    assert_eq!(scheduled(&rig.run()), [3, 1, 4, 0, 2]);
}

#[test]
fn nobody_overtakes_a_head_that_waits_for_blocks() {
    let mut rig = rig(8, 4);
    rig.submit(request(0, &prompt(16, 0), 4));
    rig.step();
    // Needs 5 blocks now, 3 are left after the first one's decode; the small one behind it would fit.
    rig.submit(request(1, &prompt(20, 1), 2));
    rig.submit(request(2, &prompt(2, 2), 2));
    let mut order = Vec::new();
    while !rig.scheduler.is_idle() {
        order.extend(scheduled(&rig.step()));
    }
    assert_eq!(order, [1, 2]);
}

#[test]
fn the_youngest_of_the_least_urgent_is_preempted_and_nothing_changes_for_it() {
    let mut rig = rig(6, 2);
    let requests: Vec<_> = [(0, 0), (1, 1), (2, 0)]
        .map(|(id, priority)| GenerateRequest { priority, ..request(id, &prompt(3, id as u32), 6) })
        .into();
    for request in &requests {
        rig.submit(request.clone());
    }
    // All three start with two blocks each; the next block that is needed costs request 1 its place.
    rig.step();
    assert_eq!(chunks(&rig).len(), 3);
    let mut outputs = Vec::new();
    while rig.scheduler.stats().preemptions == 0 {
        outputs.extend(rig.step());
    }
    assert_eq!(rig.scheduler.stats().waiting, 1);
    outputs.extend(rig.run());
    let ends = ids_of(&outputs, |update| matches!(update, SeqUpdate::Finished { .. }));
    assert_eq!(ends, [0, 2, 1]);
    assert_eq!(
        scheduled(&outputs),
        [] as [u64; 0],
        "a preempted sequence is not reported as scheduled again"
    );
    for request in &requests {
        let tokens = expected(request, Rotary::Fixed, VOCAB).0;
        assert!(tokens.ends_with(&tokens_of(&outputs, request.id.0, 0)));
    }
}

#[test]
fn cancelling_frees_the_blocks_at_once_in_every_state() {
    let mut rig = Rig::new(ExecutorLimits { max_step_tokens: 8, ..limits(16, 4) }, Rotary::Fixed);
    // 0: in the middle of its prompt, with siblings that wait for it. 1: in the queue.
    rig.submit(GenerateRequest { n: 3, ..request(0, &prompt(30, 0), 4) });
    rig.submit(request(1, &prompt(5, 1), 4));
    rig.step();
    assert_eq!(rig.scheduler.stats().blocks.used, 2);
    rig.scheduler.finish(RequestId(0), Finish::Cancelled);
    let outputs = rig.scheduler.take_outputs();
    assert_eq!([0, 1, 2].map(|index| finish_of(&outputs, 0, index)), [Some(Finish::Cancelled); 3]);
    assert_eq!(rig.scheduler.stats().blocks.used, 0);
    rig.scheduler.finish(RequestId(0), Finish::Cancelled);
    assert!(rig.scheduler.take_outputs().is_empty(), "a second cancellation has no effect");
    rig.submit(request(2, &prompt(5, 2), 4));
    rig.scheduler.finish(RequestId(1), Finish::Cancelled);
    let outputs = rig.run();
    assert_eq!(finish_of(&outputs, 1, 0), Some(Finish::Cancelled));
    assert!(tokens_of(&outputs, 1, 0).is_empty());
    assert_eq!(tokens_of(&outputs, 2, 0).len(), 4);
}

#[test]
fn one_of_several_sequences_can_be_cancelled() {
    let mut rig = rig(32, 4);
    let all = GenerateRequest { n: 3, ..request(0, &prompt(10, 0), 6) };
    rig.submit(all.clone());
    // Sequence 1 ends before its prompt is computed, sequence 0 after two tokens; 2 takes the part of both.
    rig.scheduler.finish_sequence(RequestId(0), 1, Finish::Cancelled);
    let mut outputs = rig.step();
    outputs.extend(rig.step());
    rig.scheduler.finish_sequence(RequestId(0), 0, Finish::Cancelled);
    rig.scheduler.finish_sequence(RequestId(0), 0, Finish::Cancelled);
    rig.scheduler.finish_sequence(RequestId(0), 3, Finish::Cancelled);
    assert_eq!(rig.scheduler.stats().running, 1);
    outputs.extend(rig.run());
    let ends = [0, 1, 2].map(|index| finish_of(&outputs, 0, index));
    assert_eq!(ends, [Some(Finish::Cancelled), Some(Finish::Cancelled), Some(Finish::Length)]);
    let generated = [0, 1, 2].map(|index| tokens_of(&outputs, 0, index).len());
    assert_eq!(generated, [2, 0, 6]);
}

#[test]
fn siblings_share_the_prompt_and_copy_what_they_write() {
    let mut rig = rig(32, 4);
    rig.submit(GenerateRequest { n: 3, ..request(0, &prompt(10, 0), 3) });
    let outputs = rig.step();
    assert_eq!(rig.prefill_tokens, 10);
    assert_eq!(scheduled(&outputs).len(), 1);
    rig.step();
    // The prompt's two full blocks are shared; of the third, half full, two have a copy and one has the original.
    assert_eq!(chunks(&rig), [(10, 1), (9, 1), (9, 1)]);
    assert_eq!(rig.scheduler.stats().blocks.used, 5);
    assert_eq!(rig.batch.block_copies.len(), 2);
    let outputs = rig.run();
    assert_eq!(rig.prefill_tokens, 12, "each sibling computes one token of the prompt");
    assert_eq!([0, 1, 2].map(|index| finish_of(&outputs, 0, index)), [Some(Finish::Length); 3]);
}

#[test]
fn siblings_of_a_prompt_that_ends_with_a_block_share_it_again_after_rewriting_its_last_slot() {
    let mut rig = rig(32, 4);
    rig.submit(GenerateRequest { n: 3, ..request(0, &prompt(8, 0), 3) });
    rig.step();
    rig.step();
    assert_eq!(rig.batch.block_copies.len(), 2);
    // Two blocks of the prompt, and one that sequence 0 has begun.
    assert_eq!(rig.scheduler.stats().blocks.used, 3);
    rig.run();
}

#[test]
fn waiting_siblings_lose_their_shared_blocks_before_anybody_is_preempted() {
    let limits = ExecutorLimits { max_seqs: 1, ..limits(3, 4) };
    for prefix_cache in [true, false] {
        let config = SchedulerConfig { prefix_cache, ..config(limits, Rotary::Fixed) };
        let mut rig = Rig::with(limits, Rotary::Fixed, Scheduler::new(config));
        let asked = GenerateRequest { n: 2, ..request(0, &prompt(6, 0), 6) };
        rig.submit(asked.clone());
        let outputs = rig.run();
        let tokens = expected(&asked, Rotary::Fixed, VOCAB).0;
        assert_eq!([0, 1].map(|index| tokens_of(&outputs, 0, index)), [tokens.clone(), tokens]);
        assert_eq!(rig.scheduler.stats().preemptions, 0);
        // Sequence 0 took the last block, so sequence 1 starts from what the cache has, or from nothing.
        assert_eq!(rig.prefill_tokens, if prefix_cache { 6 + 2 } else { 6 + 6 });
    }
}

#[test]
fn each_sequence_draws_from_its_own_seed_and_counts_its_draws() {
    let mut rig = rig(64, 4);
    let mut asked = GenerateRequest { n: 3, ..request(0, &prompt(6, 0), 4) };
    asked.sampling.selection = Selection::Random { seed: 77 };
    rig.submit(asked.clone());
    rig.step();
    rig.step();
    let seeds: Vec<_> = rig.batch.samples.iter().map(|sample| sample.params.seed.expect("a seed")).collect();
    let draws: Vec<_> = rig.batch.samples.iter().map(|sample| sample.draw).collect();
    assert_eq!((seeds[0], draws), (77, vec![1, 0, 0]));
    assert!(seeds[1] != 77 && seeds[2] != 77 && seeds[1] != seeds[2]);
    let again = {
        let mut rig = Rig::new(limits(64, 4), Rotary::Fixed);
        rig.submit(asked);
        rig.step();
        rig.step();
        rig.batch.samples.iter().map(|sample| sample.params.seed.expect("a seed")).collect::<Vec<_>>()
    };
    assert_eq!(seeds, again);
}

#[test]
fn the_length_is_checked_before_the_stop_tokens() {
    let asked = request(0, &prompt(5, 0), 3);
    let tokens = expected(&asked, Rotary::Fixed, VOCAB).0;
    for (at, finish) in [(1, Finish::StopToken), (2, Finish::Length)] {
        let stop = StopRules { stop_tokens: Arc::new([tokens[at]]), ..asked.stop.clone() };
        let mut rig = rig(16, 4);
        rig.submit(GenerateRequest { stop, ..asked.clone() });
        let outputs = rig.run();
        assert_eq!(tokens_of(&outputs, 0, 0), tokens[..=at], "the stop token is reported");
        assert_eq!(finish_of(&outputs, 0, 0), Some(finish));
    }
}

#[test]
fn stop_tokens_are_banned_until_the_minimum_length() {
    let asked = request(0, &prompt(5, 0), 8);
    let first = expected(&asked, Rotary::Fixed, VOCAB).0[0];
    // An id beyond the vocabulary cannot be generated and must not reach the device.
    let stop_tokens: Arc<[u32]> = Arc::new([first, 5_000_000]);
    let stop = StopRules { min_new_tokens: 2, stop_tokens, ..asked.stop.clone() };
    let mut rig = rig(16, 4);
    rig.submit(GenerateRequest { stop, ..asked });
    let mut banned = Vec::new();
    while !rig.scheduler.is_idle() {
        rig.step();
        banned.push(rig.batch.samples[0].banned.as_deref().map(<[u32]>::to_vec));
    }
    assert_eq!(banned[..3], [Some(vec![first]), Some(vec![first]), None]);
}

#[test]
fn prompt_scores_are_collected_over_chunks_and_skip_the_cache() {
    let mut rig = Rig::new(ExecutorLimits { max_step_tokens: 8, ..limits(16, 4) }, Rotary::Fixed);
    let mut asked = request(0, &prompt(21, 0), 2);
    rig.submit(asked.clone());
    rig.run();
    asked.id = RequestId(1);
    asked.logprobs.prompt = true;
    rig.submit(asked.clone());
    let outputs = rig.run();
    assert_eq!(cached_of(&outputs, 1), Some(0));
    let scores: Vec<_> = outputs
        .iter()
        .filter_map(|output| match &output.update {
            SeqUpdate::Prompt { logprobs } => Some(logprobs.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(scores, [expected_scores(&asked, Rotary::Fixed)]);
}

#[test]
fn a_sequence_that_grows_into_another_rotary_table_starts_over_where_the_model_asks_for_it() {
    let asked = request(0, &prompt(6, 0), 8);
    for (rotary, computed) in [(Rotary::Dynamic(10), 6), (Rotary::Long(10), 6 + 11)] {
        let mut rig = Rig::new(limits(16, 4), rotary);
        rig.submit(asked.clone());
        let outputs = rig.run();
        assert_eq!(tokens_of(&outputs, 0, 0), expected(&asked, rotary, VOCAB).0, "{rotary:?}");
        assert_eq!(rig.prefill_tokens, computed, "{rotary:?}");
    }
}

#[test]
fn a_result_of_the_wrong_size_is_refused() {
    let mut rig = rig(16, 4);
    rig.submit(request(0, &prompt(5, 0), 8));
    let plan = rig.scheduler.plan(&mut rig.batch);
    assert!(rig.scheduler.commit(plan, &mut StepResult::default()).is_err());
    rig.scheduler.finish_all(Finish::EngineFailed);
    assert_eq!(finish_of(&rig.scheduler.take_outputs(), 0, 0), Some(Finish::EngineFailed));
    rig.scheduler.check_integrity().expect("sound books");
}

#[test]
fn a_second_live_request_of_the_same_id_is_refused_and_harms_nobody() {
    let mut rig = rig(16, 4);
    rig.submit(request(0, &prompt(5, 0), 3));
    rig.submit(request(0, &prompt(9, 1), 3));
    let outputs = rig.run();
    let refused = ids_of(&outputs, |update| matches!(update, SeqUpdate::Rejected(_)));
    assert_eq!((refused.len(), tokens_of(&outputs, 0, 0).len()), (1, 3));
}

#[test]
fn requests_that_cannot_be_served_are_refused_by_name() {
    let limits = ExecutorLimits { max_seq_len: 50, ..limits(10, 4) };
    let refused = |change: fn(&mut GenerateRequest)| {
        let mut asked = request(0, &prompt(10, 0), 10);
        change(&mut asked);
        ValidRequest::check(asked, &limits).expect_err("refused")
    };
    let field = |reason| match reason {
        RejectReason::InvalidParameter { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert!(ValidRequest::check(request(0, &prompt(10, 0), 30), &limits).is_ok(), "exactly the pool");
    assert_eq!(refused(|r| r.prompt = Arc::new([])), RejectReason::EmptyPrompt);
    assert_eq!(
        refused(|r| r.prompt = Arc::new([3, 1000])),
        RejectReason::TokenOutOfRange { token: 1000, vocab: 1000 }
    );
    assert_eq!(refused(|r| r.stop.max_new_tokens = 31), RejectReason::TooLong { needed: 41, limit: 40 });
    assert_eq!(
        refused(|r| r.stop.max_new_tokens = u32::MAX),
        RejectReason::TooLong { needed: 10 + u64::from(u32::MAX), limit: 40 }
    );
    assert_eq!(field(refused(|r| r.stop.max_new_tokens = 0)), "max_new_tokens");
    assert_eq!(field(refused(|r| r.n = 0)), "n");
    assert_eq!(field(refused(|r| r.n = 1_000_000)), "n");
    assert_eq!(field(refused(|r| r.sampling.temperature = 0.0)), "temperature");
    assert_eq!(field(refused(|r| r.sampling.temperature = f32::NAN)), "temperature");
    assert_eq!(field(refused(|r| r.sampling.repetition_penalty = -1.0)), "repetition_penalty");
    assert_eq!(field(refused(|r| r.sampling.top_p = 1.5)), "top_p");
    assert_eq!(field(refused(|r| r.sampling.presence_penalty = f32::INFINITY)), "presence_penalty");
    assert_eq!(field(refused(|r| r.sampling.logit_bias = vec![(1000, 1.0)])), "logit_bias");
}
