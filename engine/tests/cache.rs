//! The prefix cache: what may be shared, when, and with whom.
#![allow(clippy::expect_used, clippy::panic)]

mod support;

use support::{Rig, Rotary, cached_of, config, expected, limits, request, tokens_of};
use weirgate_engine::{
    BlockKey, BlockPool, BlockTable, ExecutorLimits, Namespace, Prefix, RopeClass, Scheduler,
};
use weirgate_types::{AdapterId, Finish, GenerateRequest, RequestId};

const VOCAB: usize = 1000;

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7 + salt * 131) % VOCAB as u32).collect()
}

fn rig(blocks: usize, block_size: usize) -> Rig {
    Rig::new(limits(blocks, block_size), Rotary::Fixed)
}

/// How many tokens of a prompt the rig's cache has, by asking for it.
fn cached(rig: &mut Rig, id: u64, prompt: &[u32]) -> u32 {
    let asked = request(id, prompt, 3);
    rig.submit(asked.clone());
    let outputs = rig.run();
    assert_eq!(tokens_of(&outputs, id, 0), expected(&asked, rig.device.rotary, VOCAB).0);
    cached_of(&outputs, id).expect("it was scheduled")
}

#[test]
fn of_a_fully_cached_prompt_only_the_last_token_is_computed() {
    let mut rig = rig(16, 4);
    assert_eq!(cached(&mut rig, 0, &prompt(8, 0)), 0);
    let before = rig.prefill_tokens;
    assert_eq!(cached(&mut rig, 1, &prompt(8, 0)), 7);
    assert_eq!(rig.prefill_tokens - before, 1);
    assert_eq!(cached(&mut rig, 2, &prompt(11, 0)), 8, "full blocks only");
}

#[test]
fn a_cached_block_is_rewritten_in_place_when_there_is_no_room_for_a_copy() {
    let mut rig = rig(2, 4);
    rig.submit(request(0, &prompt(4, 0), 1));
    rig.run();
    rig.submit(request(1, &prompt(2, 1), 3));
    rig.step();
    assert_eq!(rig.scheduler.stats().blocks.cached, 1, "the other block is in use");
    rig.submit(request(2, &prompt(4, 0), 1));
    let outputs = rig.step();
    assert_eq!(cached_of(&outputs, 2), Some(3));
    assert_eq!((rig.device.block_copies, tokens_of(&outputs, 2, 0).len()), (0, 1));
    rig.run();
    assert_eq!(cached(&mut rig, 3, &prompt(4, 0)), 3, "published again");
}

#[test]
fn blocks_are_visible_while_their_request_still_runs() {
    let mut rig = rig(16, 4);
    rig.submit(request(0, &prompt(8, 0), 12));
    rig.step();
    rig.submit(request(1, &prompt(10, 0), 2));
    let outputs = rig.step();
    assert_eq!(cached_of(&outputs, 1), Some(8));
    assert_eq!(rig.scheduler.stats().blocks.used, 4, "two shared, one private each");
    rig.run();
}

#[test]
fn generated_tokens_are_cached_for_the_next_turn() {
    let mut rig = rig(16, 4);
    let first = request(0, &prompt(6, 0), 9);
    rig.submit(first.clone());
    let mut turn = first.prompt.to_vec();
    turn.extend(tokens_of(&rig.run(), 0, 0));
    turn.extend(prompt(5, 9));
    // 15 tokens were generated or given, the last of which was never computed: three full blocks.
    assert_eq!(cached(&mut rig, 1, &turn), 12);
}

#[test]
fn nothing_is_published_before_its_step_is_committed() {
    let mut rig = rig(16, 4);
    rig.submit(request(0, &prompt(8, 0), 3));
    let plan = rig.scheduler.plan(&mut rig.batch);
    assert_eq!(rig.batch.tokens(), 8);
    rig.scheduler.finish(RequestId(0), Finish::Cancelled);
    drop(plan);
    assert_eq!(rig.scheduler.stats().blocks.cached, 0);
    assert_eq!(cached(&mut rig, 1, &prompt(8, 0)), 0, "the step never ran");
    // Two at once: the second cannot read what the first computes in the same step.
    rig.submit(request(2, &prompt(8, 3), 1));
    rig.submit(request(3, &prompt(8, 3), 1));
    let outputs = rig.run();
    assert_eq!([2, 3].map(|id| cached_of(&outputs, id)), [Some(0), Some(0)]);
}

