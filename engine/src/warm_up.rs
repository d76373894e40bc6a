//! Steps as large as any can be, which a device takes before it serves: what they need is all that serving will need.

use std::sync::Arc;

use weirgate_kernels::SampleParams;

use crate::decoder::LEAST_SPARED;
use crate::{Batch, LoadOptions, Sample, Score};

/// Log-probabilities that a draw is asked for at most, or nearly.
const MOST_LOGPROBS: u32 = 32;

/// Each sequence of the largest step has blocks of its own.
pub(crate) fn blocks(options: &LoadOptions) -> usize {
    options.max_step_tokens.div_ceil(options.block_size) + options.max_seqs
}

/// Steps full of prompts, and steps of many and of few sequences as long as any, which may need more memory than those.
pub(crate) fn steps(options: &LoadOptions, vocab: usize) -> ([Batch; 2], impl Iterator<Item = Batch>) {
    let all = prompts(options, &Draw::greediest(options, vocab));
    let some = some_rows(all.clone());
    ([all, some], longest_steps(options))
}

/// The step with as many rows wanted as may be short of all: which they are takes room, too.
fn some_rows(mut batch: Batch) -> Batch {
    batch.scores.clear();
    batch.samples.drain(..batch.samples.len().saturating_sub(1));
    let tokens = batch.tokens() as u32;
    batch.wanted = Some(((LEAST_SPARED as u32).min(tokens.saturating_sub(1))..tokens).collect());
    batch
}

fn longest_steps(options: &LoadOptions) -> impl Iterator<Item = Batch> {
    let most = options.max_seqs.clamp(1, options.max_step_tokens.max(1));
    let counts = std::iter::successors(Some(most), |count| (*count > 1).then_some(count / 2));
    counts.map(|count| decodes(options, count))
}

/// How tokens are drawn to try a step out.
#[derive(Default)]
struct Draw {
    params: Arc<SampleParams>,
    mask: Option<Arc<[u32]>>,
    /// Tokens of its history.
    history: usize,
}

impl Draw {
    /// One that uses all memory that any could.
    fn greediest(options: &LoadOptions, vocab: usize) -> Self {
        let params = SampleParams {
            seed: Some(0),
            // All candidates are sorted, and the whole history is looked at.
            tfs_z: 0.5,
            repetition_penalty: 1.5,
            top_n: MOST_LOGPROBS,
            ..SampleParams::default()
        };
        let mask = vec![u32::MAX; vocab.div_ceil(32)].into();
        Self { params: Arc::new(params), mask: Some(mask), history: options.max_seq_len }
    }
}

/// As many tokens as a step may have, of as many sequences, a token drawn for each, and all scored.
fn prompts(options: &LoadOptions, draw: &Draw) -> Batch {
    let tokens = options.max_step_tokens;
    let seqs = options.max_seqs.clamp(1, tokens.max(1));
    let mut batch = empty(draw);
    for seq in 0..seqs {
        push_prompt(&mut batch, tokens / seqs + usize::from(seq < tokens % seqs), options.block_size, draw);
    }
    batch.scores.extend((0..tokens as u32).map(|row| Score { row, target: 0 }));
    batch
}

/// The last token of `count` sequences of the greatest length. Each has a last block of its own to write to; all others
/// are the first one, since what is read does not matter.
fn decodes(options: &LoadOptions, count: usize) -> Batch {
    let draw = Draw { history: 1, ..Draw::default() };
    let last = options.max_seq_len.saturating_sub(1);
    let blocks = options.max_seq_len.div_ceil(options.block_size).max(1);
    let mut batch = empty(&draw);
    for own in 1..=count {
        batch.ids.push(0);
        batch.positions.push(last as u32);
        batch.slots.push((own * options.block_size + last % options.block_size) as u32);
        batch.rope_len.push(last as u32 + 1);
        batch.block_tables.resize(batch.block_tables.len() + blocks - 1, 0);
        batch.block_tables.push(own as u32);
        end_sequence(&mut batch, last + 1, &draw);
    }
    batch
}

/// All sequences have the one history.
fn empty(draw: &Draw) -> Batch {
    Batch { cu_q: vec![0], block_offsets: vec![0], history: vec![0; draw.history], ..Batch::default() }
}

/// Closes the sequence whose tokens and blocks were pushed, and draws a token for it.
fn end_sequence(batch: &mut Batch, kv_len: usize, draw: &Draw) {
    batch.block_offsets.push(batch.block_tables.len() as u32);
    batch.cu_q.push(batch.ids.len() as u32);
    batch.kv_len.push(kv_len as u32);
    batch.adapters.push(None);
    batch.samples.push(Sample {
        row: batch.ids.len().saturating_sub(1) as u32,
        params: Arc::clone(&draw.params),
        history: 0..draw.history,
        prompt_len: kv_len,
        draw: 0,
        surprise: 0.0,
        banned: None,
        mask: draw.mask.clone(),
    });
}

/// Appends a prompt of `len` tokens in blocks of its own.
fn push_prompt(batch: &mut Batch, len: usize, block_size: usize, draw: &Draw) {
    let first_block = batch.block_tables.len();
    for position in 0..len as u32 {
        batch.ids.push(0);
        batch.positions.push(position);
        batch.slots.push((first_block * block_size) as u32 + position);
        batch.rope_len.push(position + 1);
    }
    let blocks = first_block..first_block + len.div_ceil(block_size);
    batch.block_tables.extend(blocks.map(|block| block as u32));
    end_sequence(batch, len, draw);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_step_fills_every_limit_and_its_blocks_suffice() {
        for (tokens, seqs) in [(64, 16), (70, 16), (5, 16), (33, 1)] {
            let options = LoadOptions {
                threads: 1,
                block_size: 16,
                blocks: 0,
                max_step_tokens: tokens,
                max_seqs: seqs,
                max_seq_len: 128,
                kv_dtype: None,
                commit_cache: true,
            };
            let draw = Draw::greediest(&options, 100);
            let batch = prompts(&options, &draw);
            assert_eq!((batch.tokens(), batch.seqs()), (tokens, seqs.min(tokens)));
            assert_eq!(batch.samples.len(), batch.seqs());
            assert!(batch.block_tables.len() <= blocks(&options));
            let mut slots = batch.slots.clone();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), tokens, "no two tokens share a slot");
            assert!(batch.samples.iter().zip(&batch.cu_q[1..]).all(|(sample, end)| sample.row + 1 == *end));
            let steps: Vec<Batch> = longest_steps(&options).collect();
            let counts: Vec<usize> = steps.iter().map(Batch::seqs).collect();
            assert_eq!((counts[0], counts[counts.len() - 1]), (seqs.min(tokens), 1));
            for step in &steps {
                let limit = (blocks(&options) * options.block_size) as u32;
                let slots: std::collections::BTreeSet<u32> = step.slots.iter().copied().collect();
                assert!(slots.len() == step.seqs() && slots.iter().all(|slot| *slot < limit));
            }
        }
    }
}
