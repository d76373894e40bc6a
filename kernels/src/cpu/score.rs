//! Log-probabilities of given tokens under the plain softmax.

use super::isa::{Dispatch, Kernel, Simd, load_part};
use super::math::exp;
use super::panel::LANES;
use super::pool::Pool;
use super::{check_room, product, shape_error};
use crate::KernelError;

/// Appends `log softmax(logits[r])[targets[r]]` to `out`, for rows of `vocab` logits.
pub(crate) fn score(
    pool: &Pool,
    isa: Dispatch,
    logits: &[f32],
    vocab: usize,
    targets: &[u32],
    out: &mut Vec<f32>,
) -> Result<(), KernelError> {
    const OP: &str = "score";
    check_room(OP, "elements of logits", product(&[targets.len(), vocab]), logits.len())?;
    if let Some(&target) = targets.iter().find(|&&target| target as usize >= vocab) {
        return Err(shape_error(OP, "target", target as usize, vocab));
    }
    let start = out.len();
    out.resize(start + targets.len(), 0.0);
    pool.for_rows(&mut out[start..], 1, 1, |_, row, out| {
        let logits = &logits[row * vocab..][..vocab];
        if let (Some(out), Some(&target)) = (out.first_mut(), targets.get(row)) {
            isa.run(LogProb { logits, target: target as usize, out });
        }
    })
}

struct LogProb<'a> {
    logits: &'a [f32],
    target: usize,
    out: &'a mut f32,
}

impl Kernel for LogProb<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let lowest = f32::NEG_INFINITY;
        let largest = self.logits.iter().fold(lowest, |m, &x| if x > m { x } else { m });
        let shift = s.splat(largest);
        // f32 within a stretch of 64 vectors, f64 over all of them.
        let mut total = 0.0_f64;
        for stretch in self.logits.chunks(64 * LANES) {
            let mut sum = s.splat(0.0);
            for part in stretch.chunks(LANES) {
                let v = s.keep(load_part(s, part), 0, part.len(), s.splat(lowest));
                sum = s.add(sum, exp(s, s.sub(v, shift)));
            }
            total += f64::from(s.sum_lanes(sum));
        }
        *self.out = (f64::from(self.logits[self.target]) - f64::from(largest) - total.ln()) as f32;
    }
}
