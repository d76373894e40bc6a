//! Context shift on the fake device, against its definition: one full pass over what is left for every token.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use support::{
    Rig, Rng, Rotary, Taste, config, fingerprints, finish_of, limits, next_token, request, tokens_of,
};
use weirgate_engine::{Scheduler, SchedulerConfig, ValidRequest};
use weirgate_types::{ContextShift, Finish, GenerateRequest, RejectReason, SeqUpdate, StopRules};

fn shifting(id: u64, prompt: &[u32], new: u32, limit: u32, keep: u32) -> GenerateRequest {
    GenerateRequest { shift: Some(ContextShift { limit, keep }), ..request(id, prompt, new) }
}

/// What a request generates when its text is cut at `limit` tokens.
fn expected(request: &GenerateRequest, vocab: usize) -> Vec<u32> {
    let shift = request.shift.expect("a shift");
    let mut context = request.prompt.to_vec();
    let mut generated = Vec::new();
    for draw in 0..u64::from(request.stop.max_new_tokens) {
        let last =
            *fingerprints(&context, request.prompt.len(), Rotary::Fixed, None).last().expect("a token");
        let token = next_token(last, Taste::of(request), draw, &[], vocab);
        generated.push(token);
        if request.stop.stop_tokens.contains(&token) {
            break;
        }
        context.push(token);
        if context.len() >= shift.limit as usize {
            let keep = shift.keep as usize;
            let half = (context.len() - keep) / 2;
            context.drain(keep..keep + half);
        }
    }
    generated
}

#[test]
fn the_head_stays_the_older_half_of_the_rest_goes() {
    let mut rig = Rig::new(limits(16, 4), Rotary::Fixed);
    let asked = shifting(0, &[11, 12, 13, 14, 15], 40, 16, 3);
    rig.submit(asked.clone());
    let mut lengths = Vec::new();
    let mut outputs = Vec::new();
    while !rig.scheduler.is_idle() {
        outputs.extend(rig.step());
        lengths.push(rig.batch.kv_len[0]);
    }
    assert_eq!(tokens_of(&outputs, 0, 0), expected(&asked, 1000));
    assert_eq!(finish_of(&outputs, 0, 0), Some(Finish::Length));
    // Of 16 tokens, 3 are kept and 6 of the other 13 dropped; the next token is drawn behind the 10 that are left.
    assert_eq!(lengths[..14], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 10, 11, 12]);
    assert!(lengths.iter().all(|&length| length < 16));
    let usage = outputs.iter().find_map(|output| match output.update {
        SeqUpdate::Finished { usage, .. } => Some((usage.prompt_tokens, usage.completion_tokens)),
        _ => None,
    });
    assert_eq!(usage, Some((5, 40)));
}

#[test]
fn many_shifting_sequences_in_a_small_pool_say_what_each_says_alone() {
    for (seed, speculate, prefix_cache) in (0..40).map(|seed| (seed, seed as usize % 3 * 2, seed % 4 < 2)) {
        let mut rng = Rng(seed);
        let limits = limits(rng.range(8, 20), 4);
        let config = SchedulerConfig { speculate, prefix_cache, ..config(limits, Rotary::Fixed) };
        let mut rig = Rig::with(limits, Rotary::Fixed, Scheduler::new(config));
        rig.ahead = (seed % 2 == 0).then_some(Rng(seed));
        let asked: Vec<GenerateRequest> = (0..6)
            .map(|id| {
                let limit = rng.range(8, 30) as u32;
                let prompt: Vec<u32> =
                    (0..rng.range(1, limit as usize - 1)).map(|_| rng.range(1, 3) as u32).collect();
                let keep = rng.range(0, limit as usize - 2) as u32;
                let mut asked = shifting(id, &prompt, rng.range(1, 90) as u32, limit, keep);
                asked.sampling.top_k = if rng.chance(50) { 4 } else { 0 };
                asked.stop = StopRules { stop_tokens: std::sync::Arc::from([7, 8]), ..asked.stop };
                asked
            })
            .collect();
        for request in &asked {
            rig.submit(request.clone());
        }
        let outputs = rig.run();
        for request in &asked {
            let id = request.id.0;
            assert_eq!(tokens_of(&outputs, id, 0), expected(request, 1000), "seed {seed}, request {id}");
        }
    }
}

#[test]
fn a_shift_that_cannot_work_is_refused() {
    let limits = limits(16, 4);
    let refusal = |request| match ValidRequest::check(request, &limits) {
        Ok(_) => panic!("accepted"),
        Err(reason) => reason,
    };
    let field = |reason| match reason {
        RejectReason::InvalidParameter { field, .. } => field,
        _ => "other",
    };
    assert_eq!(field(refusal(shifting(0, &[1], 9, 65, 0))), "shift.limit");
    assert_eq!(field(refusal(shifting(0, &[1], 9, 16, 15))), "shift.keep");
    let full = shifting(0, &[1; 16], 9, 16, 0);
    assert_eq!(refusal(full), RejectReason::TooLong { needed: 65, limit: 64 });
    assert!(ValidRequest::check(shifting(0, &[1; 15], 10_000, 16, 0), &limits).is_ok());
}
