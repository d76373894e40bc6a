//! The KV cache's blocks: who holds them and what is in them. Pure bookkeeping; the keys and values themselves lie
//! with the executor.
//!
//! ```text
//!            allocate                       publish (KV written, block full)
//!   free ───────────────▶ used, private ─────────────────────────────▶ used, published
//!    ▲                        │ last holder lets go                      │ ▲
//!    ├────────────────────────┘                   last holder lets go    ▼ │ prefix hit
//!    └────────────────────────────────────────────────────────────── cached (LRU)
//!                              evicted to be allocated anew
//! ```
//!
//! Published blocks form a tree: each knows its parent block, the root being a [`Namespace`]. A hit is verified by the
//! parent's identity and the tokens, so by induction the whole prefix is the same, whatever the hash says. Two rules
//! keep parents in the pool as long as their children:
//! - a table lets go of its blocks from the end, so a child is always the less recently used one;
//! - a sequence that computed a block somebody else has published meanwhile swaps to the published one, so the
//!   ancestors of a published block are held by whoever holds the block.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use weirgate_types::AdapterId;

use crate::lru::LruList;

/// Index of a block in the KV cache.
pub type BlockId = u32;

/// Whose prefixes these are: blocks are shared inside a namespace only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Which adapter the keys and values were computed with.
    pub adapter: Option<AdapterId>,
    /// The request's `cache_salt`.
    pub tenant: u64,
}

/// Under which length-dependent rotary tables a block's tokens were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RopeClass {
    /// The class of the block's first token.
    pub class: u64,
    /// 0 when all tokens of the block have that class; else the prompt length, which determines the others.
    pub mixed: usize,
}

/// All that tells one full block from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey<'a> {
    pub parent: Parent,
    pub class: RopeClass,
    pub tokens: &'a [u32],
}

/// What precedes a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parent {
    Root(Namespace),
    /// A published block and the hash of the chain up to it.
    Block {
        id: BlockId,
        hash: u64,
    },
}

/// A sequence's tokens, as the pool needs them to name its blocks.
#[derive(Clone, Copy)]
pub struct Prefix<'a> {
    pub namespace: Namespace,
    pub tokens: &'a [u32],
    /// The class of the block with this index in the sequence.
    pub class: &'a dyn Fn(usize) -> RopeClass,
}

/// Maps a block's key to its place in the index; the chain comes in through the parent's hash.
pub type BlockHash = Box<dyn Fn(&BlockKey<'_>) -> u64 + Send>;

/// The blocks of one sequence, in order. Only the pool changes it; it must be given back with
/// [`BlockPool::release`], which [`BlockPool::check_integrity`] proves when the engine is idle.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// The first so many are published; their parents are each other.
    published: usize,
}

impl BlockTable {
    pub fn as_slice(&self) -> &[BlockId] {
        &self.blocks
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// How many blocks are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCounts {
    pub free: usize,
    /// Held by nobody, kept for their contents.
    pub cached: usize,
    pub used: usize,
}

/// No block is free and none can be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBlocks;

/// The books do not balance: a defect of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the books do not balance: {0}")]
pub struct IntegrityError(String);

impl IntegrityError {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

#[derive(Debug, Clone, Copy)]
struct Published {
    hash: u64,
    parent: Parent,
    class: RopeClass,
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    refs: u32,
    published: Option<Published>,
}

/// All blocks of one KV cache.
pub struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    /// `[blocks, block_size]` the tokens of published blocks.
    tokens: Vec<u32>,
    free: Vec<BlockId>,
    cached: LruList,
    index: HashMap<u64, BlockId>,
    hash: BlockHash,
}

impl BlockPool {
    /// A pool whose block hashes are SipHashes under a random key, so that nobody can aim at a collision.
    pub fn new(blocks: usize, block_size: usize) -> Self {
        let state = RandomState::new();
        Self::with_hash(blocks, block_size, Box::new(move |key| state.hash_one(key)))
    }

    /// A pool with another hash; a bad one costs hits, never correctness.
    pub fn with_hash(blocks: usize, block_size: usize, hash: BlockHash) -> Self {
        Self {
            block_size,
            blocks: vec![Block::default(); blocks],
            tokens: vec![0; blocks * block_size],
            free: (0..blocks as BlockId).rev().collect(),
            cached: LruList::new(blocks),
            index: HashMap::new(),
            hash,
        }
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that `tokens` tokens need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that could be allocated now.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached.len()
    }

