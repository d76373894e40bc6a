//! Log-probabilities of given tokens (`csrc/score.cu`).
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::memory::{Bytes, CudaBuf, Scratch, kernel_args, size};
use crate::KernelError;
use crate::contract::{check_room, product, shape_error};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(ScoreArgs { out: u64, logits: u64, targets: u64, vocab: u32 });

/// Appends `log softmax(logits[r])[targets[r]]` to `out`, for rows of `vocab` logits.
pub(super) fn score<G: Gpu>(
    (gpu, scratch): (&G, &mut Scratch<G>),
    logits: &CudaBuf<G>,
    vocab: usize,
    targets: &[u32],
    out: &mut Vec<f32>,
) -> Result<()> {
    const OP: &str = "score";
    check_room(OP, "elements of logits", product(&[targets.len(), vocab]), logits.len())?;
    if let Some(&target) = targets.iter().find(|&&target| target as usize >= vocab) {
        return Err(shape_error(OP, "target", target as usize, vocab));
    }
    if targets.is_empty() {
        return Ok(());
    }
    let bytes = size_of_val(targets).next_multiple_of(16);
    let memory = scratch.fit(gpu, "scores", 2 * bytes)?;
    gpu.upload(memory, 0, targets.bytes())?;
    let args = ScoreArgs {
        out: memory.address() + bytes as u64,
        logits: logits.address(),
        targets: memory.address(),
        vocab: size(OP, "vocabulary", vocab)?,
    };
    // SAFETY: a row of logits, a target within it and a place for its score for each block.
    unsafe { gpu.launch(Kernel::Score, Launch::blocks(size(OP, "rows", targets.len())?), &args)? };
    let start = out.len();
    out.resize(start + targets.len(), 0.0);
    gpu.download(memory, bytes, out.get_mut(start..).unwrap_or_default().bytes_mut())
}
