//! The paged keys and values.
//!
//! Within a block, each head's keys are a `[block_size, head_dim]` matrix in panels, its values a
//! `[head_dim, block_size]` one: scores and outputs are then both products with panels (see [`super::panel`]).

use super::panel::{LANES, Panels, panel_len, with_panels};
use super::shape_error;
use super::step::Step;
use crate::{KernelError, KvShape, KvType};

/// The KV cache of the CPU device.
pub struct KvCache {
    shape: KvShape,
    /// All keys, then all values: `[layers, blocks, kv_heads]` heads each.
    data: Panels,
    /// Where the values start.
    values_at: usize,
}

/// Where things are in a cache of one shape, in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvLayout {
    shape: KvShape,
    /// One head's keys in one block.
    pub(crate) keys: usize,
    /// One head's values in one block.
    pub(crate) values: usize,
}

impl KvLayout {
    pub(crate) fn new(shape: KvShape) -> Self {
        let keys = shape.block_size.div_ceil(LANES).saturating_mul(panel_len(shape.head_dim));
        let values = shape.head_dim.div_ceil(LANES).saturating_mul(panel_len(shape.block_size));
        Self { shape, keys, values }
    }

    /// Index of a head's keys or values of one block, in units of `keys` or `values`.
    pub(crate) fn head(&self, layer: usize, block: usize, head: usize) -> usize {
        (layer * self.shape.blocks + block) * self.shape.kv_heads + head
    }
}

impl KvCache {
    /// `commit`: takes the pages now.
    pub(crate) fn new(shape: KvShape, commit: bool) -> Result<Self, KernelError> {
        const OP: &str = "kv_cache";
        for (what, size) in
            [("block_size", shape.block_size), ("kv_heads", shape.kv_heads), ("head_dim", shape.head_dim)]
        {
            if size == 0 {
                return Err(shape_error(OP, what, 0, 1));
            }
        }
        let KvType::Float(dtype) = shape.dtype else {
            let message = format!("a KV cache in {} takes a GPU", shape.dtype.name());
            return Err(KernelError::Device { device: "cpu", message });
        };
        let layout = KvLayout::new(shape);
        let heads = shape.layers.saturating_mul(shape.blocks).saturating_mul(shape.kv_heads);
        let values_at = heads.saturating_mul(layout.keys);
        let len = heads.saturating_mul(layout.values).saturating_add(values_at);
        let data = match commit {
            true => Panels::committed("KV cache", dtype, len)?,
            false => Panels::zeroed("KV cache", dtype, len)?,
        };
        Ok(Self { shape, data, values_at })
    }

    pub(crate) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Keys up to [`KvCache::values_at`], then values.
    pub(crate) fn data(&self) -> &Panels {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut Panels {
        &mut self.data
    }

    pub(crate) fn values_at(&self) -> usize {
        self.values_at
    }

    pub(crate) fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), KernelError> {
        let shape = self.shape;
        for &(from, to) in pairs {
            for block in [from as usize, to as usize] {
                if block >= shape.blocks {
                    return Err(shape_error("copy_blocks", "block", block, shape.blocks));
                }
            }
        }
        let layout = KvLayout::new(shape);
        with_panels!(&mut self.data, data => {
            let (keys, values) = data.split_at_mut(self.values_at);
            for (half, head_len) in [(keys, layout.keys), (values, layout.values)] {
                let len = shape.kv_heads * head_len;
                for &(from, to) in pairs {
                    for layer in 0..shape.layers {
                        let start = |block: u32| (layer * shape.blocks + block as usize) * len;
                        half.copy_within(start(from)..start(from) + len, start(to));
                    }
                }
            }
        });
        Ok(())
    }

    pub(crate) fn check_layer(&self, op: &'static str, layer: usize) -> Result<(), KernelError> {
        if layer < self.shape.layers {
            Ok(())
        } else {
            Err(shape_error(op, "layer", layer, self.shape.layers))
        }
    }

    /// Every sequence's block table covers its tokens and names blocks of this cache.
    pub(crate) fn check_tables(&self, op: &'static str, step: &Step) -> Result<(), KernelError> {
        for (seq, &kv_len) in step.kv_len().iter().enumerate() {
            let table = step.table(seq);
            let needed = (kv_len as usize).div_ceil(self.shape.block_size);
            if table.len() < needed {
                return Err(shape_error(op, "blocks of a sequence", table.len(), needed));
            }
        }
        match step.block_tables().iter().find(|&&block| block as usize >= self.shape.blocks) {
            Some(&block) => Err(shape_error(op, "block", block as usize, self.shape.blocks)),
            None => Ok(()),
        }
    }

    /// Every slot of the step is in this cache.
    pub(crate) fn check_slots(&self, op: &'static str, step: &Step) -> Result<(), KernelError> {
        let slots = self.shape.blocks * self.shape.block_size;
        match step.slots().iter().find(|&&slot| slot as usize >= slots) {
            Some(&slot) => Err(shape_error(op, "slot", slot as usize, slots)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[cfg_attr(not(target_os = "linux"), ignore = "it is read from /proc")]
    #[test]
    fn memory_is_taken_at_once_or_as_it_fills() {
        const MIB: usize = 1 << 20;
        let dtype = DType::F32.into();
        let shape = KvShape { layers: 1, blocks: 8 << 10, block_size: 16, kv_heads: 4, head_dim: 64, dtype };
        let bytes = shape.bytes_per_block() * shape.blocks;
        assert_eq!(bytes, 256 * MIB);
        let before = resident_bytes();
        let growing = KvCache::new(shape, false).unwrap();
        // Other tests take and give back at the same time.
        assert!(resident_bytes() < before + 128 * MIB);
        let committed = KvCache::new(shape, true).unwrap();
        assert!(resident_bytes() > before + 128 * MIB);
        assert_eq!(growing.shape(), committed.shape());
    }
}