    pub fn counts(&self) -> BlockCounts {
        let (free, cached) = (self.free.len(), self.cached.len());
        BlockCounts { free, cached, used: self.blocks.len() - free - cached }
    }

    /// Whether writing to the table's block `index` needs a block more.
    pub fn is_shared(&self, table: &BlockTable, index: usize) -> bool {
        table.blocks.get(index).is_some_and(|&id| self.blocks[id as usize].refs > 1)
    }

    /// Extends an empty table with the longest cached prefix and returns its length in tokens, at most `limit`;
    /// the last block may then be needed in part only.
    pub fn attach(&mut self, table: &mut BlockTable, prefix: &Prefix<'_>, limit: usize) -> usize {
        let most = self.blocks_for(limit);
        for (i, tokens) in prefix.tokens.chunks_exact(self.block_size).take(most).enumerate() {
            let key = BlockKey { parent: self.parent(table, prefix), class: (prefix.class)(i), tokens };
            let hash = (self.hash)(&key);
            let Some(id) = self.index.get(&hash).copied().filter(|&id| self.holds(id, &key)) else { break };
            self.acquire(id);
            table.blocks.push(id);
            table.published += 1;
        }
        limit.min(table.len() * self.block_size)
    }

    /// Adds private blocks until the table has `blocks` of them.
    ///
    /// # Errors
    /// [`OutOfBlocks`] when fewer can be had; the table keeps those.
    pub fn grow(&mut self, table: &mut BlockTable, blocks: usize) -> Result<(), OutOfBlocks> {
        while table.len() < blocks {
            table.blocks.push(self.allocate().ok_or(OutOfBlocks)?);
        }
        Ok(())
    }

    /// Makes the table's last block private, so that it can be written; returns the copy `(from, to)` that has to
    /// precede the write.
    ///
    /// # Errors
    /// [`OutOfBlocks`] when others hold the block and no block is left for the copy.
    pub fn make_last_writable(
        &mut self,
        table: &mut BlockTable,
    ) -> Result<Option<(BlockId, BlockId)>, OutOfBlocks> {
        let Some(&from) = table.blocks.last() else { return Ok(None) };
        let Block { refs, published } = self.blocks[from as usize];
        if refs == 1 && published.is_none() {
            return Ok(None);
        }
        let last = table.len() - 1;
        let copy = match self.allocate() {
            Some(to) => {
                table.blocks[last] = to;
                self.let_go(from);
                Some((from, to))
            }
            // Nobody else holds it, and nothing is cached, its children included: take it out of the cache.
            None if refs == 1 => {
                self.unpublish(from);
                None
            }
            None => return Err(OutOfBlocks),
        };
        table.published = table.published.min(last);
        Ok(copy)
    }

    /// Publishes the table's full blocks among the first `computed` tokens, whose KV has been written. Where the same
    /// block is published already, the table takes that one instead of its own. On a hash collision the block and all
    /// after it stay private.
    pub fn publish(&mut self, table: &mut BlockTable, prefix: &Prefix<'_>, computed: usize) {
        while (table.published + 1) * self.block_size <= computed {
            let i = table.published;
            let start = i * self.block_size;
            let Some(tokens) = prefix.tokens.get(start..start + self.block_size) else { return };
            let own = table.blocks[i];
            let key = BlockKey { parent: self.parent(table, prefix), class: (prefix.class)(i), tokens };
            let hash = (self.hash)(&key);
            match self.index.get(&hash).copied() {
                None => {
                    self.index.insert(hash, own);
                    self.blocks[own as usize].published =
                        Some(Published { hash, parent: key.parent, class: key.class });
                    self.tokens[own as usize * self.block_size..][..self.block_size].copy_from_slice(tokens);
                }
                Some(id) if self.holds(id, &key) => {
                    self.acquire(id);
                    table.blocks[i] = id;
                    self.let_go(own);
                }
                Some(_) => return,
            }
            table.published += 1;
        }
    }

    /// A second table over the first `blocks` blocks.
    pub fn fork(&mut self, table: &BlockTable, blocks: usize) -> BlockTable {
        let shared: Vec<BlockId> = table.blocks.iter().take(blocks).copied().collect();
        for &id in &shared {
            self.acquire(id);
        }
        BlockTable { published: table.published.min(shared.len()), blocks: shared }
    }

