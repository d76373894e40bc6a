//! Tensor parallelism: a model as several narrower ones.
//!
//! Each shard has some of the heads and some of the feed-forward block's width, so rows of the matrices that lead there
//! and columns of those that lead back. What these give are partial sums, which the shards add up. Norms and embedding
//! each shard has whole; the head only the first, which draws the tokens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::{DType, ModelError, ModelSpec, ScaledRows, TensorSource, TensorView};

/// One of `count` shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

impl Shard {
    /// This shard's part of `size`, in pieces of `piece`; where there are fewer pieces than shards, neighbours share
    /// one. `None` if neither number divides the other.
    fn part(self, size: usize, piece: usize) -> Option<Range<usize>> {
        let pieces = size / piece.max(1);
        if pieces == 0 || (!pieces.is_multiple_of(self.count) && !self.count.is_multiple_of(pieces)) {
            return None;
        }
        let start = self.index * pieces / self.count;
        Some(start * piece..(start + (pieces / self.count).max(1)) * piece)
    }
}

/// What a shard has of a tensor; of the others it has all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Ranges of rows, one after another.
    Rows(Vec<Range<usize>>),
    Cols(Range<usize>),
}

/// The tensors of one shard of a model.
pub struct ShardedSource<'a> {
    tensors: &'a dyn TensorSource,
    parts: HashMap<String, Part>,
}

impl ModelSpec {
    /// The model that `shard` computes: its own heads and width. Adding up what its attention and feed-forward blocks
    /// give with those of the other shards makes the whole model's.
    ///
    /// # Errors
    /// Heads or widths that do not come out even; a tensor that is missing or of another shape than the model implies.
    pub fn shard<'a>(
        &self,
        shard: Shard,
        tensors: &'a dyn TensorSource,
    ) -> Result<(ModelSpec, ShardedSource<'a>), ModelError> {
        let uneven = |what, size| ModelError::Shards { what, size, count: shard.count };
        let even = |what, size: usize| match size.checked_div(shard.count) {
            Some(part) if part > 0 && part * shard.count == size => Ok(part),
            _ => Err(uneven(what, size)),
        };
        let own = |size, piece, what| shard.part(size, piece).ok_or(uneven(what, size / piece.max(1)));
        let mut spec = self.clone();
        // A part's shape does not tell whether the whole tensor is as large as it should be.
        self.check_tensors(tensors)?;
        spec.heads = even("num_attention_heads", self.heads)?;
        spec.intermediate_size = even("intermediate_size", self.intermediate_size)?;
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let q = own(q_width, self.head_dim, "num_attention_heads")?;
        let kv = own(kv_width, self.head_dim, "num_key_value_heads")?;
        let width = own(self.intermediate_size, 1, "intermediate_size")?;
        spec.kv_heads = kv.len() / self.head_dim;
        let mut parts = HashMap::new();
        for layer in &mut spec.tensors.layers {
            let qkv = [(q_width, &q), (kv_width, &kv), (kv_width, &kv)];
            let gate_up = [(self.intermediate_size, &width); 2];
            for (names, sizes) in [
                (&layer.qkv, &qkv[..]),
                (&layer.qkv_bias, &qkv),
                (&layer.gate_up, &gate_up),
                (&layer.gate_up_bias, &gate_up),
            ] {
                stacked(names, sizes, &mut parts);
            }
            parts.insert(layer.output.clone(), Part::Cols(q.clone()));
            parts.insert(layer.down.clone(), Part::Cols(width.clone()));
            // Added once.
            if shard.index > 0 {
                (layer.output_bias, layer.down_bias) = (None, None);
            }
        }
        if shard.index > 0
            && let Some(head) = spec.tensors.head.take()
        {
            parts.insert(head, Part::Rows(Vec::new()));
        }
        Ok((spec, ShardedSource { tensors, parts }))
    }
}

