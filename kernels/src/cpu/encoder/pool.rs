//! One row of each sequence.

use super::packed::Packed;
use crate::contract::{check_room, product};
use crate::cpu::pool::Pool;
use crate::{KernelError, PoolingKind};

pub(super) fn pool(
    pool: &Pool,
    out: &mut [f32],
    x: &[f32],
    packed: &Packed,
    (kind, cols): (PoolingKind, usize),
) -> Result<(), KernelError> {
    const OP: &str = "pool";
    let seqs = packed.seqs();
    check_room(OP, "elements of x", product(&[packed.tokens(), cols]), x.len())?;
    check_room(OP, "elements of out", product(&[seqs, cols]), out.len())?;
    let cols = cols.max(1);
    pool.for_rows(&mut out[..seqs * cols], cols, 1, |_, seq, row| {
        let (from, to) = packed.tokens_of(seq);
        let rows = &x[from * cols..to * cols];
        match kind {
            PoolingKind::First => row.copy_from_slice(&rows[..cols]),
            PoolingKind::Last => row.copy_from_slice(&rows[rows.len() - cols..]),
            PoolingKind::Mean => {
                row.fill(0.0);
                for x in rows.chunks_exact(cols) {
                    row.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                }
                let count = (to - from) as f32;
                row.iter_mut().for_each(|sum| *sum /= count);
            }
            PoolingKind::Max => {
                row.copy_from_slice(&rows[..cols]);
                for x in rows.chunks_exact(cols) {
                    row.iter_mut().zip(x).for_each(|(largest, x)| *largest = largest.max(*x));
                }
            }
        }
    })
}
