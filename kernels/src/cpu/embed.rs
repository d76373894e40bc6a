//! Embedding look-up, out of the panels that the tied output head multiplies with.

use super::isa::Dispatch;
use super::matrix::{Data, Matrix};
use super::panel::{Element, LANES, panel_len, with_panels};
use super::pool::Pool;
use super::step::Step;
use super::{check_room, product, quant, shape_error};
use crate::KernelError;

/// `out[t] = table[ids[t]] * scale`.
pub(crate) fn embed(
    (pool, isa): (&Pool, Dispatch),
    out: &mut [f32],
    table: &Matrix,
    step: &Step,
    scale: f32,
) -> Result<(), KernelError> {
    const OP: &str = "embed";
    let (tokens, hidden) = (step.tokens(), table.cols());
    check_room(OP, "elements of out", product(&[tokens, hidden]), out.len())?;
    if let Some(&id) = step.ids().iter().find(|&&id| id as usize >= table.rows()) {
        return Err(shape_error(OP, "token id", id as usize, table.rows()));
    }
    let out = &mut out[..tokens * hidden];
    pool.for_rows(out, hidden, pool.grain(tokens, 4 * hidden), |_, first, rows| {
        for (row, &id) in rows.chunks_exact_mut(hidden).zip(&step.ids()[first..]) {
            copy_row(isa, row, table, id as usize, scale);
        }
    })
}

fn copy_row(isa: Dispatch, out: &mut [f32], table: &Matrix, mut row: usize, scale: f32) {
    for band in table.bands() {
        if row < band.rows {
            return match &band.data {
                Data::Floats(panels) => with_panels!(panels, data => copy_floats(out, data, row, scale)),
                Data::Blocks(blocks, panels) => quant::copy_row(isa, *blocks, panels, row, (out, scale)),
            };
        }
        row -= band.rows;
    }
}

fn copy_floats<W: Element>(out: &mut [f32], data: &[W], row: usize, scale: f32) {
    let len = panel_len(out.len());
    let panel = &data[row / LANES * len..][..len];
    for (col, out) in out.iter_mut().enumerate() {
        *out = panel[W::offset(col, row % LANES)].to_f32() * scale;
    }
}
