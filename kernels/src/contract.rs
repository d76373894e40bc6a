//! The shape contracts of the ops, as far as they are the same on every device.

use crate::{HeadCounts, KernelError, PackedInputs, PackedLimits, StepInputs};

type Result<T> = std::result::Result<T, KernelError>;

pub(crate) fn shape_error(op: &'static str, what: &'static str, got: usize, expected: usize) -> KernelError {
    KernelError::Shape { op, what, got, expected }
}

/// `got` must be `expected`.
pub(crate) fn check(op: &'static str, what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(shape_error(op, what, got, expected)) }
}

/// The product of sizes; too large to pass any check where it overflows.
pub(crate) fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
}

/// Elements of one token's queries, keys and values.
pub(crate) fn qkv_width(heads: HeadCounts, head_dim: usize) -> usize {
    product(&[heads.q.saturating_add(heads.kv.saturating_mul(2)), head_dim])
}

/// `needed` must fit into `room`.
pub(crate) fn check_room(op: &'static str, what: &'static str, needed: usize, room: usize) -> Result<()> {
    if needed <= room { Ok(()) } else { Err(shape_error(op, what, room, needed)) }
}

/// The shape contract of [`StepInputs`], as far as it needs no cache.
pub(crate) fn check_inputs(op: &'static str, inputs: &StepInputs<'_>) -> Result<()> {
    let (tokens, seqs) = (inputs.ids.len(), inputs.kv_len.len());
    check(op, "positions", inputs.positions.len(), tokens)?;
    check(op, "slots", inputs.slots.len(), tokens)?;
    check(op, "cu_q", inputs.cu_q.len(), seqs + 1)?;
    check(op, "block_offsets", inputs.block_offsets.len(), seqs + 1)?;
    check(op, "adapters", inputs.adapters.len(), seqs)?;
    check(op, "first of cu_q", inputs.cu_q[0] as usize, 0)?;
    check(op, "last of cu_q", inputs.cu_q[seqs] as usize, tokens)?;
    check(op, "first of block_offsets", inputs.block_offsets[0] as usize, 0)?;
    check(op, "last of block_offsets", inputs.block_offsets[seqs] as usize, inputs.block_tables.len())?;
    // Order before use: with it and the ends above, every range below is in bounds.
    for pair in inputs.cu_q.windows(2) {
        if pair[1] <= pair[0] {
            return Err(shape_error(op, "next of cu_q", pair[1] as usize, pair[0] as usize + 1));
        }
    }
    for pair in inputs.block_offsets.windows(2) {
        if pair[1] < pair[0] {
            return Err(shape_error(op, "next of block_offsets", pair[1] as usize, pair[0] as usize));
        }
    }
    for (seq, &kv_len) in inputs.kv_len.iter().enumerate() {
        let own = &inputs.positions[inputs.cu_q[seq] as usize..inputs.cu_q[seq + 1] as usize];
        let first = (kv_len as usize).checked_sub(own.len()).ok_or(shape_error(
            op,
            "kv_len",
            kv_len as usize,
            own.len(),
        ))?;
        for (i, &position) in own.iter().enumerate() {
            check(op, "position", position as usize, first + i)?;
        }
    }
    for &(cos, sin) in inputs.rope {
        check(op, "sines", sin.len(), cos.len())?;
        let per_token = cos.len() / tokens.max(1);
        check(op, "cosines", cos.len(), per_token * tokens)?;
    }
    Ok(())
}

/// The shape contract of [`PackedInputs`], in a step within `limits`.
pub(crate) fn check_packed(op: &'static str, inputs: &PackedInputs<'_>, limits: &PackedLimits) -> Result<()> {
    let tokens = inputs.ids.len();
    check_room(op, "tokens", tokens, limits.tokens)?;
    check(op, "positions", inputs.positions.len(), tokens)?;
    check(op, "types", inputs.types.len(), tokens)?;
    let seqs = inputs.cu.len().checked_sub(1).ok_or(shape_error(op, "cu", 0, 1))?;
    check_room(op, "sequences", seqs, limits.seqs)?;
    check(op, "first of cu", inputs.cu[0] as usize, 0)?;
    check(op, "last of cu", inputs.cu[seqs] as usize, tokens)?;
    for pair in inputs.cu.windows(2) {
        if pair[1] <= pair[0] {
            return Err(shape_error(op, "next of cu", pair[1] as usize, pair[0] as usize + 1));
        }
        check_room(op, "tokens of a sequence", (pair[1] - pair[0]) as usize, limits.seq_len)?;
    }
    for &(cos, sin) in inputs.rope {
        check(op, "sines", sin.len(), cos.len())?;
        check(op, "cosines", cos.len(), cos.len() / tokens.max(1) * tokens)?;
    }
    Ok(())
}