/// Rows of tensors that are stacked in the order of `sizes`: one tensor each, or one for all.
fn stacked(names: &[String], sizes: &[(usize, &Range<usize>)], parts: &mut HashMap<String, Part>) {
    if let [fused] = names {
        let mut start = 0;
        let mut ranges = Vec::with_capacity(sizes.len());
        for (size, own) in sizes {
            ranges.push(start + own.start..start + own.end);
            start += size;
        }
        parts.insert(fused.clone(), Part::Rows(ranges));
        return;
    }
    for (name, (_, own)) in names.iter().zip(sizes) {
        parts.insert(name.clone(), Part::Rows(vec![(*own).clone()]));
    }
}

impl ShardedSource<'_> {
    fn error(&self, name: &str, message: String) -> ModelError {
        ModelError::Tensor { file: self.tensors.file(name).into(), tensor: name.into(), message }
    }

    fn outside(&self, name: &str, part: &Part, shape: &[usize]) -> ModelError {
        self.error(name, format!("has shape {shape:?}, too small for a shard's part {part:?}"))
    }

    /// Bytes of a row.
    fn row_bytes(&self, name: &str, dtype: DType, cols: usize) -> Result<usize, ModelError> {
        let blocks = dtype.block_elements();
        let message =
            || format!("{cols} columns are not whole blocks of {blocks} ({dtype}), so it cannot be split so");
        dtype.bytes_of(cols).ok_or_else(|| self.error(name, message()))
    }
}

/// The bytes of `part` in rows of `row` bytes; of a part of columns, `columns` says which bytes of a row. `None` where
/// there are fewer.
fn own_bytes<'a>(
    part: &Part,
    bytes: Cow<'a, [u8]>,
    row: usize,
    columns: Range<usize>,
) -> Option<Cow<'a, [u8]>> {
    Some(match (part, bytes) {
        (Part::Rows(ranges), Cow::Borrowed(bytes)) if ranges.len() == 1 => {
            let range = ranges.first().cloned().unwrap_or_default();
            bytes.get(range.start * row..range.end * row)?.into()
        }
        (Part::Rows(ranges), bytes) => {
            let mut own = Vec::new();
            for range in ranges {
                own.extend_from_slice(bytes.get(range.start * row..range.end * row)?);
            }
            own.into()
        }
        (Part::Cols(_), bytes) => {
            let mut own = Vec::with_capacity(bytes.len() / row.max(1) * columns.len());
            for row in bytes.chunks_exact(row.max(1)) {
                own.extend_from_slice(row.get(columns.clone())?);
            }
            own.into()
        }
    })
}

fn part_shape(part: &Part, shape: &[usize]) -> Vec<usize> {
    match (part, shape) {
        (Part::Rows(ranges), [_, rest @ ..]) => {
            let rows = ranges.iter().map(Range::len).sum();
            std::iter::once(rows).chain(rest.iter().copied()).collect()
        }
        (Part::Cols(range), [rows, _]) => vec![*rows, range.len()],
        _ => shape.to_vec(),
    }
}