#[test]
fn an_aborted_prefill_leaves_exactly_what_it_computed() {
    let mut rig = Rig::new(ExecutorLimits { max_step_tokens: 8, ..limits(16, 4) }, Rotary::Fixed);
    rig.submit(request(0, &prompt(30, 0), 3));
    rig.step();
    let plan = rig.scheduler.plan(&mut rig.batch);
    rig.scheduler.finish(RequestId(0), Finish::Cancelled);
    drop(plan);
    assert_eq!(cached(&mut rig, 1, &prompt(30, 0)), 8);
}

#[test]
fn equal_prompts_computed_side_by_side_end_up_sharing() {
    let mut rig = rig(16, 4);
    rig.submit(request(0, &prompt(9, 0), 4));
    rig.submit(request(1, &prompt(9, 0), 4));
    rig.step();
    assert_eq!(rig.scheduler.stats().blocks.used, 4, "two shared, one private each");
    rig.run();
}

#[test]
fn tenants_do_not_share() {
    let mut rig = rig(16, 4);
    let mut lookup = |id: u64, cache_salt: u64| {
        rig.submit(GenerateRequest { cache_salt, ..request(id, &prompt(9, 0), 2) });
        cached_of(&rig.run(), id)
    };
    assert_eq!(
        [lookup(0, 7), lookup(1, 8), lookup(2, 7), lookup(3, 8)],
        [Some(0), Some(0), Some(8), Some(8)]
    );
}

#[test]
fn adapters_do_not_share() {
    let mut rig = rig(16, 4);
    let known = [AdapterId(1), AdapterId(2)];
    rig.device.adapters.extend(known);
    let mut lookup = |id: u64, adapter: Option<AdapterId>| {
        rig.submit(GenerateRequest { adapter, ..request(id, &prompt(9, 0), 2) });
        cached_of(&rig.run(), id)
    };
    let [one, other] = known.map(Some);
    let cold = [lookup(0, None), lookup(1, one), lookup(2, other)];
    let warm = [lookup(3, other), lookup(4, one), lookup(5, None)];
    assert_eq!((cold, warm), ([Some(0); 3], [Some(8); 3]));
}

#[test]
fn blocks_of_different_rotary_tables_are_not_shared() {
    // Beyond 6 tokens every length has its own table; a prompt is computed under its full length.
    let mut rig = Rig::new(limits(64, 4), Rotary::Dynamic(6));
    assert_eq!(cached(&mut rig, 0, &prompt(9, 0)), 0);
    assert_eq!(cached(&mut rig, 1, &prompt(10, 0)), 0, "another length");
    assert_eq!(cached(&mut rig, 2, &prompt(9, 0)), 8, "the same length");
    assert_eq!(cached(&mut rig, 3, &prompt(6, 0)), 0, "below the threshold");
    assert_eq!(cached(&mut rig, 4, &prompt(5, 0)), 4, "below the threshold all lengths are one");
    let mut rig = Rig::new(limits(64, 4), Rotary::Long(10));
    assert_eq!(cached(&mut rig, 0, &prompt(13, 0)), 0);
    assert_eq!(cached(&mut rig, 1, &prompt(6, 0)), 0, "the short table");
    assert_eq!(cached(&mut rig, 2, &prompt(12, 0)), 11, "the long table");
}

#[test]
fn a_hash_collision_is_not_a_hit() {
    let limits = limits(16, 4);
    let pool = BlockPool::with_hash(16, 4, Box::new(|_| 42));
    let scheduler = Scheduler::with_pool(config(limits, Rotary::Fixed), pool);
    let mut rig = Rig::with(limits, Rotary::Fixed, scheduler);
    assert_eq!(cached(&mut rig, 0, &prompt(9, 0)), 0);
    assert_eq!(cached(&mut rig, 1, &prompt(9, 1)), 0, "same hash, other tokens");
    assert_eq!(cached(&mut rig, 2, &prompt(9, 0)), 4, "its second block collided with its first");
}

