//! The sum of a token's embeddings, normalised.

use super::norm::{Norm, NormRows};
use super::packed::Packed;
use crate::contract::{check_room, product, shape_error};
use crate::cpu::CpuBuf;
use crate::cpu::isa::Dispatch;
use crate::cpu::pool::Pool;
use crate::{EmbeddingTables, KernelError, LayerNorm};

const OP: &str = "embed_packed";

pub(super) fn embed(
    (pool, isa): (&Pool, Dispatch),
    out: &mut [f32],
    tables: &EmbeddingTables<'_, CpuBuf>,
    norm: &LayerNorm<'_, CpuBuf>,
    packed: &Packed,
) -> Result<(), KernelError> {
    let norm = Norm::checked(OP, norm)?;
    let (tokens, hidden) = (packed.tokens(), norm.weight.len());
    check_room(OP, "elements of out", product(&[tokens, hidden]), out.len())?;
    let words = Table::checked(Some(tables.words), packed.ids(), hidden, "token id")?;
    let positions = Table::checked(tables.positions, packed.positions(), hidden, "position")?;
    let types = Table::checked(tables.types, packed.types(), hidden, "token type")?;
    pool.for_rows(&mut out[..tokens * hidden], hidden, pool.grain(tokens, 4 * hidden), |_, first, rows| {
        for (i, row) in rows.chunks_exact_mut(hidden.max(1)).enumerate() {
            row.fill(0.0);
            for row_of in [&words, &positions, &types].into_iter().filter_map(|table| table.row(first + i)) {
                row.iter_mut().zip(row_of).for_each(|(sum, value)| *sum += value);
            }
        }
        isa.run(NormRows { rows, delta: None, norm });
    })
}

/// A table and the rows that the tokens ask for, all of which it has; or none.
struct Table<'a>(Option<(&'a [f32], &'a [u32])>, usize);

impl<'a> Table<'a> {
    fn checked(
        table: Option<&'a CpuBuf>,
        rows: &'a [u32],
        cols: usize,
        what: &'static str,
    ) -> Result<Self, KernelError> {
        let Some(table) = table else { return Ok(Self(None, cols)) };
        let available = table.len() / cols.max(1);
        match rows.iter().find(|&&row| row as usize >= available) {
            Some(&row) => Err(shape_error(OP, what, row as usize, available)),
            None => Ok(Self(Some((table, rows)), cols)),
        }
    }

    fn row(&self, token: usize) -> Option<&'a [f32]> {
        let (table, rows) = self.0?;
        table.get(rows[token] as usize * self.1..)?.get(..self.1)
    }
}
