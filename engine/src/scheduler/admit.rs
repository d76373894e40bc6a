//! Letting sequences in, with what the cache already has of them.

use crate::block_pool::{BlockPool, Prefix};
use crate::sequence::{SeqKey, SeqStatus, Sequence};

use super::{RopeRule, Scheduler};

impl Scheduler {
    /// Moves a waiting sequence to place `at` of the running ones if the blocks for its present tokens are there.
    pub(super) fn admit(&mut self, key: SeqKey, at: usize) -> bool {
        if self.waiting.get(&key).is_none_or(|sequence| sequence.status == SeqStatus::Unborn) {
            return false;
        }
        let Some(mut sequence) = self.waiting.remove(&key) else { return false };
        let mut forked = !sequence.table.is_empty();
        if !forked && self.prefix_cache {
            attach(&mut sequence, &mut self.pool, &self.rope);
        }
        while !fits(&sequence, &self.pool) {
            if self.strip_waiting() {
                continue;
            }
            self.pool.release(&mut sequence.table);
            sequence.computed = 0;
            if !forked {
                self.waiting.insert(key, sequence);
                return false;
            }
            forked = false;
            if self.prefix_cache {
                attach(&mut sequence, &mut self.pool, &self.rope);
            }
        }
        sequence.status = SeqStatus::Running;
        self.report_scheduled(&mut sequence, forked);
        self.running.insert(at, sequence);
        true
    }

    /// Gives a running sequence that has to start over what the cache has of it.
    pub(super) fn attach_running(&mut self, at: usize) {
        if self.prefix_cache {
            attach(&mut self.running[at], &mut self.pool, &self.rope);
        }
    }

    /// Takes the shared blocks from the last waiting fork that has any; false if none has.
    pub(super) fn strip_waiting(&mut self) -> bool {
        let holder = self.waiting.values_mut().rev().find(|sequence| !sequence.table.is_empty());
        let Some(sequence) = holder else { return false };
        self.pool.release(&mut sequence.table);
        sequence.computed = 0;
        true
    }

    /// Shares the prompt's blocks with the siblings of a sequence that has computed it. Each of them has only the last
    /// prompt token left to compute, to draw from.
    pub(super) fn fork(&mut self, at: usize) {
        let first = &mut self.running[at];
        first.has_unborn = false;
        let prompt_len = first.prompt_len();
        let blocks = self.pool.blocks_for(prompt_len);
        let from = SeqKey { index: first.key.index + 1, ..first.key };
        let to = SeqKey { index: u32::MAX, ..first.key };
        for (_, sibling) in self.waiting.range_mut(from..=to) {
            sibling.status = SeqStatus::Waiting;
            sibling.table = self.pool.fork(&first.table, blocks);
            sibling.computed = prompt_len - 1;
        }
    }

    /// Lets the next sibling compute the prompt in place of one that ended before it had.
    pub(super) fn promote(&mut self, ended: SeqKey) {
        let from = SeqKey { index: ended.index + 1, ..ended };
        let to = SeqKey { index: u32::MAX, ..ended };
        let mut siblings = self.waiting.range_mut(from..=to).map(|(_, sibling)| sibling);
        if let Some(next) = siblings.next() {
            next.status = SeqStatus::Waiting;
            next.has_unborn = siblings.next().is_some();
        }
    }

    fn report_scheduled(&mut self, sequence: &mut Sequence, forked: bool) {
        if sequence.cached_tokens.is_some() {
            return;
        }
        let cached = sequence.computed as u32;
        sequence.cached_tokens = Some(cached);
        self.ledger.scheduled(&sequence.account, cached);
        if !forked {
            self.prefix_queries += sequence.len() as u64;
            self.prefix_hits += u64::from(cached);
        }
        if let Some(live) = self.requests.get_mut(&sequence.request.id)
            && !live.started
        {
            live.started = true;
            self.unstarted -= 1;
        }
    }
}

/// Takes the longest prefix that the cache has and that need not be computed.
fn attach(sequence: &mut Sequence, pool: &mut BlockPool, rope: &RopeRule) {
    let (limit, block_size) = (sequence.cacheable(), pool.block_size());
    let mut table = std::mem::take(&mut sequence.table);
    let prefix = Prefix {
        namespace: sequence.request.namespace,
        tokens: &sequence.tokens,
        class: &|index| sequence.rope_class(rope, index, block_size),
    };
    let cached = pool.attach(&mut table, &prefix, limit);
    sequence.table = table;
    sequence.computed = cached;
}

/// Whether the blocks for all present tokens can be had now, the copy of a shared last block included.
fn fits(sequence: &Sequence, pool: &BlockPool) -> bool {
    let held = sequence.table.len();
    let copies = sequence.computed < held * pool.block_size() && pool.is_shared(&sequence.table, held - 1);
    pool.blocks_for(sequence.len()) - held + usize::from(copies) <= pool.available()
}
