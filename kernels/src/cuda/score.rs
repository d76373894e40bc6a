//! Log-probabilities of given tokens (`csrc/score.cu`): they stay on the device until they are asked for, those of all calls
//! since then at once.
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::memory::{Bytes, CudaBuf, Scratch, kernel_args, size};
use crate::KernelError;
use crate::contract::{check_room, product, shape_error};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(ScoreArgs { out: u64, logits: u64, targets: u64, vocab: u32 });

/// Memory for scores, on both sides; it grows to the most that are asked for at once.
pub(super) struct ScoreScratch<G: Gpu> {
    /// One for each call since the last answer, and what is left of more from before.
    calls: Vec<Call<G>>,
    pending: usize,
}

/// What one call gives.
struct Call<G: Gpu> {
    /// Scores, then targets.
    memory: Scratch<G>,
    scores: Vec<f32>,
}

impl<G: Gpu> Default for ScoreScratch<G> {
    fn default() -> Self {
        Self { calls: Vec::new(), pending: 0 }
    }
}

/// Has `log softmax(logits[r])[targets[r]]` taken for rows of `vocab` logits.
pub(super) fn score<G: Gpu>(
    (gpu, scratch): (&G, &mut ScoreScratch<G>),
    logits: &CudaBuf<G>,
    vocab: usize,
    targets: &[u32],
) -> Result<()> {
    const OP: &str = "score";
    check_room(OP, "elements of logits", product(&[targets.len(), vocab]), logits.len())?;
    if let Some(&target) = targets.iter().find(|&&target| target as usize >= vocab) {
        return Err(shape_error(OP, "target", target as usize, vocab));
    }
    if targets.is_empty() {
        return Ok(());
    }
    if scratch.pending == scratch.calls.len() {
        scratch.calls.push(Call { memory: Scratch::default(), scores: Vec::new() });
    }
    let calls = scratch.calls.len();
    let Some(call) = scratch.calls.get_mut(scratch.pending) else {
        return Err(shape_error(OP, "calls", scratch.pending, calls));
    };
    call.scores.clear();
    call.scores.resize(targets.len(), 0.0);
    let bytes = size_of_val(targets).next_multiple_of(16);
    let memory = call.memory.fit(gpu, "scores", 2 * bytes)?;
    gpu.upload(memory, bytes, targets.bytes())?;
    let args = ScoreArgs {
        out: memory.address(),
        logits: logits.address(),
        targets: memory.address() + bytes as u64,
        vocab: size(OP, "vocabulary", vocab)?,
    };
    // SAFETY: a row of logits, a target within it and a place for its score for each block.
    unsafe { gpu.launch(Kernel::Score, Launch::blocks(size(OP, "rows", targets.len())?), &args)? };
    scratch.pending += 1;
    Ok(())
}

impl<G: Gpu> ScoreScratch<G> {
    /// All scores since the last call.
    pub(super) fn take(&mut self) -> Scores<'_, G> {
        let pending = std::mem::take(&mut self.pending);
        Scores(self.calls.get_mut(..pending).unwrap_or_default())
    }
}

/// Scores that were asked for.
pub(super) struct Scores<'a, G: Gpu>(&'a mut [Call<G>]);

impl<G: Gpu> Scores<'_, G> {
    /// What to copy from the device, and where to.
    pub(super) fn pieces(&mut self) -> impl Iterator<Item = (&G::Memory, &mut [u8])> {
        self.0.iter_mut().filter_map(|Call { memory, scores }| Some((memory.get()?, scores.bytes_mut())))
    }

    /// Appends what was copied.
    pub(super) fn append_to(self, out: &mut Vec<f32>) {
        out.extend(self.0.iter().flat_map(|call| &call.scores));
    }
}