    /// Gives back the blocks beyond the first `blocks`, none of which is published.
    pub fn shrink(&mut self, table: &mut BlockTable, blocks: usize) {
        while table.len() > blocks.max(table.published)
            && let Some(id) = table.blocks.pop()
        {
            self.let_go(id);
        }
    }

    /// Empties the table. Deeper blocks are let go first, so they are evicted first.
    pub fn release(&mut self, table: &mut BlockTable) {
        while let Some(id) = table.blocks.pop() {
            self.let_go(id);
        }
        table.published = 0;
    }

    /// Proves that every block is in exactly one state, that `tables` are all the holders, and that the index and the
    /// tree of published blocks are sound.
    ///
    /// # Errors
    /// [`IntegrityError`] names the first contradiction.
    pub fn check_integrity<'a>(
        &self,
        tables: impl IntoIterator<Item = &'a BlockTable>,
    ) -> Result<(), IntegrityError> {
        let fail = |text| Err(IntegrityError::new(text));
        let mut held = vec![0u32; self.blocks.len()];
        for id in tables.into_iter().flat_map(|table| &table.blocks) {
            held[*id as usize] += 1;
        }
        let mut idle = vec![0u32; self.blocks.len()];
        for id in self.free.iter().copied().chain(self.cached.iter()) {
            idle[id as usize] += 1;
        }
        for (id, block) in self.blocks.iter().enumerate() {
            if block.refs != held[id] {
                return fail(format!("block {id} has {} references and {} holders", block.refs, held[id]));
            }
            if idle[id] != u32::from(block.refs == 0) {
                return fail(format!(
                    "block {id} with {} references is listed {} times",
                    block.refs, idle[id]
                ));
            }
        }
        if let Some(id) = self.free.iter().find(|&&id| self.blocks[id as usize].published.is_some()) {
            return fail(format!("free block {id} is published"));
        }
        if let Some(id) = self.cached.iter().find(|&id| self.blocks[id as usize].published.is_none()) {
            return fail(format!("cached block {id} is not published"));
        }
        self.check_tree()
    }

    fn check_tree(&self) -> Result<(), IntegrityError> {
        let published = self.blocks.iter().filter(|block| block.published.is_some()).count();
        if published != self.index.len() {
            return Err(IntegrityError::new(format!(
                "{published} published blocks, {} indexed",
                self.index.len()
            )));
        }
        for (id, block) in self.blocks.iter().enumerate() {
            let Some(Published { hash, parent, .. }) = block.published else { continue };
            if self.index.get(&hash) != Some(&(id as BlockId)) {
                return Err(IntegrityError::new(format!("block {id} is not where its hash says")));
            }
            let Parent::Block { id: above, hash } = parent else { continue };
            if self.blocks[above as usize].published.is_none_or(|published| published.hash != hash) {
                return Err(IntegrityError::new(format!("block {id} has lost its parent {above}")));
            }
        }
        Ok(())
    }

    /// The parent of the first block of the table that is not published.
    fn parent(&self, table: &BlockTable, prefix: &Prefix<'_>) -> Parent {
        let above = table.published.checked_sub(1).and_then(|i| table.blocks.get(i));
        above
            .and_then(|&id| {
                self.blocks[id as usize].published.map(|above| Parent::Block { id, hash: above.hash })
            })
            .unwrap_or(Parent::Root(prefix.namespace))
    }

    fn holds(&self, id: BlockId, key: &BlockKey<'_>) -> bool {
        let tokens = &self.tokens[id as usize * self.block_size..][..self.block_size];
        self.blocks[id as usize].published.is_some_and(|published| {
            published.parent == key.parent && published.class == key.class && tokens == key.tokens
        })
    }

    fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let id = self.cached.pop()?;
                self.unpublish(id);
                id
            }
        };
        self.blocks[id as usize].refs = 1;
        Some(id)
    }

    fn unpublish(&mut self, id: BlockId) {
        if let Some(published) = self.blocks[id as usize].published.take() {
            self.index.remove(&published.hash);
        }
    }

    fn acquire(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        if block.refs == 0 {
            self.cached.remove(id);
        }
        block.refs += 1;
    }

    fn let_go(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        block.refs -= 1;
        if block.refs == 0 {
            match block.published {
                Some(_) => self.cached.push(id),
                None => self.free.push(id),
            }
        }
    }
}