/// A pool whose hash sees only the tokens, so that equal tokens under different parents collide.
fn shallow_pool(blocks: usize) -> BlockPool {
    BlockPool::with_hash(blocks, 2, Box::new(|key: &BlockKey<'_>| u64::from(key.tokens.iter().sum::<u32>())))
}

fn one_class(_: usize) -> RopeClass {
    RopeClass { class: 0, mixed: 0 }
}

const HOUSE: Namespace = Namespace { adapter: None, tenant: 0 };

fn prefix(namespace: Namespace, tokens: &[u32]) -> Prefix<'_> {
    Prefix { namespace, tokens, class: &one_class }
}

/// Holds and publishes all full blocks of `tokens`.
fn fill(pool: &mut BlockPool, namespace: Namespace, tokens: &[u32]) -> BlockTable {
    let mut table = BlockTable::default();
    pool.grow(&mut table, pool.blocks_for(tokens.len())).expect("room");
    pool.publish(&mut table, &prefix(namespace, tokens), tokens.len());
    table
}

fn hit(pool: &mut BlockPool, namespace: Namespace, tokens: &[u32]) -> usize {
    let mut table = BlockTable::default();
    let hit = pool.attach(&mut table, &prefix(namespace, tokens), tokens.len());
    pool.release(&mut table);
    hit
}

#[test]
fn a_block_is_found_under_its_own_parent_only() {
    let mut pool = shallow_pool(8);
    let mut table = fill(&mut pool, HOUSE, &[1, 2, 3, 4]);
    assert_eq!(hit(&mut pool, HOUSE, &[1, 2, 3, 4]), 4);
    assert_eq!(hit(&mut pool, HOUSE, &[3, 4, 1, 2]), 0, "both blocks exist, at other places");
    assert_eq!(hit(&mut pool, HOUSE, &[2, 1, 3, 4]), 0, "equal hash, other tokens");
    for other in [Namespace { adapter: Some(AdapterId(1)), ..HOUSE }, Namespace { tenant: 1, ..HOUSE }] {
        assert_eq!(hit(&mut pool, other, &[1, 2, 3, 4]), 0);
    }
    pool.release(&mut table);
    pool.check_integrity([]).expect("sound books");
}

#[test]
fn the_least_recently_used_goes_first_and_children_before_their_parents() {
    let mut pool = BlockPool::new(6, 2);
    let (a, b) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
    for tokens in [&a, &b] {
        let mut table = fill(&mut pool, HOUSE, tokens);
        pool.release(&mut table);
    }
    assert_eq!(hit(&mut pool, HOUSE, &a[..4]), 4, "the start of a is used again");
    let mut table = BlockTable::default();
    let mut left = Vec::new();
    for blocks in 1..=6 {
        pool.grow(&mut table, blocks).expect("all can be evicted");
        pool.check_integrity([&table]).expect("sound books");
        left.push((hit(&mut pool, HOUSE, &a), hit(&mut pool, HOUSE, &b)));
    }
    // Looking changes the order of use: after the first eviction (the end of a) a's start, then b is used.
    assert_eq!(left[0], (4, 6));
    assert!(left.windows(2).all(|pair| pair[1].0 + pair[1].1 + 2 == pair[0].0 + pair[0].1), "{left:?}");
    pool.release(&mut table);
}

#[test]
fn writing_needs_a_copy_only_of_what_others_can_see() {
    let mut pool = BlockPool::new(4, 2);
    let mut table = fill(&mut pool, HOUSE, &[1, 2, 3]);
    assert_eq!(pool.make_last_writable(&mut table), Ok(None), "half full, private");
    let mut fork = pool.fork(&table, 2);
    let original = table.as_slice()[1];
    let copy = pool.make_last_writable(&mut fork).expect("room").expect("shared");
    assert_eq!((copy.0, copy.1), (original, fork.as_slice()[1]));
    assert_eq!(pool.make_last_writable(&mut table), Ok(None), "the last holder writes in place");
    // A published block with one holder: copied while there is room, taken out of the cache when there is none.
    let mut reader = BlockTable::default();
    assert_eq!(pool.attach(&mut reader, &prefix(HOUSE, &[1, 2]), 1), 1);
    pool.release(&mut table);
    pool.release(&mut fork);
    let copy = pool.make_last_writable(&mut reader).expect("room");
    assert!(copy.is_some());
    assert_eq!(hit(&mut pool, HOUSE, &[1, 2]), 2, "the published block is still there");
    let mut rest = BlockTable::default();
    let mut reader2 = BlockTable::default();
    pool.attach(&mut reader2, &prefix(HOUSE, &[1, 2]), 1);
    pool.grow(&mut rest, 2).expect("the last two");
    assert_eq!(pool.make_last_writable(&mut reader2), Ok(None), "no block left: in place");
    assert_eq!(hit(&mut pool, HOUSE, &[1, 2]), 0, "and out of the cache");
    for mut table in [reader, reader2, rest] {
        pool.release(&mut table);
    }
    pool.check_integrity([]).expect("sound books");
}

#[test]
fn a_table_that_is_not_given_back_is_noticed() {
    let mut pool = BlockPool::new(4, 2);
    let table = fill(&mut pool, HOUSE, &[1, 2, 3]);
    assert_eq!(pool.check_integrity([&table]), Ok(()));
    assert!(pool.check_integrity([]).is_err());
    assert_eq!(pool.counts().used, 2);
}