impl TensorSource for ShardedSource<'_> {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let view = self.tensors.tensor(name)?;
        let Some(part) = self.parts.get(name) else { return Ok(view) };
        let TensorView { dtype, shape, bytes } = view;
        let row = self.row_bytes(name, dtype, shape.iter().skip(1).product())?;
        let columns = match part {
            Part::Rows(_) => 0..row,
            Part::Cols(range) => {
                let start = self.row_bytes(name, dtype, range.start)?;
                start..start + self.row_bytes(name, dtype, range.len())?
            }
        };
        let own = own_bytes(part, bytes, row, columns).ok_or_else(|| self.outside(name, part, &shape))?;
        Ok(TensorView { dtype, shape: part_shape(part, &shape), bytes: own })
    }

    fn scaled_rows(&self, name: &str) -> Result<Option<ScaledRows<'_>>, ModelError> {
        let Some(whole) = self.tensors.scaled_rows(name)? else { return Ok(None) };
        let Some(part) = self.parts.get(name) else { return Ok(Some(whole)) };
        let ScaledRows { rows, cols, codes, scales } = whole;
        let outside = || self.outside(name, part, &[rows, cols]);
        let (columns, scales) = match part {
            Part::Rows(ranges) => {
                let own: Option<Vec<&[f32]>> = ranges.iter().map(|range| scales.get(range.clone())).collect();
                (0..cols, own.ok_or_else(outside)?.concat())
            }
            Part::Cols(range) => (range.clone(), scales),
        };
        let codes = own_bytes(part, codes, cols, columns.clone()).ok_or_else(outside)?;
        Ok(Some(ScaledRows { rows: scales.len(), cols: columns.len(), codes, scales }))
    }

    fn info(&self, name: &str) -> Result<(DType, Vec<usize>), ModelError> {
        let (dtype, shape) = self.tensors.info(name)?;
        Ok(match self.parts.get(name) {
            Some(part) => (dtype, part_shape(part, &shape)),
            None => (dtype, shape),
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    fn file(&self, name: &str) -> &str {
        self.tensors.file(name)
    }

    fn release(&self, name: &str) {
        self.tensors.release(name);
    }

    fn total_bytes(&self) -> u64 {
        let bytes = |source: &dyn TensorSource, name: &str| {
            let (dtype, shape) = source.info(name).ok()?;
            dtype.bytes_of(shape.iter().product())
        };
        let others = self
            .parts
            .keys()
            .filter_map(|name| Some(bytes(self.tensors, name)?.saturating_sub(bytes(self, name)?) as u64));
        self.tensors.total_bytes().saturating_sub(others.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four rows of three columns, and their scales.
    struct Stored;

    impl TensorSource for Stored {
        fn tensor(&self, _: &str) -> Result<TensorView<'_>, ModelError> {
            Ok(TensorView { dtype: DType::F16, shape: vec![4, 3], bytes: vec![0; 24].into() })
        }

        fn scaled_rows(&self, _: &str) -> Result<Option<ScaledRows<'_>>, ModelError> {
            let scales = vec![0.5, 1.5, 2.5, 3.5];
            Ok(Some(ScaledRows { rows: 4, cols: 3, codes: b"abcdefghijkl".into(), scales }))
        }

        fn contains(&self, _: &str) -> bool {
            true
        }

        fn file(&self, _: &str) -> &str {
            "model.safetensors"
        }

        fn total_bytes(&self) -> u64 {
            24
        }
    }

    #[test]
    fn rows_with_scales_keep_theirs() {
        let own = |part: Option<Part>| {
            let parts = part.map(|part| ("m".to_owned(), part)).into_iter().collect();
            ShardedSource { tensors: &Stored, parts }.scaled_rows("m").map(|found| {
                let ScaledRows { rows, cols, codes, scales } = found.unwrap();
                (rows, cols, codes.into_owned(), scales)
            })
        };
        assert_eq!(own(None).unwrap(), (4, 3, b"abcdefghijkl".to_vec(), vec![0.5, 1.5, 2.5, 3.5]));
        let rows = |ranges: &[Range<usize>]| own(Some(Part::Rows(ranges.into())));
        assert_eq!(rows(std::slice::from_ref(&(1..3))).unwrap(), (2, 3, b"defghi".to_vec(), vec![1.5, 2.5]));
        assert_eq!(rows(&[0..1, 3..4]).unwrap(), (2, 3, b"abcjkl".to_vec(), vec![0.5, 3.5]));
        let cols = |range| own(Some(Part::Cols(range)));
        assert_eq!(cols(1..3).unwrap(), (4, 2, b"bcefhikl".to_vec(), vec![0.5, 1.5, 2.5, 3.5]));
        assert!(rows(std::slice::from_ref(&(3..5))).unwrap_err().to_string().contains("[4, 3]"));
        assert!(cols(2..4).unwrap_err().to_string().contains("[4, 3]"));
    }
}
